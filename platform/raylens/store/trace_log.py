"""The log of traces: commits in Parquet (:mod:`raylens.store.commits`), read by sequence numbers.

A row is found by its sequence alone: it says the commit, the segment that covers the commit has row groups in order
of sequences, and their bounds stand in its footer. So nothing that is kept in memory goes stale when segments are
rolled.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylens.schema import TRACE_EVENTS
from raylens.store.commits import REMEDY, Commits, Segment
from raylens.store.files import Files
from raylens.store.parquet import TableFile, table_bytes
from raylens.store.trace_rows import LAYOUT, commit_of, sequence_of

FOLDER: Final = "traces"
GROUP_BYTES: Final = 2**20
"""Of texts and numbers in a row group, which is what is read for a single span; a larger span has one to itself."""

_OPEN: Final = 32  # files kept open, with their footers
_LONG: Final = ("input", "output", "input_messages", "output_messages", "attributes")
_LISTS: Final = ("features", "activations", "positions")
_ROW_BYTES: Final = 256
_NUMBER_BYTES: Final = 8


class TraceLog:
    """The log in a workspace.

    Args:
        files: The workspace's.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.commits = Commits(
            files,
            FOLDER,
            "parquet",
            what="the log of traces",
            busy="while services run, write through them, or end them with raylens serve down.",
        )
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._opening = threading.Lock()

    def claim(self, number: int, rows: pa.Table, note: str) -> bool:
        """Make rows commit ``number``: all of them or none, durable when this returns.

        Args:
            number: Of the commit.
            rows: With sequences of it.
            note: That no other attempt has.

        Returns:
            False where another commit has that number.

        Raises:
            DiskFullError: No space; nothing was written.
        """
        return self.commits.claim(number, table_bytes(groups_of(rows), LAYOUT, note))

    def rows(
        self, covering: Sequence[Segment], sequences: Collection[int], columns: Sequence[str]
    ) -> dict[int, dict[str, Any]]:
        """Some rows, by sequence; those that were left out as replaced are missing.

        Args:
            covering: The segments of the log.
            sequences: Of the rows, in any order.
            columns: Of :data:`raylens.schema.TRACE_EVENTS`.

        Raises:
            DamagedFileError: A segment is missing, truncated, or fails a checksum.
        """
        found: dict[int, dict[str, Any]] = {}
        for wanted, rows in self.groups(covering, sequences, columns):
            kept = rows.filter(pc.field("sequence").isin(pa.array(wanted)))
            found.update((row["sequence"], row) for row in kept.to_pylist())
        return found

    def groups(
        self, covering: Sequence[Segment], sequences: Collection[int], columns: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """The row groups that hold some rows, one in memory at a time, each with the sequences that fall into it."""
        ordered = np.sort(np.fromiter(sequences, np.int64, len(sequences)))
        names = list(dict.fromkeys(("sequence", *columns)))
        at = 0
        while at < len(ordered):
            place = bisect_left(covering, commit_of(int(ordered[at])), key=lambda one: one.last)
            if place == len(covering):
                return
            end = int(np.searchsorted(ordered, sequence_of(covering[place].last + 1, 0)))
            yield from self._opened(covering[place].path).holding(ordered[at:end], names)
            at = end

    def every(self, segment: Segment, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All row groups of a segment in order."""
        yield from self._opened(segment.path).every(columns)

    def _opened(self, path: str) -> _Open:
        with self._opening:
            found = self._open.get(path)
            if found is not None:
                self._open.move_to_end(path)
                return found
        found = _Open(self.files, path)
        with self._opening:
            self._open[path] = found
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)  # closed once nobody reads from it
        return found


class _Open:
    """An open segment; several threads may read from it in turn."""

    def __init__(self, files: Files, path: str) -> None:
        self._file = TableFile(files, path, remedy=REMEDY)
        self._bounds = self._file.bounds("sequence").astype(np.int64)
        self._turn = threading.Lock()

    def holding(
        self, sequences: NDArray[np.int64], columns: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        lows, highs = np.searchsorted(sequences, self._bounds[0]), np.searchsorted(sequences, self._bounds[1], "right")
        for group in np.flatnonzero(lows < highs):
            yield sequences[lows[group] : highs[group]], self._read(int(group), columns)

    def every(self, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        for group in range(self._file.n_groups):
            yield self._read(group, columns)

    def _read(self, group: int, columns: Sequence[str] | None) -> pa.Table:
        names = TRACE_EVENTS.names if columns is None else list(columns)
        with self._turn:
            rows = self._file.read_group(group, names)
        return rows.select(names).cast(pa.schema([TRACE_EVENTS.field(name) for name in names]))


def groups_of(rows: pa.Table) -> Iterator[pa.Table]:
    """Rows cut into row groups of a bounded number of rows and bytes, in order."""
    if not rows.num_rows:
        return
    ends = np.cumsum(_bytes(rows))
    first = 0
    while first < rows.num_rows:
        before = int(ends[first - 1]) if first else 0
        within = int(np.searchsorted(ends, before + GROUP_BYTES, "right"))
        last = min(max(within, first + 1), first + LAYOUT.group_rows)
        yield rows.slice(first, last - first)
        first = last


def column_bytes(rows: pa.Table) -> int:
    """About how much memory rows take."""
    return int(_bytes(rows).sum())


def _bytes(rows: pa.Table) -> NDArray[np.int64]:
    total = np.full(rows.num_rows, _ROW_BYTES, np.int64)
    for names, function, each in ((_LONG, "binary_length", 1), (_LISTS, "list_value_length", _NUMBER_BYTES)):
        for name in names:
            lengths = pc.call_function(function, [rows[name]]).fill_null(0)
            total += lengths.to_numpy().astype(np.int64) * each
    return total
