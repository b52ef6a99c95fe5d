"""One span: what it is, and tabs of what went in and came out, its features, what each token did, its attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import streamlit as st

from raylens.store.trace_reader import TraceReader
from raylens.traces.span import Span
from raylens_app.web.desk import Desk
from raylens_app.web.plain import plain
from raylens_app.web.states import explained
from raylens_app.web.theme import Badge
from raylens_app.web.traces.effects import effects
from raylens_app.web.traces.sae import sae
from raylens_app.web.traces.words import attributes, words

BOUND: Final = "query-params"
PART: Final = "tab"
EFFECTS: Final = "ablation and counterfactuals"
_STATUS: Final[Mapping[str, Badge]] = {"ok": "green", "error": "red"}

_TABS: Final[Mapping[str, Callable[[Desk, TraceReader, Span], None]]] = {
    "input and output": lambda desk, reader, one: words(one),
    "SAE": sae,
    EFFECTS: lambda desk, reader, one: effects(desk, one),
    "attributes": lambda desk, reader, one: attributes(one),
}


def span(desk: Desk, reader: TraceReader, span_id: str) -> None:
    """Draw it.

    Raises:
        UnknownNameError: There is no such span.
    """
    found = reader.span(span_id)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(found.name or found.span_id), anchor=False, width="content")
        st.badge(found.status, color=_STATUS.get(found.status, "gray"))
    took = f" · {(found.ended_at - found.started_at).total_seconds():.3g} s" if found.ended_at is not None else ""
    model = found.model or "no model is named"
    by = f", run by {found.provider}" if found.provider else ""
    st.caption(plain(f"{found.kind} · {model}{by} · {found.started_at:%H:%M:%S.%f}"[:-3] + f"{took} · {found.span_id}"))
    tabs = st.tabs(list(_TABS), key=PART, bind=BOUND, on_change="rerun")
    for tab, draw in zip(tabs, _TABS.values(), strict=True):
        # Only what is looked at is drawn: that is what keeps a click quick.
        if tab.open:
            with tab, explained():
                draw(desk, reader, found)
