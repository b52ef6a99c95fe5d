"""The session of the services that a Workbench page works in; its name stands in the address, so that a link restores
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import streamlit as st

from raylens.api.workbench import SessionAnswer
from raylens.client.workbench import Workbench
from raylens.errors import RaylensError
from raylens_app.web.desk import Desk
from raylens_app.web.plain import plain
from raylens_app.web.services import down

PARAMETER: Final = "session"
REFUSED: Final = "bench-refused"
"""What a click was refused for, until it was shown."""


class Bench:
    """One session, for one run of the page.

    Attributes:
        desk: What the page works with.
        name: Of the session.
    """

    def __init__(self, desk: Desk, name: str) -> None:
        self.desk, self.name = desk, name

    def ask(self, what: Callable[[Workbench], object]) -> object:
        """Ask the services something of this session.

        Raises:
            RaylensError: They refuse it, or do not answer.
        """
        with self.desk.services.client() as client:
            return what(client.workbench(self.name))

    def click(self, what: Callable[[Workbench], object]) -> None:
        """The same from a widget's callback: what is refused is said when the page is drawn."""
        try:
            self.ask(what)
        except RaylensError as error:
            st.session_state[REFUSED] = error


def opened(desk: Desk) -> tuple[Bench, SessionAnswer] | None:
    """The session of the address; None where there is none, and then the page has said how one is begun."""
    name = st.query_params.get(PARAMETER, "").strip()
    if not name:
        _begin(desk)
        return None
    bench = Bench(desk, name)
    try:
        with desk.services.client() as client:
            return bench, client.workbench(name).show()
    except RaylensError as error:
        down(desk.services, error)
        st.button("Begin a new session", on_click=_leave)
        return None


def said_no() -> None:
    """Show what the last click was refused for, once."""
    error = st.session_state.pop(REFUSED, None)
    if isinstance(error, RaylensError):
        st.error(f"{plain(error.message)}  \n{plain(error.hint)}", icon=":material/error:")


def _begin(desk: Desk) -> None:
    st.markdown(
        "Turn features of a model up, down or out while it runs, and see at once what it would say next. What you do "
        "here is in nobody else's answers; the address of the page brings you back to it."
    )
    with st.form("begin", width=560):
        model = st.text_input("Model", max_chars=400, placeholder="the one that is served first", key="bench-model")
        adapter = st.text_input(
            "LoRA on it", max_chars=4000, placeholder="none", help="A folder inside RAYLENS_BASE_DIR.", key="bench-lora"
        )
        sent = st.form_submit_button("Load", type="primary", icon=":material/play_arrow:")
    if not sent:
        return
    try:
        with st.spinner("Loading …"), desk.services.client() as client:
            found = client.workbench().load_model(model.strip() or None, adapter.strip() or None)
    except RaylensError as error:
        down(desk.services, error)
        return
    st.query_params[PARAMETER] = found.session
    st.rerun()


def _leave() -> None:
    st.query_params.pop(PARAMETER, None)
