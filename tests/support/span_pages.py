"""Spans for pages: written as the Ledger writes them, and what a page shows of their features."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from streamlit.testing.v1 import AppTest

from app_here import run
from raylens.api.extraction import Extraction
from raylens.store.trace_rows import extraction_kept, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens.traces.span import Span


def write_traces(workspace: Workspace, spans: Iterable[Span], read: Iterable[Extraction] = ()) -> None:
    """Write spans, and what was read of them."""
    events = [*map(span_written, spans), *map(extraction_kept, read)]
    TraceStore(workspace).write(events, "a test")


@dataclass(frozen=True)
class Link:
    """A link to another page of the app.

    Attributes:
        label: As it is read.
        page: Where it leads.
        query: With which parameters.
    """

    label: str
    page: str
    query: str


def links(app: AppTest) -> list[Link]:
    """All of a page, without its navigation."""
    protos = [one.proto for one in app.get("page_link")]  # pyright: ignore[reportAttributeAccessIssue]
    return [Link(re.sub(r"\\(?=[!-/:-@\[-`{-~])", "", one.label), one.page, one.query_string) for one in protos]


def strip_lines(app: AppTest) -> list[str]:
    """Rows of the strip of features, in order."""
    every = [one.label for one in links(app)] + [str(one.value).replace("\\", "") for one in app.markdown]
    return [re.sub(r"\s*\N{NO-BREAK SPACE}\s*", "  ", one) for one in every if re.match(r"\S+ · .*\d$", one)]


def press(app: AppTest, label: str) -> AppTest:
    """Press the button of that name."""
    next(one for one in app.button if one.label == label).click()
    return run(app)
