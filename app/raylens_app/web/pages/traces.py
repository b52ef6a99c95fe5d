"""Traces: what agents did, step by step, and which concepts a model was thinking about in one of the steps (A0.02)."""

from __future__ import annotations

import streamlit as st

from raylens.errors import UnknownNameError
from raylens_app.web.desk import Desk
from raylens_app.web.states import explained
from raylens_app.web.traces.beginning import beginning
from raylens_app.web.traces.shelf import traces_of
from raylens_app.web.traces.table import table
from raylens_app.web.traces.trace import SPAN, TRACE, trace


def show(desk: Desk) -> None:
    """Draw the list, or the trace that the address names, by its id or that of one of its spans."""
    trace_id = st.query_params.get(TRACE, "").strip()
    span_id = st.query_params.get(SPAN, "").strip()
    with explained():
        with st.spinner("Reading what has come in …"):
            reader = traces_of(desk)
        if trace_id or span_id:
            entry = reader.entry(span_id) if span_id else None
            # A span says itself which trace it is of.
            of = entry.trace_id if entry is not None else trace_id
            if not of:
                _heading()
                raise UnknownNameError(f"there is no span {span_id!r}.", hint="it may have been deleted.")
            trace(desk, reader, of, span_id)
            return
        _heading()
        if not reader.counts()[0]:
            beginning(desk)
            return
        st.caption(
            "A trace is what an agent did; its spans are the steps of it, most of them calls of a language model."
        )
        table(desk, reader)


def _heading() -> None:
    st.title("Traces", anchor=False)
