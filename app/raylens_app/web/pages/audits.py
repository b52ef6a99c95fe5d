"""Audits: all of this workspace with their verdicts, and the form that has another one made."""

from __future__ import annotations

import streamlit as st

from raylens_app.web.audit.request_form import request_form
from raylens_app.web.audit.table import BOUND, table
from raylens_app.web.audit.watching import WATCHED, watching
from raylens_app.web.desk import Desk
from raylens_app.web.runs_table import runs_table
from raylens_app.web.states import explained


def show(desk: Desk) -> None:
    """Draw the page."""
    st.title("Audits")
    st.caption(
        "An audit compares a fine-tune with its reference: whether it differs more than benign fine-tunes do, in which "
        "features, and what sets it off."
    )
    if run_id := st.query_params.get(WATCHED, "").strip():
        with explained():
            watching(desk, run_id)
    do = st.segmented_control(
        "view", ("list", "start an audit"), default="list", required=True, key="do", bind=BOUND,
        label_visibility="collapsed",
    )  # fmt: skip
    with explained():
        if do == "list":
            table(desk)
            return
        request_form(desk)
        if any(run.kind == "audit" for run in desk.runs()):
            st.subheader("Runs of audits", anchor="runs")
            runs_table(desk, kind="audit", shown=4)
