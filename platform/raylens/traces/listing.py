"""Spans and traces in lists: which are wanted, and what a list says of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class SpanFilter:
    """Which spans.

    Attributes:
        trace_id: Of this trace.
        model: That called this model.
        text: That hold this text in their name, input or output, in any case.
        since: Started then or later.
        until: Started before.
    """

    trace_id: str | None = None
    model: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A trace in a list.

    Attributes:
        trace_id: Its id.
        name: Of its first span that is part of no other; of its first span where there is none such.
        started_at: When its first span did, UTC.
        ended_at: When its last span did; None where none has.
        n_spans: How many it has.
        models: That its spans called, sorted.
        n_errors: Spans with status ``error``.
    """

    trace_id: str
    name: str
    started_at: datetime
    ended_at: datetime | None
    n_spans: int
    models: tuple[str, ...]
    n_errors: int
