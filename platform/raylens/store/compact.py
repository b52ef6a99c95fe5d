"""Windows and documents for readers: files whose place follows from the window's number.

File ``k`` holds windows ``k * 16384 …``, in row groups of 64 (fewer at the end): which file and
which row group hold a window is arithmetic, no index is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from raylens.ids import digest
from raylens.store import parquet
from raylens.store.manifest import FileEntry
from raylens.store.parts import made, part
from raylens.store.windows import WindowsShard, read_documents_shard, read_windows_shard
from raylens.store.workspace import CacheStore

WINDOWS_PER_FILE: Final = 16_384
WINDOWS_PER_GROUP: Final = parquet.WINDOWS.group_rows


def n_window_files(shards: Sequence[WindowsShard]) -> int:
    """How many files the windows of these shards take."""
    return -(-(shards[-1].window_last + 1) // WINDOWS_PER_FILE) if shards else 0


def merge_windows(cache: CacheStore, shards: Sequence[WindowsShard], index: int) -> FileEntry:
    """Write windows file ``index``, reading the shards that overlap it; one that is there is not made again.

    Args:
        cache: Where the shards are and the file goes.
        shards: All shards that readers shall see, in order from window 0.
        index: Which file, below :func:`n_window_files`.

    Raises:
        DamagedFileError: A shard is missing, truncated, or fails a checksum.
    """
    first = index * WINDOWS_PER_FILE
    last = min(first + WINDOWS_PER_FILE, shards[-1].window_last + 1) - 1
    needed = [shard for shard in shards if shard.window_first <= last and shard.window_last >= first]
    path = f"{cache.generation_folder(_name(needed, first))}/windows/{index:04d}.parquet"
    if entry := made(cache, path):
        return entry
    with part(cache, path, parquet.WINDOWS, kind="windows", window_first=first, window_last=last) as writer:
        for shard in needed:
            begin = max(first - shard.window_first, 0)
            writer.append(read_windows_shard(cache, shard.index).slice(begin, last - shard.window_first - begin + 1))
    return writer.entry


def merge_documents(cache: CacheStore, shards: Sequence[WindowsShard]) -> FileEntry:
    """Write the documents file: one row a document, the tokens of one that crosses shards added up.

    Raises:
        DamagedFileError: A shard is missing, truncated, or fails a checksum.
    """
    path = f"{cache.generation_folder(_name(shards, 0))}/documents.parquet"
    if entry := made(cache, path):
        return entry
    with part(cache, path, parquet.DOCUMENTS, kind="documents") as writer:
        for table in _whole_documents(read_documents_shard(cache, shard.index) for shard in shards):
            writer.append(table)
    return writer.entry


def _whole_documents(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables in document order, in which the same document may end one and begin the next, joined up."""
    open_document: pa.Table | None = None
    for table in tables:
        if open_document is not None:
            table = pa.concat_tables([open_document, table])
        ids = table["doc_id"].to_numpy()
        first = np.flatnonzero(np.diff(ids, prepend=-1))
        tokens = np.add.reduceat(table["n_tokens"].to_numpy(), first)
        place = table.schema.get_field_index("n_tokens")
        joined = table.take(first).set_column(place, table.schema.field(place), pa.array(tokens, pa.int32()))
        yield joined.slice(0, joined.num_rows - 1)
        open_document = joined.slice(joined.num_rows - 1)
    if open_document is not None:
        yield open_document


def _name(shards: Sequence[WindowsShard], first: int) -> str:
    """Folder name of a file made from these shards; sizes stand in for their content, which is a run's own output."""
    made_from = [[one.index, one.window_first, one.n_windows, one.n_text_tokens, one.windows_bytes] for one in shards]
    return digest({"first": first, "shards": made_from})[:16]
