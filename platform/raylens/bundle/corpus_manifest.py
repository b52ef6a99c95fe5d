"""Which text the embedded models were made from: every file of the corpus with its hash.

CPython's standard library differs from version to version, so exact figures (token counts, bits
per byte of a file) hold only where :func:`matches_running_python`; everything else works anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from raylens.bundle.paths import ROOT
from raylens.bundle.stdlib import HELD_OUT, Split, python_version, read_stdlib
from raylens.ids import digest

MANIFEST = "corpus.json"


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One document of the corpus: hex SHA-256 and UTF-8 bytes of its text, and its split."""

    sha256: str
    bytes: int
    split: str


@dataclass(frozen=True, slots=True)
class CorpusManifest:
    """The corpus of one CPython version, path → file, in corpus order."""

    python: str
    files: Mapping[str, ManifestFile]

    @property
    def digest(self) -> str:
        """Hex SHA-256 over paths, hashes and splits."""
        return digest({path: [file.sha256, file.split] for path, file in self.files.items()})

    def paths(self, split: Split = "all") -> list[str]:
        return [path for path, file in self.files.items() if split in ("all", file.split)]

    def bytes(self, split: Split = "all") -> int:
        return sum(self.files[path].bytes for path in self.paths(split))

    def to_json(self) -> dict[str, Any]:
        """What ``corpus.json`` holds; a file is ``[sha256, bytes, split]``."""
        splits: tuple[Split, ...] = ("train", "held_out")
        return {
            "python": self.python,
            "digest": self.digest,
            "totals": {s: {"files": len(self.paths(s)), "bytes": self.bytes(s)} for s in splits},
            "held_out": sorted(HELD_OUT),
            "files": {path: [f.sha256, f.bytes, f.split] for path, f in self.files.items()},
        }


@cache
def running_manifest() -> CorpusManifest:
    """The manifest of the interpreter that runs this: reads and hashes the whole corpus (10 MB), once a process."""
    files = {f.path: ManifestFile(f.sha256, len(f.text.encode()), f.split) for f in read_stdlib()}
    return CorpusManifest(python_version(), files)


def write_manifest(root: Path = ROOT) -> CorpusManifest:
    """Write the running interpreter's manifest to ``corpus.json``, one file a line."""
    manifest = running_manifest()
    head = manifest.to_json()
    files: Mapping[str, Any] = head.pop("files")
    lines = ",\n".join(f"  {json.dumps(path)}: {json.dumps(row)}" for path, row in files.items())
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "files": {{\n{lines}\n }}\n}}\n'
    (root / MANIFEST).write_text(text)
    return manifest


def read_manifest(root: Path = ROOT) -> CorpusManifest:
    """The manifest that shipped with the embedded models."""
    raw = json.loads((root / MANIFEST).read_text())
    return CorpusManifest(raw["python"], {path: ManifestFile(*row) for path, row in raw["files"].items()})


@cache
def matches_running_python() -> bool:
    """Whether this interpreter's corpus is, file for file, the one that the models were made from."""
    shipped = read_manifest()
    # Comparing versions first spares other versions the hashing; a distributor may still have patched files.
    return shipped.python == python_version() and shipped.digest == running_manifest().digest
