"""The editor: a query that the address holds, examples, and the views with their columns."""

from __future__ import annotations

from typing import Final

import streamlit as st

from raylens.store.view_schemas import VIEWS
from raylens_app.web.plain import plain
from raylens_app.web.query.examples import EXAMPLES, columns_of, first_rows

BOUND: Final = "query-params"
SQL: Final = "sql"
_LONGEST: Final = 6000
"""Characters: the address holds the query."""
_ROWS: Final = (100, 1000, 10_000, 100_000)
_EDITOR_PX: Final = 260
_LIST_PX: Final = 318


def editor(*, busy: bool) -> tuple[str, int, bool]:
    """Draw it.

    Args:
        busy: Whether a query of this session is under way.

    Returns:
        The query, rows at most, and whether it is to be run.
    """
    left, right = st.columns([3, 2], gap="medium")
    with left, st.form("sql-form", border=False):
        sql = st.text_area(
            "Query",
            key=SQL,
            bind=BOUND,
            max_chars=_LONGEST,
            height=_EDITOR_PX,
            placeholder="SELECT … FROM one of the views; Ctrl-Enter runs it",
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            rows = st.selectbox(
                "rows at most", _ROWS, index=1, key="most", bind=BOUND, width=150, format_func=lambda one: f"{one:,}"
            )
            run = st.form_submit_button("Run", icon=":material/play_arrow:", type="primary", disabled=busy)
            st.caption("or Ctrl-Enter", width="content")
    with right:
        _lists()
    return sql.strip(), rows, run


def _lists() -> None:
    examples, views = st.tabs(["examples", "views"])
    with examples, st.container(height=_LIST_PX, border=False, gap=None):
        st.caption("A click puts the query into the editor.")
        for number, (says, sql) in enumerate(EXAMPLES):
            st.button(says, key=f"example-{number}", type="tertiary", on_click=_insert, args=(sql,))
    with views, st.container(height=_LIST_PX, border=False, gap=None):
        st.caption("A click puts a query of its first rows into the editor.")
        for view in VIEWS:
            st.button(view, key=f"view-{view}", icon=":material/table:", type="tertiary", on_click=_insert,
                      args=(first_rows(view),))  # fmt: skip
            st.caption(plain(columns_of(view)))


def _insert(sql: str) -> None:
    st.session_state[SQL] = sql
