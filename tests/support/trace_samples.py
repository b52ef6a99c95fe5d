"""Spans and extractions for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from raylens.api.extraction import Extraction
from raylens.api.reading import Peak
from raylens.traces.span import Span

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL, SAE = "raylens/pico", "raylens-pico-res/layer_3"


def a_span(span_id: str, second: float = 0, /, **said: Any) -> Span:
    """A span that started ``second`` seconds after the start of 2026."""
    given = {"trace_id": "t", "input": f"what is {span_id}?", "output": "a span.", "model": "gpt-4", **said}
    return Span(span_id=span_id, started_at=START + timedelta(seconds=second), **given)


def an_extraction(span_id: str, number: int = 0, /, **said: Any) -> Extraction:
    """What an SAE read: activations from which ``number`` can be told."""
    peaks = tuple(Peak(index=index, activation=9.5 - index + number / 8, position=index + 1) for index in range(4))
    given = {"model": MODEL, "sae": SAE, "layer": 3, "n_tokens": 12, "at": START, "peaks": peaks, **said}
    return Extraction(span_id=span_id, **given)
