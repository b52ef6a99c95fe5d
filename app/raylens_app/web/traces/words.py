"""What a span says: what went in, what came out, and whatever else was reported of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import streamlit as st

from raylens.reports.markup import element
from raylens.traces.bounds import as_text
from raylens.traces.span import Span, Turn
from raylens_app.web.plain import plain
from raylens_app.web.tokens import token_text

_LONG: Final = 8_000
"""Characters of a text that are shown at first."""
_MOST: Final = 200_000
"""Characters that a browser shows without a pause; of more than that there is a file."""
_VALUE: Final = 2_000


def words(span: Span) -> None:
    """Draw what went in and what came out."""
    for title, said in (("input", span.input), ("output", span.output)):
        st.markdown(f"**{title}**")
        if not said:
            st.caption(f"The span has no {title}.")
        elif isinstance(said, str):
            _text(said, f"{title}, as it was reported", f"{span.span_id}-{title}")
        else:
            _turns(said, f"{span.span_id}-{title}")


def attributes(span: Span) -> None:
    """Draw all else that was reported."""
    if not span.attributes:
        st.caption("Nothing else was reported of this span.")
        return
    rows = (
        element("tr", element("td", key, dir="auto"), element("td", _value(value), dir="auto"))
        for key, value in span.attributes.items()
    )
    head = element("tr", element("th", "attribute"), element("th", "value"))
    table = element("table", element("thead", head), element("tbody", list(rows)), class_="rl-table")
    st.html(element("div", table, class_="rl-scroll"))
    st.download_button(
        "All as JSON",
        json.dumps(span.attributes, ensure_ascii=False, indent=1, default=str),
        file_name=f"{span.span_id}-attributes.json",
        mime="application/json",
        icon=":material/download:",
        on_click="ignore",
        type="tertiary",
    )


def _turns(turns: Sequence[Turn], key: str) -> None:
    for number, turn in enumerate(turns):
        st.caption(plain(turn.role))
        _text(turn.content, f"what {turn.role} says", f"{key}-{number}")
    st.caption(f"{len(turns):,} turns: the model's own template puts them together.")


def _text(text: str, label: str, key: str) -> None:
    with st.container(border=True, gap="small"):
        if not text.strip():
            st.caption("nothing but space" if text else "nothing")
            return
        whole = len(text) <= _LONG
        if not whole and len(text) <= _MOST:
            whole = st.toggle(f"all {len(text):,} characters", key=f"all-{key}")
        st.html(token_text([text if whole else text[:_LONG]], [0.0], 1.0, label=label))
        if not whole:
            st.caption(f"the first {_LONG:,} of {len(text):,} characters")
            st.download_button(
                "The whole text", text, file_name=f"{key}.txt", key=f"file-{key}", icon=":material/download:",
                on_click="ignore", type="tertiary",
            )  # fmt: skip


def _value(value: Any) -> str:
    text = as_text(value)
    return text if len(text) <= _VALUE else f"{text[:_VALUE]} … ({len(text):,} characters)"
