"""The pages, a line each, and how one leads to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

import streamlit as st

if TYPE_CHECKING:
    from streamlit.navigation.page import StreamlitPage

    from raylens_app.web.desk import Desk


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes:
        name: Its path in the address, and its module in :mod:`raylens_app.web.pages`, which has ``show(desk)``.
        title: In the navigation and the browser's tab.
        icon: A Material symbol's name.
        needs: ``features`` where there is nothing to see before a cache was merged, else empty.
    """

    name: str
    title: str
    icon: str
    needs: str = ""

    def show(self, desk: Desk) -> None:
        """Draw it; its module is imported when it is first looked at, so that the first page comes soon."""
        import_module(f"raylens_app.web.pages.{self.name}").show(desk)


PAGES: Final = (
    Page("home", "Home", "home"),
    Page("features", "Features", "table_rows", needs="features"),
    Page("feature", "Feature", "center_focus_strong", needs="features"),
    Page("compare", "Compare", "compare_arrows", needs="features"),
    Page("score_card", "Score card", "insights", needs="features"),
    Page("audits", "Audits", "fact_check"),
    Page("audit", "Audit", "gavel"),
    Page("traces", "Traces", "account_tree"),
    Page("workbench", "Workbench", "tune"),
    Page("sql", "SQL", "database"),
)
"""In the order of the navigation; the first one is where the bare address leads."""


def streamlit_pages(show: Callable[[Page], None]) -> list[StreamlitPage]:
    """The pages as Streamlit's navigation takes them.

    Args:
        show: Draws one, with all that stands around it.
    """
    return [_streamlit_page(page, show) for page in PAGES]


def go(name: str, **params: str | Iterable[str]) -> NoReturn:
    """Leave for another page; its address gets ``params``, which are its state.

    A name that the page left behind has bound to a widget cannot be given here: Streamlit refuses it. So widgets of one
    page are not called as what other pages are asked for by (``id``, ``cache``).
    """
    st.switch_page(_target(name), query_params=dict(params))


def link(name: str, label: str, *, icon: str | None = None, help: str | None = None, **params: str) -> None:
    """A link to another page, in this session; ``label`` is Markdown (:func:`raylens_app.web.plain.plain`)."""
    shown = f":material/{icon}:" if icon else None
    st.page_link(_target(name), label=label, icon=shown, help=help, query_params=dict(params))


def page_of(name: str) -> Page:
    """The page of that name."""
    return next(page for page in PAGES if page.name == name)


def _target(name: str) -> StreamlitPage:
    # Streamlit knows pages by their path, so this one leads to the one in the navigation.
    return _streamlit_page(page_of(name), lambda _: None)


def _streamlit_page(page: Page, show: Callable[[Page], None]) -> StreamlitPage:
    def draw() -> None:
        show(page)

    draw.__name__ = page.name
    first = page is PAGES[0]
    icon = f":material/{page.icon}:"
    return st.Page(draw, title=page.title, icon=icon, url_path="" if first else page.name, default=first)
