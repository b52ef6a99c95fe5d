"""Workbench: a model with features turned up, down or out, beside itself as it is."""

from __future__ import annotations

import streamlit as st

from raylens_app.web.bench.answers import answers
from raylens_app.web.bench.exchange import exchange
from raylens_app.web.bench.patches import patches
from raylens_app.web.bench.session import opened, said_no
from raylens_app.web.desk import Desk
from raylens_app.web.plain import plain
from raylens_app.web.services import down


def show(desk: Desk) -> None:
    """Draw the page."""
    st.title("Workbench", anchor=False)
    if desk.services.health().said is None:
        st.markdown("The workbench runs a model, which the services do.")
        down(desk.services)
        return
    found = opened(desk)
    if found is None:
        return
    bench, session = found
    lora = f" with {session.adapter}" if session.adapter else ""
    st.caption(plain(f"{session.model}{lora} · {session.n_layers} layers · {len(session.saes)} SAEs"))
    said_no()
    left, right = st.columns([2, 3], gap="large")
    with left:
        patches(bench, session)
        exchange(bench, session)
    with right:
        answers(bench, session)
