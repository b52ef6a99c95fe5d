"""Which features, and in which order: widgets whose state is the address of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import streamlit as st

from raylens.labels.buckets import BUCKETS
from raylens.labels.feature_list import SORTS, Wanted
from raylens.store.selection import Readable
from raylens_app.web.desk import Desk

ANY: Final = "any"
ALL: Final = "all"
PAGE: Final = "page"
BOUND: Final = "query-params"
SIZES: Final = (25, 50, 100)

_SORT_TITLES: Final = {
    "density": "density",
    "max": "largest activation",
    "mean": "mean activation",
    "windows": "windows",
    "score": "score",
    "index": "index",
}
_SAID: Final = {ANY: None, "yes": True, "no": False}
_FIRES: Final = {ANY: None, "yes": False, "never": True}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the page was asked for.

    Attributes:
        chosen: SAEs of one cache.
        wanted: Filters and order.
        query: Words to search for; empty for a list.
        by_meaning: Search also by meaning.
        view: ``table``, ``scatter`` or ``map``.
        size: Rows of a page.
    """

    chosen: Sequence[Readable]
    wanted: Wanted
    query: str
    by_meaning: bool
    view: str
    size: int

    @property
    def is_filtered(self) -> bool:
        """Whether any feature is left out."""
        return self.wanted.clause()[1] != []

    @property
    def signature(self) -> str:
        """What determines the rows, for keys of widgets about them."""
        return str(hash((self.wanted, self.query, self.by_meaning, self.size, tuple(self.chosen))))


def ask(desk: Desk) -> Asked:
    """Draw the widgets; what they say.

    Raises:
        UnknownNameError: The address names a cache or SAE that is not there.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = st.text_input(
            "Search",
            key="q",
            bind=BOUND,
            max_chars=500,
            placeholder="what explanations and labels say, for example: import statements",
            on_change=_first_page,
        )
        mode = st.segmented_control(
            "by", ("meaning", "words"), default="meaning", required=True, key="mode", bind=BOUND, on_change=_first_page
        )
        view = st.segmented_control(
            "view", ("table", "scatter", "map"), default="table", required=True, key="view", bind=BOUND
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = _chosen(desk)
        sort, descending = _order(searching=bool(query.strip()))
        with st.popover("Filters", icon=":material/filter_alt:", help="Leave features out."):
            wanted = _filters(sort, descending=descending)
        size = st.selectbox("rows", SIZES, index=1, key="rows", bind=BOUND, on_change=_first_page, width=90)
    return Asked(chosen, wanted, query.strip(), mode == "meaning", view or "table", size)


def _chosen(desk: Desk) -> Sequence[Readable]:
    there = desk.features.readables()
    caches = list(dict.fromkeys(one.cache_id for one in reversed(there)))
    names = {one.cache_id: one.name for one in there}
    cache = caches[0]
    if len(caches) > 1:
        cache = st.selectbox(
            "cache",
            caches,
            key="from_cache",
            bind=BOUND,
            on_change=_first_page,
            help="; ".join(f"{one}: {names[one]}" for one in caches if names[one]) or None,
            width=200,
        )
    saes = [str(one.sae) for one in there if one.cache_id == cache]
    if len(saes) == 1:
        return desk.features.chosen(saes[0], cache)
    sae = st.selectbox("SAE", (ALL, *saes), key="sae", bind=BOUND, on_change=_first_page, width=280)
    return desk.features.chosen(None if sae == ALL else sae, cache)


def _order(*, searching: bool) -> tuple[str, bool]:
    titles = list(_SORT_TITLES.values())
    assert set(_SORT_TITLES) == set(SORTS)
    title = st.selectbox(
        "sort by",
        titles,
        key="sort",
        bind=BOUND,
        on_change=_first_page,
        disabled=searching,
        help="Of all features, not only of this page. A search puts what fits best first.",
        width=180,
    )
    order = st.segmented_control(
        "order",
        ("down", "up"),
        default="down",
        required=True,
        key="order",
        bind=BOUND,
        on_change=_first_page,
        disabled=searching,
    )
    return next(name for name, shown in _SORT_TITLES.items() if shown == title), order != "up"


def _filters(sort: str, *, descending: bool) -> Wanted:
    low = _number("density, at least", "min_density", "Share of tokens on which it fires: 0.001 is 0.1 %.")
    high = _number("density, at most", "max_density", "Likewise.")
    score = _number("score, at least", "min_score", "Mean over scorers of the best explanation's headline figure.")
    bucket = st.selectbox("bucket", (ANY, *BUCKETS), key="bucket", bind=BOUND, on_change=_first_page)
    said = st.segmented_control(
        "has an explanation or label",
        tuple(_SAID),
        default=ANY,
        required=True,
        key="said",
        bind=BOUND,
        on_change=_first_page,
    )
    fires = st.segmented_control(
        "fires in this cache", tuple(_FIRES), default=ANY, required=True, key="fires", bind=BOUND, on_change=_first_page
    )
    return Wanted(
        min_density=low,
        max_density=high,
        min_score=score,
        explained=_SAID[said or ANY],
        dead=_FIRES[fires or ANY],
        bucket=None if bucket == ANY else bucket,
        sort=sort,
        descending=descending,
    )


def _number(label: str, key: str, says: str) -> float | None:
    return st.number_input(
        label,
        min_value=0.0,
        max_value=1.0,
        value=None,
        step=None,
        format="%g",
        key=key,
        bind=BOUND,
        placeholder="any",
        help=says,
        on_change=_first_page,
    )


def _first_page() -> None:
    """Other rows: page 7 of them may not exist."""
    st.session_state[PAGE] = 1
