"""What a page shows when there is nothing to show, when something failed, and while it works: each says what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from raylens.errors import RaylensError
from raylens_app.web.plain import plain

_LOG = logging.getLogger(__name__)


def empty(what: str, remedy: str, *, command: str = "") -> None:
    """Nothing is there yet.

    Args:
        what: Is missing, one sentence of our own words.
        remedy: What makes some, likewise.
        command: A command line that does.
    """
    with st.container(border=True):
        st.markdown(f"**{plain(what)}**")
        st.markdown(plain(remedy))
        if command:
            st.code(command, language="bash", wrap_lines=True)


def refused(error: RaylensError) -> None:
    """An error raised on purpose: one sentence, and what to do."""
    st.error(f"{plain(error.message)}  \n{plain(error.hint)}", icon=":material/error:")


@contextmanager
def explained() -> Iterator[None]:
    """Whatever is refused in the block is said on the page, and the page goes on after it."""
    try:
        yield
    except RaylensError as error:
        refused(error)


@contextmanager
def guarded() -> Iterator[None]:
    """As :func:`explained`; of what nobody expected, the log has the traceback and the page one sentence."""
    try:
        with explained():
            yield
    except Exception as error:
        _LOG.exception("a page failed")
        st.error(
            f"This page failed unexpectedly: {plain(type(error).__name__)}.  \n"
            "Its traceback stands in the output of `raylens app`; please report it.",
            icon=":material/error:",
        )
