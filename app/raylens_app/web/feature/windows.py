"""Text in which a feature fires: its strongest windows, or weaker ones, which tell more about what it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import streamlit as st

from raylens.reports.markup import Child, element, joined
from raylens.store.examples import Example
from raylens.store.peak_bounds import bounds_of_share
from raylens_app.web.feature.subject import Subject
from raylens_app.web.numbers import figure
from raylens_app.web.states import empty
from raylens_app.web.tokens import VALUES_HELP, copied, exact, token_text

BOUND: Final = "query-params"
SHARES: Final = 10
_KINDS: Final = ("top", "quantile", "interval", "random")
_WIDTHS: Final = ("8", "16", "32", "whole window")
_COUNTS: Final = (5, 10, 20, 50)


@st.fragment
def windows(subject: Subject) -> None:
    """Draw what the address asks for; choosing others draws only this part again."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control("windows", _KINDS, default="top", required=True, key="windows", bind=BOUND) or "top"
        low, high = _bounds(subject, kind)
        n = st.selectbox("how many", _COUNTS, index=1, key="n", bind=BOUND, width=110)
        width = st.selectbox(
            "tokens around the peak", _WIDTHS, index=1, key="context", bind=BOUND, width=170, help="On either side."
        )
        breaks = st.toggle("break lines", value=True, key="breaks", bind=BOUND)
        values = st.toggle("values", key="values", bind=BOUND, help=VALUES_HELP)
        as_text = st.toggle(
            "as text", key="text", bind=BOUND, help="Without shades, each with a button that copies it."
        )
    sampled = kind in ("quantile", "random")
    found = subject.desk.features.windows(subject.one, subject.index, low, high, n, sampled=sampled)
    if not found:
        empty("It fires in no window like that.", "A wider interval, or the top windows, show where it does.")
        return
    st.caption(_heading(kind, low, high, len(found)))
    context = 0 if width == _WIDTHS[-1] else int(width)
    if as_text:
        for one in found:
            st.caption(_where(one))
            st.code(copied(one.tokens), language=None, wrap_lines=True)
    else:
        _shaded(found, subject.scale, context, breaks=breaks, values=values)


def _bounds(subject: Subject, kind: str) -> tuple[float, float]:
    """Peaks of the windows that are wanted: at least, and below."""
    if kind == "quantile":
        number = st.slider(
            "tenth of its windows",
            1,
            SHARES,
            SHARES - 1,
            key="tenth",
            bind=BOUND,
            help="10 is the strongest tenth. Each is a random sample, always the same one.",
            width=220,
        )
        reader = subject.desk.features.reader(subject.one)
        return bounds_of_share(reader, subject.one.sae, subject.index, number, SHARES)
    if kind == "interval":
        low = st.number_input("peak, at least", 0.0, value=0.0, format="%g", key="low", bind=BOUND, width=130)
        high = st.number_input(
            "peak, below", 0.0, value=None, format="%g", key="high", bind=BOUND, placeholder="no bound", width=130
        )
        return low, math.inf if high is None else high
    return 0.0, math.inf


def _heading(kind: str, low: float, high: float, n: int) -> str:
    if kind == "top":
        return (
            f"The {n} strongest windows. Point at a token for its exact activation, or turn on values; the peak is "
            "underlined."
        )
    if kind == "random":
        return f"A random sample of {n} of all windows in which it fires."
    span = f"from {figure(low)}" + (f" to {figure(high)}" if math.isfinite(high) else "")
    return f"{n} windows with peaks {span}."


def _shaded(found: Sequence[Example], scale: float, context: int, *, breaks: bool, values: bool) -> None:
    """One block of HTML for all: a component each would be slow."""
    blocks: list[Child] = []
    for one in found:
        activations = one.activations.tolist()
        text = token_text(one.tokens, activations, scale, context=context, breaks=breaks, values=values)
        blocks += [element("p", _where(one), class_="rl-soft"), text]
    st.html(joined(*blocks))


def _where(one: Example) -> str:
    place = one.path or one.source
    return f"peak {exact(one.peak)} · {place} · window {one.window_id:,}"
