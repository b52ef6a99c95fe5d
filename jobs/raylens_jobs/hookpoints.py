"""Which SAEs a model reference and ``--hookpoints`` mean (A1.03): releases, hub repositories and folders hold several.

====================================  ==========================================================
what is named                         the SAEs it holds
====================================  ==========================================================
``raylens-pico-res/layer_3``          that one
``raylens-pico-res``                  a release of the catalogue: one a row
``EleutherAI/sae-llama-3-8b-32x``     a hub repository: one a folder that has a configuration
a folder with an SAE's files          that one
a folder of such folders              one a folder, at any depth
====================================  ==========================================================

A word of ``--hookpoints`` picks those with that hook point, in whichever spelling (``layers.16``,
``resid_post.16``, ``blocks.16.hook_resid_post``), or that name within the release, repository or folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from raylens.catalog.entries import CatalogEntry
from raylens.catalog.lookup import Catalog
from raylens.catalog.points import KNOWN, from_transformer_lens
from raylens.errors import HubUnreachableError, InputError, UnknownNameError
from raylens.home import from_home
from raylens.ids import HookPoint

_SHOWN: Final = 8
_CONFIGS: Final = ("cfg.json", "params.npz", "config.json")
_WEIGHTS: Final = ("sae_weights.safetensors", "sae.safetensors", "params.npz", "ae.safetensors")
_HOOK_KEYS: Final = ("hook_name", "hook_point", "hookpoint", "submodule_name")
_MODULE: Final = re.compile(r"(?:\w+\.)*(?:layers|h|blocks|block)\.([0-9]+)(?:\.(mlp|attn|attention|self_attn))?")
_SUBLAYERS: Final = {None: "resid_post", "mlp": "mlp_out"}


@dataclass(frozen=True, slots=True)
class Placed:
    """One SAE.

    Attributes:
        ref: What loads it.
        word: What its results are called: the hook point as the user, or else the release, calls it.
    """

    ref: str
    word: str


@dataclass(frozen=True, slots=True)
class _Known:
    """One SAE that there is: its name among the others, and its hook point where that is known."""

    ref: str
    name: str
    hook: HookPoint | None


def saes_at(sparse_model: str, hookpoints: Sequence[str], catalog: Catalog) -> list[Placed]:
    """The SAEs that are meant, in the order of ``hookpoints``, or else of the release.

    Raises:
        UnknownNameError: A hook point at which there is none, or no such release, repository or folder.
        InputError: A hook point at which there are several.
        HubUnreachableError: It is a hub repository, and neither the hub nor a copy can be read.
    """
    try:
        known = _there_is(sparse_model, catalog)
    except HubUnreachableError:
        if not hookpoints:
            raise
        # Nobody to ask what the repository holds; what is named may lie in the hub cache.
        return [Placed(f"{sparse_model}/{word}", word) for word in hookpoints]
    if not hookpoints:
        return _all_of(sparse_model, known)
    placed = [Placed(_one(sparse_model, word, known).ref, word) for word in hookpoints]
    twice = {one.ref for one in placed if sum(one.ref == other.ref for other in placed) > 1}
    if twice:
        words = ", ".join(one.word for one in placed if one.ref in twice)
        raise InputError(f"--hookpoints {words} name one and the same SAE.", hint="name each once.")
    return placed


def _all_of(sparse_model: str, known: Sequence[_Known]) -> list[Placed]:
    hooks = [str(one.hook) for one in known if one.hook is not None]
    several = next((hook for hook in hooks if hooks.count(hook) > 1), None)
    if several is not None:
        names = [one.name for one in known if str(one.hook) == several]
        raise InputError(
            f"{sparse_model} has {len(names)} SAEs at {several} alone.",
            hint=f"pick some with --hookpoints, by name: {_listed(names)}.",
        )
    return [Placed(one.ref, one.name) for one in known]


def _one(sparse_model: str, word: str, known: Sequence[_Known]) -> _Known:
    point = point_of(word)
    found = [one for one in known if one.name == word]
    found = found or [one for one in known if point is not None and one.hook == point]
    found = found or [one for one in known if one.name.startswith(f"{word}/") or one.name.endswith(f"/{word}")]
    if not found:
        raise UnknownNameError.among(f"hook point of {sparse_model}", word, (one.name for one in known))
    if len(found) > 1:
        raise InputError(
            f"{sparse_model} has {len(found)} SAEs at {word}.",
            hint=f"write one of {_listed([one.name for one in found])}.",
        )
    return found[0]


def point_of(word: str) -> HookPoint | None:
    """The canonical point that ``word`` names in any spelling; None where it names none.

    ``layers.5`` is a block's output, as SAE trainers name their folders, and ``layers.5.mlp`` its MLP's.
    """
    if found := from_transformer_lens(word):
        return found
    if match := _MODULE.fullmatch(word.removeprefix("path.")):
        return HookPoint(_SUBLAYERS.get(match[2], "attn_out"), int(match[1]))
    try:
        found = HookPoint.parse(word)
    except InputError:
        return None
    return found if found.is_module_path or found.name in KNOWN else None


def _there_is(sparse_model: str, catalog: Catalog) -> list[_Known]:
    path = from_home(sparse_model)
    if path.exists() or sparse_model.startswith(("/", "~", ".")):
        return _in_folder(path)
    release, _, name = sparse_model.partition("/")
    rows: Sequence[CatalogEntry] = ()
    if release in catalog.release_names:
        rows = catalog.release(release)
        if name:
            rows = [row for row in rows if row.sae.name == name] or [catalog.entry(sparse_model)]
    else:
        try:
            rows = catalog.release(sparse_model)  # a repository that the directory knows
        except UnknownNameError:
            if not name:
                raise
    if rows:
        return [_Known(str(row.sae), row.sae.name, row.hook) for row in rows]
    return _in_repository(sparse_model)


def _in_folder(path: Path) -> list[_Known]:
    if path.is_file() or _holds_sae(file.name for file in _files(path)):
        return [_Known(str(path), path.name, point_of(path.name) or _stated(path))]
    if not path.is_dir():
        raise InputError(f"there is no folder {path}.", hint="name a folder that holds SAEs, or a release.")
    below = sorted({file.parent for name in _CONFIGS for file in path.rglob(name)})
    names = [folder.relative_to(path).as_posix() for folder in below if _holds_sae(f.name for f in _files(folder))]
    if not names:
        raise InputError(
            f"{path} holds no SAE, and neither does a folder below it.",
            hint="pickles are converted first: raylens convert FILE --out FOLDER.",
        )
    return [_Known(str(path / name), name, point_of(name) or _stated(path / name)) for name in _in_order(names)]


def _stated(folder: Path) -> HookPoint | None:
    """The hook point that a folder's configuration names, in whichever of the formats."""
    for name in _CONFIGS:
        try:
            config = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        places = [config, config.get("metadata"), config.get("trainer")] if isinstance(config, dict) else []
        words = [one.get(key) for one in places if isinstance(one, dict) for key in _HOOK_KEYS]
        point = next((point_of(word) for word in words if isinstance(word, str)), None)
        if point is not None:
            return point
    return None


