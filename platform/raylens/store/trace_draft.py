"""What is about to be committed to the log of traces, seen together with what is there."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from raylens.api.extraction import Extraction
from raylens.errors import InputError
from raylens.store.trace_index import microseconds
from raylens.store.trace_reader import unknown_span
from raylens.store.trace_rows import MOST_EVENTS, TraceEvent, extraction_of, span_deleted

if TYPE_CHECKING:
    from raylens.store.traces import TraceStore

_READ: Final = ("model", "input", "output", "input_messages", "output_messages")
"""What a model reads of a span: features that were read before it changed are not the span's any more."""


class Draft:
    """Events that are decided on one after another, each with those before it in sight.

    Attributes:
        events: To be committed.

    Args:
        store: What is there.
    """

    def __init__(self, store: TraceStore) -> None:
        self.events: list[TraceEvent] = []
        self._store = store
        self._spans: dict[str, TraceEvent | None] = {}
        self._cleared: set[str] = set()
        self._readings: dict[str, dict[tuple[str, str], TraceEvent]] = {}
        self._looked_up: dict[tuple[str, str, str], Extraction | None] = {}

    def put(self, events: Iterable[TraceEvent]) -> None:
        """Any events, in their order.

        Raises:
            UnknownNameError: Something was read of a span that is not there.
            InputError: There are more of them than fit into a commit.
        """
        for event in events:
            if event.kind == "span":
                self.write(event)
            elif event.kind == "extraction":
                self.keep(event, again=True)
            else:
                self.delete(event.span_id)

    def write(self, event: TraceEvent) -> bool:
        """Write a span; False where it is there as it is.

        Where its texts or its model were others, what was read of it goes.
        """
        if self._digest(event.span_id) == event.row["digest"]:
            return False
        if self._has_readings(event.span_id) and self._reads_otherwise(event):
            self.delete(event.span_id)
        self._spans[event.span_id] = event
        self._add(event)
        return True

    def delete(self, span_id: str) -> bool:
        """Delete a span with what was read of it; False where there is none."""
        if not self._is_there(span_id):
            return False
        self._spans[span_id] = None
        self._cleared.add(span_id)
        self._readings.pop(span_id, None)
        self._add(span_deleted(span_id))
        return True

    def delete_trace(self, trace_id: str, most: int) -> int:
        """Delete up to ``most`` of the spans of a trace; how many these were."""
        new = [name for name, event in self._spans.items() if event and event.row["trace_id"] == trace_id]
        old = [name for name in self._store.spans_of(trace_id) if name not in self._spans]
        return sum([self.delete(name) for name in (*old, *new)[:most]])

    def delete_before(self, time: datetime, most: int) -> int:
        """Delete up to ``most`` of the spans that started before a time; how many these were."""
        moment = microseconds(time)
        new = [name for name, event in self._spans.items() if event and microseconds(event.row["started_at"]) < moment]
        old = [name for name in self._store.started_before(time) if name not in self._spans]
        return sum([self.delete(name) for name in (*old, *new)[:most]])

    def keep(self, event: TraceEvent, *, again: bool) -> Extraction | None:
        """Keep what was read of a span, unless something is there and it is not ``again``, which is then returned.

        Raises:
            UnknownNameError: The span is not there.
        """
        if not self._is_there(event.span_id):
            raise unknown_span(event.span_id)
        key = str(event.row["model"]), str(event.row["sae"])
        if not again and (there := self._reading(event.span_id, *key)):
            return there
        self._readings.setdefault(event.span_id, {})[key] = event
        self._add(event)
        return None

    def _add(self, event: TraceEvent) -> None:
        if len(self.events) == MOST_EVENTS:
            raise InputError(f"more than {MOST_EVENTS:,} events at a time.", hint="write them in several parts.")
        self.events.append(event)

    def _is_there(self, span_id: str) -> bool:
        return self._digest(span_id) is not None

    def _digest(self, span_id: str) -> bytes | None:
        if span_id in self._spans:
            event = self._spans[span_id]
            return event and event.row["digest"]
        entry = self._store.entry(span_id)
        return entry and entry.digest

    def _has_readings(self, span_id: str) -> bool:
        return span_id in self._readings or (span_id not in self._cleared and self._store.has_readings(span_id))

    def _reads_otherwise(self, event: TraceEvent) -> bool:
        drafted = self._spans.get(event.span_id)
        before = drafted.row if drafted else self._store.span_row(event.span_id)
        return before is None or any(before[name] != event.row[name] for name in _READ)

    def _reading(self, span_id: str, model: str, sae: str) -> Extraction | None:
        drafted = self._readings.get(span_id, {}).get((model, sae))
        if drafted is not None:
            return extraction_of(drafted.row)
        if span_id in self._cleared:
            return None
        key = span_id, model, sae
        if key not in self._looked_up:
            self._looked_up[key] = self._store.extraction(*key)
        return self._looked_up[key]
