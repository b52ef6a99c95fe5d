"""What a source's content is, as JSON: the part of a cache's identity that stands for text.

Only content counts: not where files lie, nor how ``--text`` spelled them.

* files: SHA-256 over (path below the source's folder, size, SHA-256) of each. A file above
  ``WHOLE_BYTES`` is known by its size, its modification time and the hash of its first and last
  ``EDGE_BYTES`` instead; ``sampled`` counts those.
* stdlib: the Python version and a SHA-256 over the files.
* hub: repository, commit, config, split and slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from raylens.bundle.stdlib import python_version, read_stdlib
from raylens.errors import CorpusError
from raylens.sources import hub
from raylens.sources.files import TextFile, find_files
from raylens.sources.spec import FileSource, HubSource, StdlibSource, TextSource

WHOLE_BYTES = 256 * 1024 * 1024
"""Largest file that is hashed whole."""

EDGE_BYTES = 1024 * 1024


def fingerprint(source: TextSource) -> Mapping[str, object]:
    """The JSON-able identity of what ``source`` holds now.

    Raises:
        CorpusError: files are missing or cannot be read.
        UnknownNameError, HubUnreachableError: a data set cannot be resolved.
    """
    match source:
        case StdlibSource():
            return _stdlib(source)
        case FileSource():
            return _files(source)
        case HubSource():
            pinned = source if source.revision and source.config else hub.pin(source)
            return {
                "kind": "hub",
                "repo": pinned.repo,
                "revision": pinned.revision,
                "config": pinned.config,
                "split": str(pinned.split),
                "column": pinned.column,
            }


def _stdlib(source: StdlibSource) -> Mapping[str, object]:
    total, n = hashlib.sha256(), 0
    for file in read_stdlib(source.part):
        total.update(f"{file.path}\0{file.sha256}\n".encode())
        n += 1
    return {
        "kind": "stdlib",
        "part": source.part,
        "python": python_version(),
        "files": n,
        "sha256": total.hexdigest(),
    }


def _files(source: FileSource) -> Mapping[str, object]:
    files = find_files(source)
    total, n_bytes, sampled, rows = hashlib.sha256(), 0, 0, False
    for file in files:
        size, content, whole = _file(file)
        total.update(f"{file.name}\0{size}\0{content}\n".encode())
        n_bytes += size
        sampled += not whole
        rows = rows or file.is_rows
    return {
        "kind": "files",
        "files": len(files),
        "bytes": n_bytes,
        "sampled": sampled,
        "sha256": total.hexdigest(),
        "column": source.column if rows else None,
    }


def _file(file: TextFile) -> tuple[int, str, bool]:
    """Size in bytes, hash, and whether the hash is of the whole file."""
    try:
        with file.path.open("rb") as opened:
            stat = file.path.stat()
            if stat.st_size <= WHOLE_BYTES:
                return stat.st_size, hashlib.file_digest(opened, "sha256").hexdigest(), True
            edges = hashlib.sha256(str(stat.st_mtime_ns).encode())
            edges.update(opened.read(EDGE_BYTES))
            opened.seek(-EDGE_BYTES, 2)
            edges.update(opened.read(EDGE_BYTES))
            return stat.st_size, edges.hexdigest(), False
    except OSError as error:
        raise CorpusError(
            f"{file.path} cannot be read: {error.strerror or error}.", hint="check the file and its rights."
        ) from None
