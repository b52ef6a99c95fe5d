"""Vectors of all full pieces of a cache: what negatives that read alike are found by.

They depend on the text, the length of a piece and the embedding model; not on the SAE, nor on how documents
are split between explainers and scorers. So they are made once a corpus::

    caches/<cache>/pieces/<key>/settings.json             model, its revision, tokens of a piece
    caches/<cache>/pieces/<key>/<window>-<8 hex>.npy      float16 [pieces, dim], the pieces of some windows
    caches/<cache>/pieces/<key>/<window>-<8 hex>.json     manifest row, written last
    caches/<cache>/pieces/<key>/index-<16 hex>.faiss      all of them, to be searched (piece_index.py)
    caches/<cache>/pieces/<key>/index-<16 hex>.json       manifest row, written last
    caches/<cache>/pieces/used-<16 hex>.json              which key a model's name meant last

A file without its row does not exist. The name of a file tells the merged windows that it was made from, so
a cache that grew embeds what is new and finds the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from raylens.errors import DamagedFileError
from raylens.ids import digest
from raylens.store.compact import WINDOWS_PER_GROUP
from raylens.store.manifest import Manifest
from raylens.store.parquet import TableFile
from raylens.store.workspace import CacheStore

FOLDER: Final = "pieces"
VERSION: Final = 1
"""Of what a piece's text is: raised, it makes vectors anew."""
WINDOWS_PER_SHARD: Final = 16 * WINDOWS_PER_GROUP
"""About a second of the bundled embedding, half a minute of a small transformer on a CPU."""

Row = TypeVar("Row", bound=BaseModel)

_REMEDY: Final = "remove it and the .json beside it, then run the same command again."
_WINDOWS_REMEDY: Final = "remove it, then run the same cache command again: it merges anew from what is stored."


@dataclass(frozen=True, slots=True)
class WindowRange:
    """Consecutive windows of one merged file, whose pieces are embedded together.

    Attributes:
        path: The file, relative to the workspace.
        first: Number of the first window.
        n_windows: How many.
        group: Row group of the file that begins with the first.
    """

    path: str
    first: int
    n_windows: int
    group: int

    @property
    def name(self) -> str:
        """Of the files made from it; the path tells what the merged file was made of."""
        return f"{self.first:08d}-{digest({'path': self.path, 'n': self.n_windows})[:8]}"