def _in_repository(repository: str) -> list[_Known]:
    from huggingface_hub import HfApi

    from raylens.engine import hub

    hub.prepare()
    owner_and_name, folder = "/".join(repository.split("/")[:2]), "/".join(repository.split("/")[2:])
    if folder:
        return [_Known(repository, PurePosixPath(folder).name, point_of(PurePosixPath(folder).name))]
    with hub.hub_errors(owner_and_name):
        files = HfApi().list_repo_files(owner_and_name)
    folders: dict[str, list[str]] = {}
    for file in files:
        place, _, name = file.rpartition("/")
        folders.setdefault(place, []).append(name)
    names = [place for place, inside in folders.items() if place and _holds_sae(inside)]
    if not names:
        raise InputError(
            f"{owner_and_name} holds no folder with an SAE.",
            hint="SAELens, sparsify, dictionary_learning and Gemma Scope folders are read; raylens catalog lists some.",
        )
    return [_Known(f"{owner_and_name}/{name}", name, point_of(name)) for name in _in_order(names)]


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []


def _holds_sae(names: Iterable[str]) -> bool:
    there = set(names)
    return any(name in there for name in _WEIGHTS) and any(name in there for name in _CONFIGS)


def _in_order(names: Iterable[str]) -> list[str]:
    """``layers.9`` before ``layers.10``."""
    return sorted(names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", name)])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
