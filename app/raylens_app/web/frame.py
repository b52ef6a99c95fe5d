"""What stands around every page: navigation, login, the state of the workspace, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import streamlit as st

from raylens import __version__
from raylens.errors import RaylensError
from raylens_app.web.desk import open_desk
from raylens_app.web.login import signed_in
from raylens_app.web.one_entry import one_entry_a_step
from raylens_app.web.plain import plain
from raylens_app.web.registry import Page, streamlit_pages
from raylens_app.web.settings import AppSettings
from raylens_app.web.states import empty, guarded, refused
from raylens_app.web.theme import style_sheet

# A file of our own: a browser would fetch the picture of an emoji or a Material symbol from somewhere.
_ICON: Final = str(Path(__file__).with_name("icon.svg"))


def run() -> None:
    """Draw the page that the address names: one run of the script."""
    settings = AppSettings.from_environment()
    st.set_page_config(page_title="RayLens", page_icon=_ICON, layout="wide")
    # Before the login: without a navigation Streamlit would not know the address of a deep link.
    page = st.navigation(streamlit_pages(lambda page: _show(page, settings)), position="top")
    st.html(style_sheet())
    one_entry_a_step()
    if signed_in(required=settings.login):
        page.run()


def _show(page: Page, settings: AppSettings) -> None:
    with guarded():
        try:
            desk = open_desk(settings)
        except RaylensError as error:
            _no_workspace(settings, error)
            return
        if page.needs == "features" and not desk.has_features:
            _nothing_to_read(desk.workspace.url)
            return
        page.show(desk)


def _no_workspace(settings: AppSettings, error: RaylensError) -> None:
    st.title("This workspace cannot be opened")
    refused(error)
    st.markdown(
        f"The app was started on `{plain(settings.workspace)}` by RayLens {plain(__version__)}. This page works again "
        "as soon as the workspace does; another one is named with"
    )
    st.code("raylens --workspace PATH app", language="bash")


def _nothing_to_read(url: str) -> None:
    empty(
        "There are no features yet.",
        "They come from a cache: activations of an SAE on text. This makes a small one of the embedded model, and "
        "explains some of its features; it takes some minutes.",
        command=f"raylens --workspace {url} demo",
    )
