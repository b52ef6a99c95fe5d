"""SQL: one SELECT over the workspace's views, as a table, a chart and files; the address holds the query."""

from __future__ import annotations

import time
from typing import Final

import streamlit as st

from raylens.errors import InputError
from raylens_app.web.desk import Desk
from raylens_app.web.query.editor import editor
from raylens_app.web.query.result import result
from raylens_app.web.query.running import TIMEOUT_S, Job, start
from raylens_app.web.states import explained

_JOB: Final = "sql-job"
_SEEN: Final = "sql-seen"
_QUICK_S: Final = 0.4
"""Most queries are done by then, and no page in between is drawn."""
_AGAIN_S: Final = 0.5


def show(desk: Desk) -> None:
    """Draw the page."""
    st.title("SQL", anchor=False)
    st.caption(
        "Everything that RayLens stores is a view. One SELECT in DuckDB's dialect, or EXPLAIN of one; nothing can be "
        f"changed. A query ends after {TIMEOUT_S:g} s, and nobody else waits for it."
    )
    job: Job | None = st.session_state.get(_JOB)
    busy = job is not None and not job.future.done()
    sql, rows, pressed = editor(busy=busy)
    linked = not st.session_state.get(_SEEN) and bool(sql)
    st.session_state[_SEEN] = True
    with explained():
        if pressed and not sql:
            st.session_state.pop(_JOB, None)
            raise InputError("there is no query.", hint="write one, or take an example.")
        if pressed or linked:
            job = st.session_state[_JOB] = start(desk.workspace, sql, rows)
        if job is None:
            return
        if not job.done_within(_QUICK_S):
            if pressed or linked:
                st.rerun()  # the editor was drawn when nothing was under way
            _watch(job)
            return
        if busy:
            st.rerun()  # and now nothing is any more
        if (job.sql, job.rows) != (sql, rows):
            st.caption("The editor holds another query by now; this is what came of the last one that ran.")
        result(job.result())


@st.fragment(run_every=_AGAIN_S)
def _watch(job: Job) -> None:
    if job.future.done():
        st.rerun()
    if st.button("Stop", icon=":material/stop:", disabled=job.asked_to_stop.is_set()):
        job.stop()
    if job.asked_to_stop.is_set():
        st.info("Stopping …", icon=":material/hourglass_empty:")
    elif job.waits:
        st.info("Other queries are running; this one is next.", icon=":material/hourglass_empty:")
    else:
        st.info(f"Running for {time.monotonic() - job.began:.0f} s …", icon=":material/hourglass_empty:")