class PieceRow(BaseModel):
    """The manifest row of one file of vectors.

    Attributes:
        windows: The merged files that it was made from.
        pieces: How many vectors; with 0 there is no file.
        dim: Their dimension, 0 of none.
        bytes: Size of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: tuple[str, ...]
    pieces: int
    dim: int
    bytes: int


class _MadeFrom(BaseModel):
    """What the rows of vectors and of indexes have in common; ``settings.json`` has none of it."""

    windows: tuple[str, ...]


class PieceVectors:
    """The vectors of one corpus by one model, as far as they were made.

    Args:
        cache: Whose windows.
        model: Name of the embedding model, for people.
        revision: What identifies its weights.
        length: Tokens of a piece.
    """

    def __init__(self, cache: CacheStore, model: str, revision: str, length: int) -> None:
        self.cache, self.length = cache, length
        self.settings = {"model": model, "revision": revision, "length": length, "version": VERSION}
        self.key = digest({name: self.settings[name] for name in ("revision", "length", "version")})[:16]
        self.folder = f"{cache.folder}/{FOLDER}/{self.key}"

    def begin(self) -> None:
        """Note what is embedded by what, for people; harmless where it is noted already."""
        if not self.cache.files.exists(path := f"{self.folder}/settings.json"):
            self.cache.files.commit_json(path, self.settings)

    def rows(self, ranges: Sequence[WindowRange]) -> list[PieceRow | None]:
        """The manifest row of each range, None where it has not been embedded or its file is not whole."""
        return _rows(self.cache, self.folder, ranges)

    def write(self, of: WindowRange, vectors: NDArray[np.floating]) -> PieceRow:
        """Commit the unit vectors ``[pieces, dim]`` of a range, and last the row that makes them exist."""
        path, size = f"{self.folder}/{of.name}.npy", 0
        if len(vectors):
            with self.cache.files.staged(path) as local, local.open("wb") as stream:
                np.save(stream, vectors.astype(np.float16), allow_pickle=False)
            size = self.cache.files.size(path)
        row = PieceRow(windows=(of.path,), pieces=len(vectors), dim=vectors.shape[1] if size else 0, bytes=size)
        self.cache.files.commit(f"{self.folder}/{of.name}.json", row.model_dump_json().encode())
        return row

    def read(self, of: WindowRange) -> NDArray[np.float16]:
        """The vectors of a range that has some, ``[pieces, dim]``; mapped where the workspace is on a disk.

        Raises:
            DamagedFileError: The file is missing or is not what was written.
        """
        files, path = self.cache.files, f"{self.folder}/{of.name}.npy"
        try:
            if files.local:
                return np.load(files.native(path), mmap_mode="r", allow_pickle=False)
            return np.load(BytesIO(files.read_bytes(path)), allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise DamagedFileError(f"{files.native(path)} is missing or damaged.", hint=_REMEDY) from error


def window_ranges(manifest: Manifest) -> list[WindowRange]:
    """All windows of a generation, cut into ranges, in order."""
    found: list[WindowRange] = []
    for entry in sorted(manifest.of("windows"), key=lambda entry: entry.window_first or 0):
        begin = entry.window_first or 0
        for first in range(0, entry.rows, WINDOWS_PER_SHARD):
            n_windows = min(WINDOWS_PER_SHARD, entry.rows - first)
            found.append(WindowRange(entry.path, begin + first, n_windows, first // WINDOWS_PER_GROUP))
    return found


def read_texts(cache: CacheStore, of: WindowRange, length: int, n_prefix: int) -> list[str]:
    """Text of every full piece of some windows, in order of (window, piece).

    Raises:
        DamagedFileError: The file of windows is missing, truncated, or fails a checksum.
    """
    groups = range(of.group, of.group + -(-of.n_windows // WINDOWS_PER_GROUP))
    with TableFile(cache.files, of.path, remedy=_WINDOWS_REMEDY) as file:
        return list(_full_pieces(file.read(groups, ["token_offsets", "text"]), length, n_prefix))


def _full_pieces(windows: pa.Table, length: int, n_prefix: int) -> Iterator[str]:
    offsets = windows["token_offsets"].combine_chunks()
    ends, first_characters = offsets.offsets.to_numpy(), offsets.values.to_numpy()
    for row, text in enumerate(windows["text"].to_pylist()):
        own = first_characters[ends[row] + n_prefix : ends[row + 1]]
        bounds = [*own[::length].tolist(), len(text)]
        for piece in range(len(own) // length):
            yield text[bounds[piece] : bounds[piece + 1]]


def superseded_pieces(cache: CacheStore, manifest: Manifest, paths: Iterable[str]) -> set[str]:
    """Those of ``paths`` that are vectors or indexes, or rows of such, made from windows that readers see no more."""
    listed = {entry.path for entry in manifest.of("windows")}
    found: set[str] = set()
    for path in paths:
        if path.startswith(f"{cache.folder}/{FOLDER}/") and path.endswith(".json"):
            row = read_row(cache, path, _MadeFrom)
            if row is not None and not listed.issuperset(row.windows):
                stem = path.removesuffix(".json")
                found |= {path, f"{stem}.npy", f"{stem}.faiss"}
    return found


def _rows(cache: CacheStore, folder: str, ranges: Sequence[WindowRange]) -> list[PieceRow | None]:
    sizes = {one.path: one.size for one in cache.files.scan(folder) if not one.temporary}
    found: list[PieceRow | None] = []
    for of in ranges:
        row = read_row(cache, f"{folder}/{of.name}.json", PieceRow) if f"{folder}/{of.name}.json" in sizes else None
        whole = row is not None and sizes.get(f"{folder}/{of.name}.npy", 0) == row.bytes
        found.append(row if whole else None)
    return found


def read_row(cache: CacheStore, path: str, kind: type[Row]) -> Row | None:
    """A manifest row; None where there is none, or it cannot be read."""
    try:
        return kind.model_validate_json(cache.files.read_bytes(path))
    except (FileNotFoundError, ValidationError):
        return None
