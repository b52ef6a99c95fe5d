"""An audit that the services make, looked at again every few seconds until it has ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import streamlit as st

from raylens.api.runs import ENDED, Progress, RunOut
from raylens.errors import RaylensError, UnknownNameError
from raylens_app.web.desk import Desk
from raylens_app.web.numbers import ago, figure
from raylens_app.web.plain import plain
from raylens_app.web.registry import link
from raylens_app.web.services import down
from raylens_app.web.theme import STATUS

WATCHED: Final = "watch"
"""The query parameter that names the run."""
_AGAIN_S: Final = 2.0
_ANSWER_S: Final = 10.0
_LOG_LINES: Final = 40
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""What can be a run's id: the address of the page is anybody's."""


def watching(desk: Desk, run_id: str) -> None:
    """Draw how the run is, again and again until it has ended."""
    with st.container(border=True):
        if not _ID.fullmatch(run_id):
            st.error("The address names no run of the services.", icon=":material/error:")
        elif (run := _asked(desk, run_id)) is not None and run.status in ENDED:
            _shown(run)
        else:
            _under_way(desk, run_id)
        st.button("Close", key="watch-close", on_click=_close, type="tertiary", help="The run goes on.")


def _close() -> None:
    st.query_params.pop(WATCHED, None)


@st.fragment(run_every=_AGAIN_S)
def _under_way(desk: Desk, run_id: str) -> None:
    run = _asked(desk, run_id, say=True)
    if run is None:
        return
    if run.status in ENDED:
        st.rerun()
    _shown(run)
    with st.container(horizontal=True, vertical_alignment="center"):
        stop = st.button("Stop it", key="watch-stop", help="What is done is kept; the same request goes on from there.")
        wants_log = st.toggle("what it says", key="watch-log")
    if stop:
        _stop(desk, run_id)
    if wants_log:
        _log(desk, run_id)


def _asked(desk: Desk, run_id: str, *, say: bool = False) -> RunOut | None:
    """How it is; None where the services do not say, and why that is on the page where ``say`` is set."""
    try:
        with desk.services.client(timeout_s=_ANSWER_S) as client:
            return client.runs.run(run_id)
    except UnknownNameError as error:
        if say:
            st.error(f"{plain(error.message)}  \n{plain(error.hint)}", icon=":material/error:")
    except RaylensError as error:
        if say:
            st.markdown(f"**{plain(run_id)}** cannot be followed at the moment.")
            down(desk.services, error)
    return None


def _shown(run: RunOut) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(run.status, color=STATUS.get(run.status, "gray"))
        st.markdown(f"**{plain(run.run_id)}**", width="content")
        if (at := run.finished_at or run.started_at or run.submitted_at) is not None:
            what = "ended" if run.finished_at else "began" if run.started_at else "was asked for"
            st.caption(f"{what} {ago(at)}", width="content")
    if run.error:
        st.error(f"{plain(run.error)}  \n{plain(run.hint)}", icon=":material/error:")
    if run.status == "lost":
        st.markdown("Its process is gone and nothing says how it ended; the same request again goes on from there.")
    _progress(run.progress if run.status not in ENDED else ())
    if run.status == "succeeded" and run.result:
        name = run.result.removeprefix("/api/v1/audits/")
        link("audit", f"Read audit {plain(name)}", icon="fact_check", run=name)


def _progress(progress: Sequence[Progress]) -> None:
    for one in progress:
        if one.total:
            text = f"{one.what}: {one.done:,.0f} of {one.total:,.0f}"
            st.progress(min(1.0, one.done / one.total), text=plain(text))
        else:
            st.caption(plain(f"{one.what}: {figure(one.done)}"))


def _stop(desk: Desk, run_id: str) -> None:
    try:
        with desk.services.client() as client:
            client.runs.stop(run_id)
    except RaylensError as error:
        down(desk.services, error)
        return
    st.info("It ends after the piece of work that it is at.")


def _log(desk: Desk, run_id: str) -> None:
    try:
        with desk.services.client() as client:
            said = client.runs.log(run_id, _LOG_LINES)
    except RaylensError as error:
        st.caption(plain(f"{error.message} {error.hint}"))
        return
    st.code("\n".join(said.lines) or "nothing yet", language=None, wrap_lines=True)
