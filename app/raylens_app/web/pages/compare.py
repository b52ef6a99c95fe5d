"""Compare: two or more features side by side, and the same feature in two models on one text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import streamlit as st

from raylens.errors import InputError
from raylens_app.web.comparing.overview import overview
from raylens_app.web.comparing.two_models import two_models
from raylens_app.web.comparing.windows import windows
from raylens_app.web.desk import Desk
from raylens_app.web.feature.subject import Subject
from raylens_app.web.states import explained

_BOUND: Final = "query-params"
MOST: Final = 6
"""Features beside one another: more do not fit a page."""


def show(desk: Desk) -> None:
    """Draw the page."""
    st.title("Compare")
    named = st.text_input(
        "Features",
        key="features",
        bind=_BOUND,
        max_chars=3000,
        placeholder="f_3_17, f_3_20: names as f_<layer>_<index>, or <sae>/<index>, commas between them",
        help=f"Two to {MOST} features, of one SAE or of several.",
    )
    with explained():
        subjects = _subjects(desk, named, st.query_params.get("cache"))
        if not subjects:
            st.markdown("Name features above, as `f_3_17, f_3_20`. One alone can be looked at in two models.")
            return
        part = st.segmented_control(
            "part", tuple(_PARTS), default=_FIRST, required=True, key="compared", bind=_BOUND,
            label_visibility="collapsed",
        )  # fmt: skip
        with explained():
            _PARTS[part or _FIRST](subjects)


def _subjects(desk: Desk, named: str, cache: str | None) -> list[Subject]:
    """The features that are named, each once.

    Raises:
        InputError: One is no feature, or there are too many.
        UnknownNameError: There is no such feature or cache.
    """
    names = list(dict.fromkeys(name for one in named.split(",") if (name := one.strip())))
    if len(names) > MOST:
        raise InputError(f"{len(names)} features are more than the {MOST} that fit.", hint="leave some out.")
    found = [Subject(desk, *desk.features.find(name, cache)) for name in names]
    return list({(one.one.cache_id, one.id): one for one in found}.values())


def _activations(subjects: Sequence[Subject]) -> None:
    # Charts are imported where they are wanted: that takes a quarter of a second.
    from raylens_app.web.comparing.activations import activations

    activations(subjects)


_FIRST: Final = "side by side"
_PARTS: Final[Mapping[str, Callable[[Sequence[Subject]], None]]] = {
    _FIRST: overview,
    "activations and logits": _activations,
    "windows": windows,
    "on a text": two_models,
}
"""Only the chosen one is drawn."""
