"""Many small segments of the log of traces rolled into fewer, without what is no longer needed.

32 commits are rolled into one segment, 32 of these into the next, and so on: a row is written again once a tier, so n
commits cost O(n log n). A segment that would become large stays in parts: its number of files is no trouble any more,
and writing it anew would be.

Rolling leaves out what later events *in the same segments* replaced. What was deleted or replaced from outside is
left out by :func:`purge`: each segment is written anew without it, at most once a day. The name of what is made says
what it was made of, and up to which commit the log was known, so two who do it at once write the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylens.ids import digest
from raylens.store.commits import Segment
from raylens.store.parquet import table_writer
from raylens.store.trace_log import GROUP_BYTES, TraceLog, column_bytes, groups_of
from raylens.store.trace_rows import LAYOUT

FAN: Final = 32
"""Segments of a tier that are rolled into one of the next."""
LARGE_BYTES: Final = 256 * 2**20
"""Of files that are rolled together, at most."""

_LAST: Final = [("sequence", "max")]
_KEYS: Final = ("sequence", "event", "span_id", "model", "sae")


def due(covering: Sequence[Segment], size: Callable[[Segment], int]) -> list[Segment] | None:
    """Segments to be rolled into one; None where none are due.

    Args:
        covering: The segments of the log.
        size: Of one of them, bytes.
    """
    end = covering[-1].last if covering else 0
    width = FAN
    while width <= end:
        groups: dict[int, list[Segment]] = {}
        for one in covering:
            if one.last - one.first + 1 < width and one.first <= end - end % width:
                groups.setdefault((one.first - 1) // width, []).append(one)
        for parts in groups.values():
            if len(parts) > 1 and sum(map(size, parts)) <= LARGE_BYTES:
                return parts
        width *= FAN
    return None


def roll(log: TraceLog, parts: Sequence[Segment]) -> Segment:
    """Roll adjacent segments into one, which is there when this returns; the parts stay.

    Raises:
        DamagedFileError: A part is missing, truncated, or fails a checksum.
        DiskFullError: No space; nothing changed.
    """
    keep = alive(_keys(log, parts), from_the_start=parts[0].first == 1)
    return _written(log, parts, keep, upto=max(one.needs for one in parts))


def purge(log: TraceLog, covering: Sequence[Segment], before: float) -> list[Segment]:
    """Write segments anew without what was deleted or replaced, and give the new ones; the old ones stay.

    Args:
        log: The log.
        covering: All its segments.
        before: Those alone that were written before this time, in seconds since 1970.

    Raises:
        DamagedFileError: A segment is missing, truncated, or fails a checksum.
        DiskFullError: No space.
    """
    old = [one for one in covering if log.files.stat(one.path).modified < before]
    if not old:
        return []
    keys = _keys(log, covering)
    stands = alive(keys, from_the_start=False)
    made: list[Segment] = []
    for one in old:
        keep = alive(keys, from_the_start=True) if one.first == 1 else stands
        if not np.isin(_sequences(_keys(log, [one])), keep).all():
            made.append(_written(log, [one], keep, upto=covering[-1].last))
    return made


def alive(rows: pa.Table, *, from_the_start: bool) -> NDArray[np.int64]:
    """Which of some rows say what still stands, given all of them; ascending sequences.

    Args:
        rows: ``sequence``, ``event``, ``span_id``, ``model`` and ``sae`` of events, in any order.
        from_the_start: No other row is earlier: a deletion has nothing left to delete then, and goes as well.
    """
    event = pc.field("event")
    spans, deletions = rows.filter(event != "extraction"), rows.filter(event == "deletion")
    readings = rows.filter(event == "extraction").group_by(["span_id", "model", "sae"]).aggregate(_LAST)
    last_word = _sequences(spans.group_by("span_id").aggregate(_LAST), "sequence_max")
    deleted = deletions.group_by("span_id").aggregate(_LAST)
    both = readings.join(deleted, "span_id", right_suffix="_of_deletion")
    deletion = pc.field("sequence_max_of_deletion")
    standing = both.filter(deletion.is_null() | (pc.field("sequence_max") > deletion))
    kept = [last_word[~np.isin(last_word, _sequences(deletions))], _sequences(standing, "sequence_max")]
    if not from_the_start:
        kept.append(_sequences(deleted, "sequence_max"))
    return np.sort(np.concatenate(kept))


def _written(log: TraceLog, parts: Sequence[Segment], keep: NDArray[np.int64], upto: int) -> Segment:
    first, last = parts[0].first, parts[-1].last
    made_of = digest({"of": [one.path for one in parts], "upto": upto})[:8]
    path = log.commits.path(f"{first:012d}-{last:012d}-{upto:012d}-{made_of}")
    with table_writer(log.files, path, LAYOUT) as writer:
        for group in _regrouped(log, parts, keep):
            writer.group(group)
    return Segment(path, first, last, upto)


def _regrouped(log: TraceLog, parts: Sequence[Segment], keep: NDArray[np.int64]) -> Iterator[pa.Table]:
    """The rows to keep, in row groups that are neither small nor large."""
    waiting: list[pa.Table] = []
    n_rows = n_bytes = 0
    for one in parts:
        for rows in log.every(one):
            kept = rows.filter(pa.array(np.isin(_sequences(rows), keep)))
            waiting.append(kept)
            n_rows, n_bytes = n_rows + kept.num_rows, n_bytes + column_bytes(kept)
            if n_rows >= LAYOUT.group_rows or n_bytes >= GROUP_BYTES:
                *whole, rest = groups_of(pa.concat_tables(waiting))
                yield from whole
                waiting, n_rows, n_bytes = [rest], rest.num_rows, column_bytes(rest)
    if n_rows:
        yield from groups_of(pa.concat_tables(waiting))


def _keys(log: TraceLog, segments: Sequence[Segment]) -> pa.Table:
    tables = [rows for one in segments for rows in log.every(one, _KEYS)]
    return pa.concat_tables(tables) if tables else pa.table({name: pa.array([], pa.string()) for name in _KEYS})


def _sequences(rows: pa.Table, column: str = "sequence") -> NDArray[np.int64]:
    return rows[column].to_numpy().astype(np.int64)
