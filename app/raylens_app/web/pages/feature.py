"""Feature: all that is known of one, the text it fires in, and what it does on a text of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import streamlit as st

from raylens.errors import RaylensError
from raylens_app.web.desk import Desk
from raylens_app.web.feature.causes import causes
from raylens_app.web.feature.explanations import explanations
from raylens_app.web.feature.head import head
from raylens_app.web.feature.own_text import own_text
from raylens_app.web.feature.people import people
from raylens_app.web.feature.relatives import relatives
from raylens_app.web.feature.subject import Subject
from raylens_app.web.feature.windows import BOUND, windows
from raylens_app.web.states import explained


def show(desk: Desk) -> None:
    """Draw the page."""
    st.text_input(
        "Feature",
        key=_JUMP,
        max_chars=1400,
        placeholder="another feature: f_<layer>_<index>, or <sae>/<index>",
        label_visibility="collapsed",
        icon=":material/search:",
        on_change=_jump,
    )
    name = st.query_params.get("id", "").strip()
    if not name:
        st.title("Feature")
        st.markdown("Name a feature above, as `f_3_17` or `raylens-pico-res/layer_3/17`, or choose one of the list.")
        return
    with explained():
        subject = _subject(desk, name)
        head(subject)
        part = st.segmented_control(
            "part", tuple(_PARTS), default=_FIRST, required=True, key="part", bind=BOUND, label_visibility="collapsed"
        )
        with explained():
            _PARTS[part or _FIRST](subject)


def _subject(desk: Desk, name: str) -> Subject:
    try:
        return Subject(desk, *desk.features.find(name, st.query_params.get("cache")))
    except RaylensError:
        st.title("Feature")
        raise


def _jump() -> None:
    """Show the feature that was typed, in whatever cache was merged last."""
    if name := str(st.session_state[_JUMP]).strip():
        st.query_params["id"] = name
        st.query_params.pop("cache", None)
    st.session_state[_JUMP] = ""


def _shape(subject: Subject) -> None:
    # Charts are imported where they are wanted: that takes a quarter of a second.
    from raylens_app.web.feature.shape import shape

    shape(subject)


_JUMP: Final = "jump"
_FIRST: Final = "windows"
_PARTS: Final[Mapping[str, Callable[[Subject], None]]] = {
    _FIRST: windows,
    "explanations": explanations,
    "activations and logits": _shape,
    "related features": relatives,
    "your text": own_text,
    "causes": causes,
    "labels and notes": people,
}
"""Only the chosen one is drawn: that is what keeps a click quick."""
