"""SAEs on the hub: sae-lens's directory, or any repository with a folder in a known format.

Everything an SAE needs is fetched first, as one commit; sae-lens's own loader then reads it from the
cache. Left alone it asks the hub anew for every file, and for Gemma Scope 2 over plain HTTP even
where ``HF_HUB_OFFLINE`` forbids it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open

from raylens.bundle.paths import list_saes
from raylens.engine import hub
from raylens.engine.unpickle import unpickle_release
from raylens.errors import HubUnreachableError, InputError, UnknownNameError
from raylens.ids import SaeId, digest

if TYPE_CHECKING:
    from sae_lens import SAE

_PICKLED_LOADERS: Final = frozenset(
    {"connor_rob_hook_z", "deepseek_r1", "dictionary_learning_1", "goodfire", "qwen_scope"}
)
"""Loaders of sae-lens that unpickle."""

_OTHER_KINDS: Final = {
    "gemma_2_transcoder": "transcoder",
    "mntss_clt_layer_transcoder": "transcoder",
    "mwhanna_transcoder": "transcoder",
    "temporal": "temporal SAE",
}
"""Loaders of what is not an SAE of one tensor."""

_CONFIGS: Final = ("cfg.json", "config.json", "hyperparams.json")
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Release:
    """An entry of sae-lens's directory."""

    release: str
    name: str
    repo: str
    path: str
    loader: str


@dataclass(frozen=True, slots=True)
class Found:
    """An SAE on the hub; ``place`` is a directory entry, or the local copy of a folder."""

    fingerprint: str
    place: Release | Path


def find(sae: SaeId, *, weights: bool) -> Found:
    """Look ``sae`` up and fetch its files: all of them, or with ``weights=False`` its configuration.

    The fingerprint is of repository, commit and path.

    Raises:
        UnknownNameError: neither the directory nor the hub has it.
        InputError: its weights are pickled, or it is gated.
        HubUnreachableError: no hub, and not all of it is cached.
    """
    entry = _directory_entry(sae)
    if entry is not None:
        if entry.loader in _PICKLED_LOADERS:
            raise InputError(
                f"{sae} is published as a pickle, which could run code when loaded.",
                hint=f"convert it first: raylens convert {sae} --out FOLDER, then name that folder.",
            )
        if entry.loader in _OTHER_KINDS:
            raise InputError(
                f"{sae} is a {_OTHER_KINDS[entry.loader]}, which RayLens cannot encode with.",
                hint="name an SAE; raylens catalog lists them.",
            )
        _, commit = hub.fetch(entry.repo, _patterns(entry.path, weights))
        return Found(digest(f"{entry.repo}@{commit}/{entry.path}"), entry)
    repository, _, path = sae.name.partition("/")
    if not path:
        raise _unknown(sae)
    repo = f"{sae.release}/{repository}"
    folder, commit = hub.fetch(repo, [*_patterns(path, weights=True), "config.json"])
    if not (folder / path).exists():
        raise UnknownNameError(f"{repo} has no {path}.", hint=f"see https://huggingface.co/{repo}/tree/main.")
    return Found(digest(f"{repo}@{commit}/{path}"), folder / path)


def release_config(entry: Release) -> dict[str, Any]:
    """sae-lens's config of a directory entry, ``metadata`` included."""
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

    with hub.hub_errors(f"{entry.release}/{entry.name}"), _from_cache(entry):
        return load_sae_config_from_huggingface(entry.release, entry.name)


def load_release(entry: Release, device: str, dtype: str) -> SAE[Any]:
    """sae-lens's SAE of a directory entry whose files were fetched."""
    from sae_lens import SAE

    with hub.hub_errors(f"{entry.release}/{entry.name}"), _from_cache(entry):
        return SAE.from_pretrained(entry.release, entry.name, device=device, dtype=dtype)


def convert_release(sae: SaeId, folder: Path) -> list[str]:
    """Write an SAE that is published as a pickle into ``folder`` in SAELens's format.

    Returns:
        Names of what was left out.

    Raises:
        UnknownNameError: sae-lens's directory has no such SAE.
        InputError: it is no pickle, so that it needs no conversion.
        HubUnreachableError: no hub, and not all of it is cached.
    """
    entry = _directory_entry(sae)
    if entry is None:
        raise _unknown(sae)
    if entry.loader not in _PICKLED_LOADERS:
        raise InputError(f"{sae} is not published as a pickle.", hint=f"it can be used as it is: --sae {sae}.")
    settings = (f"{entry.path.removesuffix('.pt')}_cfg.json", ".gitattributes")
    hub.fetch(entry.repo, [entry.path, f"{entry.path}/*", *settings])
    return unpickle_release(entry.release, entry.name, folder, Path(constants.HF_HUB_CACHE))


def _directory_entry(sae: SaeId) -> Release | None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    release = directory.get(sae.release)
    if release is None:
        if "/" not in sae.name:
            raise _unknown(sae)
        return None
    if sae.name not in release.saes_map:
        raise UnknownNameError.among("SAE", str(sae), (f"{sae.release}/{name}" for name in release.saes_map))
    loader = release.conversion_func or "sae_lens"
    return Release(sae.release, sae.name, release.repo_id, release.saes_map[sae.name], loader)


def _unknown(sae: SaeId) -> UnknownNameError:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    bundled = [str(entry.id) for entry in list_saes()]
    known = [f"{name}/…" for name in get_pretrained_saes_directory()]
    return UnknownNameError.among("SAE", str(sae), [*bundled, *known], hint="raylens catalog lists them all.")


def _patterns(path: str, weights: bool) -> list[str]:
    if not weights:
        # Some releases have no such file; the last, which every repository has, still gives the commit.
        return [*(f"{path}/{name}" for name in _CONFIGS), ".gitattributes"]
    # Some paths name the weights file itself, and Gemma Scope's cross-layer ones lack its suffix.
    return [path, f"{path}/*", f"{path}.safetensors"]


@contextmanager
def _from_cache(entry: Release) -> Iterator[None]:
    """Let sae-lens read what was fetched, without asking the hub again."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    with _LOADING:
        offline, shapes = constants.HF_HUB_OFFLINE, loaders.get_safetensors_tensor_shapes

        def shapes_of(repo_id: str, filename: str) -> dict[str, list[int]]:
            if isinstance(try_to_load_from_cache(repo_id, filename), str):
                with safe_open(hf_hub_download(repo_id, filename), framework="pt") as stream:
                    return {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
            if offline:
                raise HubUnreachableError(
                    f"{repo_id} is not cached here (HF_HUB_OFFLINE is set).", hint="unset it, or fetch the SAE first."
                )
            return shapes(repo_id, filename)

        constants.HF_HUB_OFFLINE = True
        loaders.get_safetensors_tensor_shapes = shapes_of
        try:
            yield
        except LocalEntryNotFoundError as error:
            raise HubUnreachableError(
                f"{entry.release}/{entry.name} is not whole in the hub cache.", hint="fetch it again while online."
            ) from error
        finally:
            constants.HF_HUB_OFFLINE = offline
            loaders.get_safetensors_tensor_shapes = shapes
