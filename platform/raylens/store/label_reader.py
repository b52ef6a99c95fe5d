"""Looking labels up: which segments hold a feature, and in which row groups, without reading any other.

The index column of every segment stays in memory (four bytes a row; a source of a million rows is read in tens
of milliseconds), so a look-up is a binary search a segment and then one row group of those that have it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.errors import DamagedFileError
from raylens.store.label_cache import LAYOUTS, SCHEMAS, LabelFolder, LabelTable, Segment, live
from raylens.store.parquet import TableFile

_OPEN_FILES: Final = 64
_REMEDY: Final = "remove it and the .json of that name beside it; what they held is fetched or imported again."


class LabelReader:
    """Reads what is committed of one source; not for several threads at a time.

    Args:
        folder: Which source.
        among: Names of the segments to read; by default all that no other one replaces.

    Raises:
        DamagedFileError: Here or at a read: a file is missing, truncated, or fails a checksum.
    """

    def __init__(self, folder: LabelFolder, *, among: Collection[str] | None = None) -> None:
        self._folder, self._among = folder, among
        self._segments: dict[str, Segment] = {}
        self._live: dict[str, Segment] = {}
        self._index: dict[tuple[str, LabelTable], NDArray[np.int32]] = {}
        self._open: OrderedDict[tuple[str, LabelTable], TableFile] = OrderedDict()
        self.refresh()

    def refresh(self) -> bool:
        """See what was committed since; returns whether anything was. One listing, and the rows that are new."""
        found = self._folder.segments(self._segments)
        if found.keys() == self._segments.keys():
            return False
        self._segments = found
        self._live = live(found) if self._among is None else {n: one for n, one in found.items() if n in self._among}
        for key in [key for key in self._open if key[0] not in self._live]:
            self._open.pop(key).close()
        self._index = {key: column for key, column in self._index.items() if key[0] in self._live}
        return True

    @property
    def segments(self) -> dict[str, Segment]:
        """Those that count, oldest first."""
        return self._live

    def indices(self, table: LabelTable) -> NDArray[np.int32]:
        """``[n]`` int32, rising: the features that a table has rows of."""
        parts = [self._indices(name, table) for name in self._holding(table)]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int32)

    def column(self, table: LabelTable, columns: Sequence[str]) -> pa.Table:
        """Some columns of every row of a table, in no particular order."""
        parts = [self._opened(name, table).read(columns=columns).select(columns) for name in self._holding(table)]
        wanted = pa.schema([SCHEMAS[table].field(name) for name in columns])
        return pa.concat_tables([wanted.empty_table(), *(part.cast(wanted) for part in parts)])

    def rows(self, table: LabelTable, indices: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """All rows about some features, of every segment that counts; only the row groups that hold them are read.

        Where a segment was replaced and removed since it was listed, the listing is made anew and read again.
        """
        try:
            return self._rows(table, indices, columns)
        except DamagedFileError:
            if not self.refresh():
                raise
            return self._rows(table, indices, columns)

    def close(self) -> None:
        """Close what is open."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _rows(self, table: LabelTable, indices: Sequence[int], columns: Sequence[str] | None) -> pa.Table:
        names = list(columns or SCHEMAS[table].names)
        read = names if "index" in names else ["index", *names]
        wanted = np.unique(np.asarray(indices, np.int64))
        schema = pa.schema([SCHEMAS[table].field(name) for name in names])
        tables = [schema.empty_table()]
        size = LAYOUTS[table].group_rows
        for segment in self._holding(table):
            there = self._indices(segment, table)
            first, last = np.searchsorted(there, wanted, "left"), np.searchsorted(there, wanted, "right")
            has = first < last
            if not has.any():
                continue
            # Every group but the last is full, so a row's group is its place divided by their size.
            spans = zip(first[has] // size, (last[has] - 1) // size, strict=True)
            groups = np.unique(np.concatenate([np.arange(low, high + 1) for low, high in spans]))
            found = self._opened(segment, table).read(groups.tolist(), read)
            kept = found.filter(pa.array(np.isin(found["index"].to_numpy(), wanted)))
            tables.append(kept.select(names).cast(schema))
        return pa.concat_tables(tables).combine_chunks()

    def _holding(self, table: LabelTable) -> list[str]:
        return [name for name, one in self._live.items() if table in one.rows]

    def _indices(self, segment: str, table: LabelTable) -> NDArray[np.int32]:
        column = self._index.get((segment, table))
        if column is None:
            column = self._opened(segment, table).read(columns=["index"])["index"].to_numpy()
            self._index[segment, table] = column
        return column

    def _opened(self, segment: str, table: LabelTable) -> TableFile:
        file = self._open.pop((segment, table), None)
        if file is None:
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            file = TableFile(self._folder.files, self._folder.file(segment, table), remedy=_REMEDY)
        self._open[segment, table] = file
        return file
