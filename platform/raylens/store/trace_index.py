"""What stands in the log of traces, in memory: where each span lies, and what lists of spans and traces need of it.

Some 800 bytes a span; no texts.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import pyarrow as pa

from raylens.traces.listing import SpanFilter, TraceSummary

COLUMNS: Final = (
    "sequence",
    "event",
    "span_id",
    "digest",
    "trace_id",
    "parent_id",
    "name",
    "model",
    "started_at",
    "ended_at",
    "status",
    "sae",
)
"""Of the log, that the index is made of."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MANY: Final = 1000  # changes at a time from which on sorting anew is faster than putting each in its place

Key = tuple[int, str]
"""When a span or trace started, in microseconds since 1970, and its id: the order of lists."""


class SpanEntry(NamedTuple):
    """A span, without its texts.

    Attributes:
        sequence: Its event in the log.
        digest: Of all that is said of it.
        trace_id: What it belongs to.
        is_part: Of another span.
        name: What the reporter calls it.
        model: That was called.
        started: Microseconds since 1970.
        ended: Likewise.
        failed: Whether its status is ``error``.
    """

    sequence: int
    digest: bytes
    trace_id: str
    is_part: bool
    name: str
    model: str | None
    started: int
    ended: int | None
    failed: bool


@dataclass(slots=True)
class _Trace:
    """A trace: its spans, and when the first of them started."""

    started: int = 0
    spans: set[str] = field(default_factory=set)


class TraceIndex:
    """What stands after the events that were applied.

    Attributes:
        spans: By id.
        readings: Of each span of which something was read: the event, by model and SAE.
        n_readings: How many these are.
    """

    def __init__(self) -> None:
        self.spans: dict[str, SpanEntry] = {}
        self.readings: dict[str, dict[tuple[str, str], int]] = {}
        self.n_readings = 0
        self._order: list[Key] = []
        self._traces: dict[str, _Trace] = {}
        self._trace_order: list[Key] = []

    def apply(self, rows: pa.Table) -> None:
        """Take in more events.

        Args:
            rows: Of the log, in their order; later than all before. At least :data:`COLUMNS`.
        """
        before: dict[str, SpanEntry | None] = {}
        for event, span_id, sae, entry in _events(rows):
            if event == "extraction":
                known = self.readings.setdefault(span_id, {})
                key = sys.intern(entry.model or ""), sys.intern(sae or "")
                self.n_readings += key not in known
                known[key] = entry.sequence
                continue
            before.setdefault(span_id, self.spans.get(span_id))
            if event == "span":
                self.spans[span_id] = entry
            else:
                self.spans.pop(span_id, None)
                self.n_readings -= len(self.readings.pop(span_id, ()))
        changes = [(span_id, was, self.spans.get(span_id)) for span_id, was in before.items()]
        self._order = _reordered(
            self._order,
            [(was.started, span_id) for span_id, was, _ in changes if was],
            [(now.started, span_id) for span_id, _, now in changes if now],
        )
        self._reorder_traces(changes)

    def matching(self, which: SpanFilter) -> list[Key]:
        """Spans in the order in which they started, whatever text they hold."""
        low, high = _bounds(which)
        if which.trace_id is not None:
            trace = self._traces.get(which.trace_id)
            every = sorted((self.spans[span_id].started, span_id) for span_id in (trace.spans if trace else ()))
        else:
            every = self._order
        found = every[bisect_left(every, low) if low else 0 : bisect_left(every, high) if high else len(every)]
        if which.model is not None:
            found = [key for key in found if self.spans[key[1]].model == which.model]
        return found

    def traces_of(self, spans: Iterable[Key] | None) -> list[Key]:
        """Traces in the order in which they started: all of them, or those that hold some spans."""
        if spans is None:
            return self._trace_order.copy()
        names = {self.spans[span_id].trace_id for _, span_id in spans}
        return sorted((self._traces[name].started, name) for name in names)

    def spans_of(self, trace_id: str) -> Collection[str]:
        """Ids of the spans of a trace."""
        trace = self._traces.get(trace_id)
        return trace.spans if trace else ()

    def summary(self, trace_id: str) -> TraceSummary:
        """What a list says of a trace that is there."""
        trace = self._traces[trace_id]
        found = sorted((self.spans[span_id] for span_id in trace.spans), key=lambda one: (one.is_part, one.started))
        ended = [one.ended for one in found if one.ended is not None]
        return TraceSummary(
            trace_id=trace_id,
            name=found[0].name,
            started_at=_time(trace.started),
            ended_at=_time(max(ended)) if ended else None,
            n_spans=len(found),
            models=tuple(sorted({one.model for one in found if one.model is not None})),
            n_errors=sum(one.failed for one in found),
        )

    def _reorder_traces(self, changes: Sequence[tuple[str, SpanEntry | None, SpanEntry | None]]) -> None:
        gone: dict[str, Key | None] = {}
        for span_id, was, now in changes:
            for one in (was, now):
                if one and one.trace_id not in gone:
                    trace = self._traces.get(one.trace_id)
                    gone[one.trace_id] = (trace.started, one.trace_id) if trace else None
            if was:
                self._traces[was.trace_id].spans.discard(span_id)
            if now:
                self._traces.setdefault(now.trace_id, _Trace()).spans.add(span_id)
        for name in gone:
            trace = self._traces[name]
            if trace.spans:
                trace.started = min(self.spans[span_id].started for span_id in trace.spans)
            else:
                del self._traces[name]
        new = [(self._traces[name].started, name) for name in gone if name in self._traces]
        self._trace_order = _reordered(self._trace_order, [key for key in gone.values() if key], new)


def microseconds(time: datetime) -> int:
    """Since 1970; a time without a zone is UTC."""
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _events(rows: pa.Table) -> Iterator[tuple[str, str, str | None, SpanEntry]]:
    """Each event: what happened to which span, by which SAE; and what a span's entry has."""
    columns = {name: rows[name] for name in COLUMNS}
    for name in ("started_at", "ended_at"):
        columns[name] = columns[name].cast(pa.int64())
    intern = sys.intern
    for at in zip(*(columns[name].to_pylist() for name in COLUMNS), strict=True):
        sequence, event, span_id, digest, trace_id, parent_id, name, model, started, ended, status, sae = at
        entry = SpanEntry(
            sequence,
            digest or b"",
            intern(trace_id or ""),
            parent_id is not None,
            intern(name or ""),
            model if model is None else intern(model),
            started or 0,
            ended,
            status == "error",
        )
        yield event, span_id, sae, entry


def _reordered(order: list[Key], gone: Sequence[Key], new: Sequence[Key]) -> list[Key]:
    """``order`` without some keys that are in it, and with others."""
    if len(gone) + len(new) > _MANY:
        away = set(gone)
        return sorted([*(key for key in order if key not in away), *new])
    for key in gone:
        del order[bisect_left(order, key)]
    for key in new:
        insort(order, key)
    return order


def _bounds(which: SpanFilter) -> tuple[tuple[int] | None, tuple[int] | None]:
    since = None if which.since is None else (microseconds(which.since),)
    return since, None if which.until is None else (microseconds(which.until),)


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
