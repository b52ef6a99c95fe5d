"""Many small segments of labels rolled into one, and what that replaced removed once nobody can be reading it.

An audit may commit a handful of look-ups, so a year of audits would leave thousands of files. The rolled segment is
named by those it replaces: two processes that roll at once write the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from raylens.ids import digest
from raylens.store.label_cache import LABEL_TABLES, LAYOUTS, LabelFolder, LabelTable, Segment, live
from raylens.store.label_reader import LabelReader
from raylens.store.parquet import table_writer

ROLLED_AT: Final = 64
"""Small segments at most: one more and they are rolled into one."""

SMALL_BYTES: Final = 32 * 2**20
"""A segment of more stays what it is: writing it anew would cost more than opening it."""

GRACE_S: Final = 24 * 3600.0
"""How long a reader that listed a segment may go on reading it."""

_FEATURES: Final = {"feature_cache": 128, "explanation_cache": 8192}
"""Features whose rows are in memory at a time."""


def roll(folder: LabelFolder) -> Segment | None:
    """Roll the small segments of a source into one; None where there are too few to bother.

    Rows that stand there twice come out once.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
        DiskFullError: No space; nothing changed.
    """
    every = folder.segments()
    small = [one for one in live(every).values() if one.bytes < SMALL_BYTES]
    if len(small) <= ROLLED_AT:
        return None
    gone = {name for one in small for name in one.replaces if name in every}
    replaces = sorted({one.name for one in small} | gone)
    # Behind the last of them in order of time, so that a name says how new the newest row may be.
    name = f"{max(one.name for one in small)[:22]}-{digest({'replaces': replaces})[:8]}"
    reader = LabelReader(folder, among=frozenset(one.name for one in small))
    rows: dict[LabelTable, int] = {}
    size = 0
    for table in LABEL_TABLES:
        if not any(table in one.rows for one in small):
            continue
        with table_writer(folder.files, folder.file(name, table), LAYOUTS[table]) as writer:
            for part in _in_order(reader, table):
                writer.append(part)
            rows[table] = writer.n_rows
        rows[table] = writer.n_rows
        size += folder.files.size(folder.file(name, table))
    reader.close()
    return folder.commit(Segment(name=name, rows=rows, bytes=size, replaces=tuple(replaces)))


def collect(folder: LabelFolder, before: float) -> list[str]:
    """Remove the segments that another one replaced before a time (seconds since 1970), and files without a row.

    Returns:
        Paths of the files removed, rows before the files that they speak of.
    """
    files = folder.files
    every = folder.segments()
    stays = live(every)
    replaced = {
        name
        for one in stays.values()
        for name in one.replaces
        if name in every and files.stat(folder.row(one.name)).modified < before
    }
    gone = [folder.row(name) for name in sorted(replaced)]
    rows = {folder.row(name) for name in every} - set(gone)
    for one in list(files.scan(f"{folder.path}/segments")):
        name = one.path.rpartition("/")[2].partition(".")[0]
        if one.temporary or not one.path.endswith(".parquet") or folder.row(name) in rows:
            continue
        if one.modified < before:
            gone.append(one.path)
    for path in gone:
        files.discard(path)
    return gone


def _in_order(reader: LabelReader, table: LabelTable) -> Iterator[pa.Table]:
    indices = reader.indices(table)
    step = _FEATURES[table]
    for first in range(0, len(indices), step):
        rows = reader.rows(table, indices[first : first + step].tolist())
        order = np.lexsort((rows["digest"].to_numpy(), rows["fetched_at"].cast(pa.int64()).to_numpy(), rows["index"]))
        yield _distinct(rows.take(pa.array(order)), ("index", "digest"))


def _distinct(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The first of rows that are equal in some columns, in their order."""
    keys = np.rec.fromarrays([rows[name].to_numpy() for name in columns])
    _, first = np.unique(keys, return_index=True)
    return rows.take(pa.array(np.sort(first)))
