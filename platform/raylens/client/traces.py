"""Spans and traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from raylens.api.spans import Deleted, SpanIds, SpanIn, SpanOut, SpanPage, TraceOut, TracePage
from raylens.client.http import Http


class Traces:
    """Methods about spans and traces; made by :class:`raylens.client.Client`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def add(self, spans: Sequence[SpanIn | Mapping[str, Any]]) -> tuple[str, ...]:
        """Send spans; they are on disk when this returns.

        Args:
            spans: As :class:`raylens.api.spans.SpanIn`, or its JSON.

        Returns:
            Their ids, in order.

        Raises:
            InputError: A span is not valid; none was written.
        """
        said = [one.model_dump(mode="json") if isinstance(one, SpanIn) else dict(one) for one in spans]
        return self._http.post("/api/v1/traces", SpanIds, {"spans": said}).span_ids

    def list(
        self,
        *,
        model: str | None = None,
        text: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> TracePage:
        """Traces that hold such spans, the latest first."""
        asked = {"model": model, "text": text, "since": _iso(since), "until": _iso(until)}
        return self._http.get("/api/v1/traces", TracePage, {**asked, "limit": limit, "offset": offset})

    def trace(self, trace_id: str, *, limit: int = 1000, offset: int = 0) -> TraceOut:
        """A trace with its spans, the oldest first."""
        return self._http.get(f"/api/v1/traces/{trace_id}", TraceOut, {"limit": limit, "offset": offset})

    def spans(
        self,
        *,
        trace_id: str | None = None,
        model: str | None = None,
        text: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> SpanPage:
        """Spans, the latest first."""
        asked = {"trace_id": trace_id, "model": model, "text": text, "since": _iso(since), "until": _iso(until)}
        return self._http.get("/api/v1/spans", SpanPage, {**asked, "limit": limit, "offset": offset})

    def span(self, span_id: str) -> SpanOut:
        """One span."""
        return self._http.get(f"/api/v1/spans/{span_id}", SpanOut)

    def delete_span(self, span_id: str) -> int:
        """Delete a span with all that was read of it; how many there were."""
        return self._http.delete(f"/api/v1/spans/{span_id}", Deleted).deleted

    def delete_trace(self, trace_id: str) -> int:
        """Delete all spans of a trace; how many there were."""
        return self._http.delete(f"/api/v1/traces/{trace_id}", Deleted).deleted


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
