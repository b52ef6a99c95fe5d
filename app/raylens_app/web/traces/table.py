"""The list of traces: filtered by what the address says, a page at a time; choosing a row opens the trace."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import streamlit as st

from raylens.reports.visible import one_line
from raylens.store.trace_reader import TraceReader
from raylens.traces.bounds import clean
from raylens.traces.listing import SpanFilter, TraceSummary
from raylens_app.web.desk import Desk
from raylens_app.web.registry import go
from raylens_app.web.rows import chosen_row
from raylens_app.web.states import empty
from raylens_app.web.traces.shelf import models_of

BOUND: Final = "query-params"
ANY: Final = "any"
_PAGE: Final = "sheet"
_SIZES: Final = (25, 50, 100)
_DIGITS: Final = 9
_EARLIEST: Final = datetime(1970, 1, 1)
_LATEST: Final = datetime(2200, 1, 1)


def table(desk: Desk, reader: TraceReader) -> None:
    """Draw the filters and the page of rows that they leave."""
    which, size = _asked(desk)
    number = _number()
    with st.spinner("Searching …", show_time=True):
        rows, total = reader.traces(which, size, (number - 1) * size)
        if not rows and total:  # a link to a page that is not there any more
            number = 1
            rows, total = reader.traces(which, size, 0)
    if not rows:
        empty("No trace is like that.", "Take a filter away: text and model are those of spans in the trace.")
        return
    place = _drawn(rows)
    first = (number - 1) * size
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(f"{first + 1:,} to {first + len(rows):,} of {total:,} traces, the latest first", width="content")
        st.pagination(max(1, -(-total // size)), key=_PAGE, bind=BOUND)
    if place is not None:
        go("traces", trace=rows[place].trace_id)


def _asked(desk: Desk) -> tuple[SpanFilter, int]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Search",
            key="holding",
            bind=BOUND,
            max_chars=500,
            placeholder="text in a span's name, input or output",
            on_change=_first_page,
        )
        model = st.selectbox(
            "model", (ANY, *models_of(desk)), key="model", bind=BOUND, on_change=_first_page, width=220
        )
        since = _time("since", "Traces with a span that began then or later, UTC.")
        until = _time("until", "Traces with a span that began before, UTC.")
        size = st.selectbox("rows", _SIZES, index=0, key="listed", bind=BOUND, on_change=_first_page, width=90)
    which = SpanFilter(
        model=None if model == ANY else model, text=clean(text.strip()) or None, since=since, until=until
    )
    return which, size


def _time(name: str, says: str) -> datetime | None:
    found = st.datetime_input(
        f"{name} (UTC)",
        value=None,
        min_value=_EARLIEST,
        max_value=_LATEST,
        key=name,
        bind=BOUND,
        help=says,
        on_change=_first_page,
        width=190,
    )
    return found.replace(tzinfo=UTC) if found is not None else None


def _number() -> int:
    """The page that is asked for; the widget that says so stands below the table, and is not there at first."""
    said = str(st.session_state.get(_PAGE) or st.query_params.get(_PAGE) or 1)
    return max(1, int(said)) if said.isascii() and said.isdecimal() and len(said) < _DIGITS else 1


def _first_page() -> None:
    """Other rows: page 7 of them may not exist."""
    st.session_state[_PAGE] = 1


def _drawn(rows: Sequence[TraceSummary]) -> int | None:
    """The table; the place of the row that was chosen, if one was."""
    columns = {
        "began": st.column_config.DatetimeColumn("began (UTC)", format="YYYY-MM-DD HH:mm:ss", timezone="UTC"),
        "took": st.column_config.NumberColumn("took (s)", format="%.3g", help="Till the last of its spans ended."),
        "errors": st.column_config.NumberColumn(help="Spans that failed."),
        "models": st.column_config.ListColumn("models", help="That its spans called."),
    }
    return chosen_row(
        [_cells(row) for row in rows],
        columns,
        key=f"traces-{hash(tuple(row.trace_id for row in rows))}",
        alt="traces; choosing a row opens one",
    )


def _cells(row: TraceSummary) -> dict[str, Any]:
    return {
        "name": one_line(row.name) or "(no name)",
        "began": row.started_at,
        "took": (row.ended_at - row.started_at).total_seconds() if row.ended_at is not None else None,
        "spans": row.n_spans,
        "errors": row.n_errors,
        "models": [one_line(model) for model in row.models],
        "trace": row.trace_id,
    }
