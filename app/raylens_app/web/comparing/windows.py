"""The strongest windows of each feature, a column each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import streamlit as st

from raylens.reports.markup import Child, element, joined
from raylens_app.web.feature.subject import Subject
from raylens_app.web.plain import plain
from raylens_app.web.tokens import VALUES_HELP, exact, token_text

_CONTEXT: Final = 12
_COUNTS: Final = (3, 5, 10)


def windows(subjects: Sequence[Subject]) -> None:
    """Draw them, each feature's on its own scale."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n = st.selectbox("windows of each", _COUNTS, index=1, key="each", bind="query-params", width=140)
        values = st.toggle("values", key="each_values", bind="query-params", help=VALUES_HELP)
    st.caption(
        f"The {n} strongest windows, {_CONTEXT} tokens to either side of the peak. Each feature has a scale of its "
        "own; point at a token for its exact activation, or turn on values."
    )
    for place, one in zip(st.columns(len(subjects)), subjects, strict=True):
        with place:
            st.markdown(f"**{plain(one.short)}**")
            found = one.desk.features.windows(one.one, one.index, 0.0, math.inf, n)
            if not found:
                st.caption("It fires in no window of this cache.")
                continue
            blocks: list[Child] = []
            for each in found:
                activations = each.activations.tolist()
                shown = token_text(each.tokens, activations, one.scale, context=_CONTEXT, values=values)
                where = f"peak {exact(each.peak)} · {each.path or each.source}"
                blocks += [element("p", where, class_="rl-soft"), shown]
            st.html(joined(*blocks))
