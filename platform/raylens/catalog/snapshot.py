"""sae-lens's directory as a small file, so that reading the catalogue needs neither torch nor sae-lens.

``raylens catalog refresh`` writes ``snapshot.json.gz`` beside this file; a test holds the committed
one against a fresh one. Reading the directory also corrects it, and says so in the row's note:

- a release listed under another model than its weights are of (:data:`CORRECTED_MODELS`);
- a Neuronpedia id that belongs to another SAE (other layer, kind, width or L0) is dropped;
- one weights file listed twice (Gemma Scope's ``-canonical`` releases) shares its Neuronpedia id.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from raylens.catalog.aliases import Aliases
from raylens.catalog.entries import CatalogEntry
from raylens.catalog.reading import Listing, Reading, read
from raylens.catalog.sources import LabelSource, label_problem
from raylens.errors import DamagedFileError, InputError
from raylens.ids import HookPoint, SaeId

PATH: Final = Path(__file__).with_name("snapshot.json.gz")
FORMAT: Final = 1

CORRECTED_MODELS: Final = {"gemma-scope-9b-it-res": "google/gemma-2-9b-it"}
"""Release → the model its weights are of, where the directory says otherwise.

``google/gemma-scope-9b-it`` holds SAEs of the instruction-tuned model; the directory has that for its
``-canonical`` release only.
"""

_STATED_L0: Final = re.compile(r"average_l0_([0-9]+)$")


def build() -> dict[str, Any]:
    """The snapshot's content, from the installed sae-lens; imports torch.

    Raises:
        ModuleNotFoundError: sae-lens is not installed.
    """
    # On import, bitsandbytes warns of an optional kernel package that it would download.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    aliases = Aliases()
    twins: dict[tuple[str, str], list[str]] = {}
    for release in directory.values():
        for name, path in release.saes_map.items():
            if source := release.neuronpedia_id.get(name):
                twins.setdefault((release.repo_id, path), []).append(source)
    releases: dict[str, Any] = {}
    for key, release in sorted(directory.items()):
        model = aliases.canonical(CORRECTED_MODELS.get(key, release.model))
        rows = []
        for name, path in sorted(release.saes_map.items()):
            own = release.neuronpedia_id.get(name)
            candidates = [*([own] if own else []), *sorted(twins.get((release.repo_id, path), ()))]
            listing = Listing(key, name, path, release.repo_id, model, release.conversion_func, own)
            rows.append(_row(listing, candidates, release.expected_l0.get(name) or None, aliases))
        releases[key] = {
            "model": model,
            "repo": release.repo_id,
            "note": _model_note(release.model, model, aliases),
            "saes": rows,
        }
    return {"format": FORMAT, "sae_lens": version("sae-lens"), "releases": releases}


def _model_note(listed: str, model: str, aliases: Aliases) -> str:
    return "" if aliases.canonical(listed) == model else f"sae-lens lists it under {listed}"


def _row(listing: Listing, candidates: list[str], l0: float | None, aliases: Aliases) -> list[Any]:
    reading = read(listing)
    label, note = None, ""
    for source in candidates:
        problem = _problem(source, listing, reading, aliases)
        if problem is None:
            label = source
            break
        note = note or f"sae-lens gives the label source {source}, which {problem}"
    hook = str(reading.hook) if reading.hook else None
    return [listing.name, hook, reading.layer, reading.width, reading.architecture, l0, label, note]


def _problem(source: str, listing: Listing, reading: Reading, aliases: Aliases) -> str | None:
    stated = _STATED_L0.search(listing.path)
    return label_problem(
        LabelSource.parse(source),
        model=listing.model,
        canonical=aliases.canonical,
        layer=reading.layer,
        hook=reading.hook,
        width=reading.width,
        l0=int(stated[1]) if stated else None,
    )


def encode(content: Mapping[str, Any]) -> bytes:
    """Compress a snapshot: the same content gives the same bytes, whenever and wherever (for one zlib)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def decode(data: bytes, where: Path = PATH) -> dict[str, Any]:
    """Undo :func:`encode`.

    Raises:
        DamagedFileError: the bytes are not a snapshot, or one of another format.
    """
    try:
        content = json.loads(gzip.decompress(data))
    except (OSError, EOFError, ValueError) as error:
        raise DamagedFileError(
            f"the catalogue snapshot {where} does not read: {error}.", hint="reinstall raylens."
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DamagedFileError(f"{where} is not a catalogue snapshot of format {FORMAT}.", hint="reinstall raylens.")
    return content


def write(content: Mapping[str, Any], path: Path = PATH) -> None:
    """Put a snapshot in place; a reader sees the old one or the new one.

    Raises:
        InputError: the folder cannot be written.
    """
    staged = path.with_name(f".{path.name}.new")
    try:
        staged.write_bytes(encode(content))
        staged.replace(path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path}: {error.strerror}.", hint="name a place that can be written with --output."
        ) from None


def release_entries(release: str, content: Mapping[str, Any]) -> tuple[CatalogEntry, ...]:
    """The rows of one release, ``content`` being ``snapshot["releases"][release]``, by layer, width and id."""
    model, repo, shared = content["model"], content["repo"], content["note"]
    rows = []
    for name, hook, layer, width, architecture, l0, label, note in content["saes"]:
        point, _, index = (hook or "").partition(".")
        rows.append(
            CatalogEntry(
                sae=SaeId(release, name),
                model=model,
                hook=HookPoint(point, int(index)) if hook else None,
                layer=layer,
                width=width,
                architecture=architecture,
                neuronpedia_id=label,
                source="sae-lens",
                note="; ".join(text for text in (shared, note) if text),
                repo=repo,
                l0=l0,
            )
        )
    return tuple(sorted(rows, key=CatalogEntry.order))
