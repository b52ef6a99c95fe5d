"""Content hashes of weights: the identity of a model or SAE that has no commit hash.

A name does not identify weights: a folder can be trained further, copied or moved. So the
fingerprint is of content alone (no path, no time), the same on every node that has the same bytes.
Up to ``HASHED_WHOLE`` bytes are hashed in full. Beyond, 64 KiB of every MiB are: 16 GB are then
known in a second or two, and any edit that spans a MiB of one file (every fine-tune, merged adapter
or edited matrix does) changes the result; a smaller edit of so large a file may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

HASHED_WHOLE: Final = 2 << 30
"""Total size, in bytes, up to which everything is hashed."""

_STRIDE: Final = 1 << 20
_SAMPLE: Final = 64 << 10


def of_files(paths: Iterable[Path]) -> str:
    """Hex SHA-256 over the names, sizes and content of ``paths``, in order of name."""
    files = sorted(paths, key=lambda path: path.name)
    whole = sum(path.stat().st_size for path in files) <= HASHED_WHOLE
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            if whole:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            else:
                content = _sampled(stream, path.stat().st_size)
        total.update(f"{path.name}\0{path.stat().st_size}\0{content}\n".encode())
    return total.hexdigest()


def _sampled(stream: BinaryIO, size: int) -> str:
    content = hashlib.sha256()
    for start in (*range(0, size, _STRIDE), max(0, size - _SAMPLE)):
        stream.seek(start)
        content.update(stream.read(_SAMPLE))
    return content.hexdigest()
