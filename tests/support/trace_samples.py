"""Spans and extractions for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from raylens.api.extraction import Extraction
from raylens.api.reading import Peaks
from raylens.traces.span import Span

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL, SAE = "raylens/pico", "raylens-pico-res/layer_3"


def a_span(span_id: str, second: float = 0, /, **said: Any) -> Span:
    """A span that started ``second`` seconds after the start of 2026."""
    given = {"trace_id": "t", "input": f"what is {span_id}?", "output": "a span.", "model": "gpt-4", **said}
    return Span(span_id=span_id, started_at=START + timedelta(seconds=second), **given)


def an_extraction(span_id: str, number: int = 0, /, **said: Any) -> Extraction:
    """What an SAE read: activations from which ``number`` can be told."""
    activations = tuple(9.5 - index + number / 8 for index in range(4))
    peaks = Peaks(indices=(0, 1, 2, 3), activations=activations, positions=(1, 2, 3, 4))
    given = {"model": MODEL, "sae": SAE, "layer": 3, "n_tokens": 12, "at": START, "peaks": peaks, **said}
    return Extraction(span_id=span_id, **given)
