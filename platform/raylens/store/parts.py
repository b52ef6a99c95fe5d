"""Merged files that a killed merge finds again: each has a row beside it, committed last, as a shard has.

``<path>.parquet`` and ``<path>.json`` with its manifest entry. A file counts as made if the entry is
readable and the file has its size, or if the generation that readers see lists it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from pydantic import ValidationError

from raylens.errors import RunError
from raylens.store.manifest import FileEntry, Kind
from raylens.store.parquet import Layout, TableWriter, table_writer
from raylens.store.workspace import CacheStore


class PartWriter:
    """Takes the rows of one merged file; after its block, ``entry`` is the manifest entry."""

    def __init__(self, writer: TableWriter) -> None:
        self._writer = writer
        self._entry: FileEntry | None = None

    def append(self, table: pa.Table) -> None:
        """Add rows, in row groups of the layout's size."""
        self._writer.append(table)

    def group(self, table: pa.Table) -> None:
        """Add rows as one row group."""
        self._writer.group(table)

    @property
    def entry(self) -> FileEntry:
        if self._entry is None:
            raise RunError("this part is not committed yet.", hint="this is a defect of RayLens: please report it.")
        return self._entry

    @entry.setter
    def entry(self, entry: FileEntry) -> None:
        self._entry = entry


@contextmanager
def part(
    cache: CacheStore,
    path: str,
    layout: Layout,
    *,
    kind: Kind,
    sae: str | None = None,
    feature_first: int | None = None,
    feature_last: int | None = None,
    window_first: int | None = None,
    window_last: int | None = None,
) -> Iterator[PartWriter]:
    """Write one merged file and, when it is committed, its entry."""
    with table_writer(cache.files, path, layout) as table:
        writer = PartWriter(table)
        yield writer
    writer.entry = FileEntry(
        kind=kind,
        path=path,
        rows=table.n_rows,
        bytes=cache.files.size(path),
        sae=sae,
        feature_first=feature_first,
        feature_last=feature_last,
        window_first=window_first,
        window_last=window_last,
    )
    cache.files.commit(_row_path(path), writer.entry.model_dump_json().encode())


def made(cache: CacheStore, path: str) -> FileEntry | None:
    """The entry of a merged file that is there and whole, else None."""
    try:
        entry = FileEntry.model_validate_json(cache.files.read_bytes(_row_path(path)))
    except (FileNotFoundError, ValidationError):
        return None
    try:
        size = cache.files.size(path)
    except FileNotFoundError:
        return None
    return entry if entry.path == path and entry.bytes == size else None


def _row_path(path: str) -> str:
    return path.removesuffix(".parquet") + ".json"
