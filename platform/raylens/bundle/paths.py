"""Where the embedded models lie, by the names people use for them; nothing here imports torch.

======================================  ==============================
name                                    folder, inside this package
======================================  ==============================
model ``raylens/pico``                  ``pico/``
SAE ``raylens-pico-res/layer_<N>``      ``saes/layer_<N>/``
the sentence embedding                  ``embedding/``
sample traces                           ``traces/``
======================================  ==============================
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from raylens.ids import HookPoint, SaeId

PICO: Final = "raylens/pico"
PICO_SAES: Final = "raylens-pico-res"
ROOT: Final = Path(__file__).parent

_HASHES = "hashes.json"
_SAE_NAME = re.compile(r"layer_([0-9]+)")
# Data files are told from this package's own code by suffix.
_DATA_SUFFIXES = frozenset({".json", ".safetensors", ".md", ".txt", ".parquet"})


class BundledSae(NamedTuple):
    """One shipped SAE; ``width`` is its number of latents."""

    id: SaeId
    hook: HookPoint
    width: int
    model: str


def model_path(ref: str, root: Path = ROOT) -> Path | None:
    """The folder of a bundled model in transformers format, or None where ``ref`` names none."""
    return root / "pico" if ref == PICO else None


def sae_path(sae: SaeId, root: Path = ROOT) -> Path | None:
    """The folder of a bundled SAE in SAELens format, or None where ``sae`` is not in the bundle."""
    folder = root / "saes" / sae.name
    if sae.release != PICO_SAES or not _SAE_NAME.fullmatch(sae.name) or not (folder / "cfg.json").is_file():
        return None
    return folder


def embedding_path(root: Path = ROOT) -> Path:
    """The folder of the sentence embedding, in sentence-transformers format."""
    return root / "embedding"


def list_models() -> list[str]:
    """Names that :func:`model_path` knows."""
    return [PICO]


def list_saes(root: Path = ROOT) -> list[BundledSae]:
    """The shipped SAEs by layer, from their ``cfg.json``; no weights are read."""
    found = []
    for config in (root / "saes").glob("layer_*/cfg.json"):
        if match := _SAE_NAME.fullmatch(config.parent.name):
            width = int(json.loads(config.read_text())["d_sae"])
            hook = HookPoint("resid_post", int(match[1]))
            found.append(BundledSae(SaeId(PICO_SAES, match[0]), hook, width, PICO))
    return sorted(found, key=lambda sae: sae.hook.layer or 0)


def bundle_files(root: Path = ROOT) -> list[Path]:
    """Every data file of the bundle, sorted by path; the list of hashes itself is left out."""
    wanted = (p for p in root.rglob("*") if p.suffix in _DATA_SUFFIXES and p.is_file())
    return sorted(p for p in wanted if p.relative_to(root).as_posix() != _HASHES)


def bundle_size(root: Path = ROOT) -> int:
    """Bytes of all data files of the bundle."""
    return sum(p.stat().st_size for p in bundle_files(root))


def write_hashes(root: Path = ROOT) -> Mapping[str, str]:
    """Hash every data file into ``hashes.json``, and return path → hex SHA-256."""
    hashes = {p.relative_to(root).as_posix(): _sha256(p) for p in bundle_files(root)}
    (root / _HASHES).write_text(json.dumps(hashes, indent=1) + "\n")
    return hashes


def bundle_hashes(root: Path = ROOT) -> Mapping[str, str]:
    """Path → hex SHA-256 of every data file, as they were shipped."""
    return json.loads((root / _HASHES).read_text())


def damaged_files(root: Path = ROOT) -> list[str]:
    """Paths of shipped data files that are missing, differ from their hash, or were added since."""
    present = {p.relative_to(root).as_posix(): p for p in bundle_files(root)}
    shipped = bundle_hashes(root)
    changed = [name for name, sha in shipped.items() if name not in present or _sha256(present[name]) != sha]
    return sorted([*changed, *(present.keys() - shipped.keys())])


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
