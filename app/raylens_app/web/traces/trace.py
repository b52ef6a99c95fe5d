"""One trace: its spans as a tree, and beside it the one that is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import streamlit as st

from raylens.errors import UnknownNameError
from raylens.reports.visible import one_line
from raylens.store.trace_reader import TraceReader
from raylens_app.web.desk import Desk
from raylens_app.web.plain import plain
from raylens_app.web.rows import ROW_PX, height_of
from raylens_app.web.states import explained
from raylens_app.web.traces.shelf import steps_of
from raylens_app.web.traces.span import span
from raylens_app.web.traces.tree import Step

TRACE: Final = "trace"
SPAN: Final = "span"
_MORE: Final = "steps"
"""Which thousand of the spans of a very long trace."""
_MOST: Final = 1000
_DIGITS: Final = 9
_TALLEST: Final = 700
_FAILED: Final = " ✗"


def trace(desk: Desk, reader: TraceReader, trace_id: str, span_id: str) -> None:
    """Draw it.

    Args:
        desk: What is worked with.
        reader: Of the workspace's traces.
        trace_id: Of the trace.
        span_id: Of the span that the address names; empty for the first one.

    Raises:
        UnknownNameError: There is no such trace.
    """
    # A link to this page without its parameters would leave them in the address.
    st.button("All traces", icon=":material/arrow_back:", type="tertiary", key="all-traces", on_click=_leave)
    number = _number()
    steps, total = steps_of(reader, trace_id, _MOST, (number - 1) * _MOST)
    if not steps and total:
        number = 1
        steps, total = steps_of(reader, trace_id, _MOST, 0)
    if not steps:
        st.title("Trace", anchor=False)
        raise UnknownNameError(f"there is no trace {trace_id!r}.", hint="it may have been deleted; the list has all.")
    _head(trace_id, steps, total)
    left, right = st.columns([9, 11], gap="medium")
    with left:
        _tree(steps, span_id)
        if total > _MOST:
            st.caption(f"{(number - 1) * _MOST + 1:,} to {(number - 1) * _MOST + len(steps):,} of {total:,} spans")
            st.pagination(-(-total // _MOST), key=_MORE, bind="query-params")
    with right, explained():
        span(desk, reader, span_id or steps[0].span_id)


def _leave() -> None:
    for name in (TRACE, SPAN):
        st.query_params.pop(name, None)


def _number() -> int:
    # Its widget stands below the tree, and is not there at first.
    said = str(st.session_state.get(_MORE) or st.query_params.get(_MORE) or 1)
    return max(1, int(said)) if said.isascii() and said.isdecimal() and len(said) < _DIGITS else 1


def _head(trace_id: str, steps: Sequence[Step], total: int) -> None:
    top = next((one for one in steps if one.depth == 0), steps[0])
    began = min(one.started_at for one in steps)
    ended = max((one.ended_at for one in steps if one.ended_at is not None), default=None)
    took = f" · {(ended - began).total_seconds():.3g} s" if ended is not None else ""
    n_errors = sum(one.status == "error" for one in steps)
    failed = f" · {n_errors:,} failed" if n_errors else ""
    st.title(plain(top.name) or "Trace", anchor=False)
    spans = f"{total:,} span{'' if total == 1 else 's'}"
    st.caption(plain(f"{began:%Y-%m-%d %H:%M:%S} UTC{took} · {spans}{failed} · trace {trace_id}"))


def _tree(steps: Sequence[Step], span_id: str) -> None:
    places = {one.span_id: place for place, one in enumerate(steps)}
    place = places.get(span_id or steps[0].span_id)
    began = min(one.started_at for one in steps)
    key = f"tree-{hash(tuple(places))}"
    # The address says which one is looked at, also where it was changed by going back.
    st.session_state[key] = {"selection": {"rows": [] if place is None else [place], "columns": [], "cells": []}}
    st.dataframe(
        [
            {
                "span": f"{one.indent}{one_line(one.name) or one.span_id}{_FAILED if one.status == 'error' else ''}",
                "kind": one_line(one.kind),
                "model": one_line(one.model) if one.model else None,
                "took": (one.ended_at - one.started_at).total_seconds() if one.ended_at is not None else None,
                "at": (one.started_at - began).total_seconds(),
                "status": one.status,
            }
            for one in steps
        ],
        hide_index=True,
        column_config={
            "span": st.column_config.TextColumn(width="medium"),
            "status": st.column_config.TextColumn(width="small"),
            "at": st.column_config.NumberColumn("at (s)", format="%.3g", help="After the trace began."),
            "took": st.column_config.NumberColumn("took (s)", format="%.3g"),
        },
        height=height_of(len(steps), _TALLEST),
        row_height=ROW_PX,
        placeholder="–",
        key=key,
        on_select=lambda: _choose(key, steps),
        selection_mode="single-row",
        alt="spans of the trace, each below the one that it is a part of; choosing a row opens it",
    )


def _choose(key: str, steps: Sequence[Step]) -> None:
    chosen = st.session_state[key]["selection"]["rows"]
    if chosen and chosen[0] < len(steps):
        st.query_params[SPAN] = steps[chosen[0]].span_id
