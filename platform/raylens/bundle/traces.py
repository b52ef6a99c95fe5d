"""Sample traces: something to look at before anything has been sent.

Three short traces that show each kind of span: pico's own completions, whose features can be read, a model
behind an API, one that nobody named, and a tool. ``raylens_jobs.bundle_traces`` makes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from raylens.bundle.paths import ROOT
from raylens.traces.span import Span

FOLDER: Final = "traces"
FILE: Final = "sample.json"

_SPANS: Final = TypeAdapter(tuple[Span, ...])


def sample_spans(root: Path = ROOT) -> tuple[Span, ...]:
    """The spans, trace by trace, each trace's oldest first."""
    return _SPANS.validate_python(json.loads((root / FOLDER / FILE).read_text("utf-8"))["spans"])
