"""A feature followed back in a text of one's own, by the services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import streamlit as st

from raylens.api.provenance import Provenance
from raylens.errors import RaylensError
from raylens_app.web.feature.subject import Subject
from raylens_app.web.numbers import figure
from raylens_app.web.plain import plain
from raylens_app.web.services import down
from raylens_app.web.tokens import copied

_LONGEST: Final = 6000
_ANSWER: Final = "followed-back"
_TOPS: Final = (5, 10, 20, 50)

Draw = Callable[[Subject, Provenance], None]


@st.fragment
def follow(subject: Subject, draw: Draw) -> None:
    """Draw the form and, once a text was followed, its graph. It stays in this session, and is not kept."""
    with st.form("follow", border=True):
        text = st.text_area("A text to follow it back in", _strongest(subject), max_chars=_LONGEST, height=110)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            top = st.selectbox("sources a layer", _TOPS, index=1, width=150)
            sent = st.form_submit_button("Follow it back", icon=":material/account_tree:", type="primary")
    if sent and text:
        _ask(subject, text, top)
    kept = st.session_state.get(_ANSWER)
    if isinstance(kept, Provenance) and kept.target.name == str(subject.id):
        target = kept.target
        st.caption(
            plain(
                f"{target.short} on token {target.token} ({target.text!r}): activation {figure(target.activation)}; "
                f"{len(kept.edges)} edges, {_agreement(kept)}; read by {kept.model}"
            )
        )
        draw(subject, kept)


def _agreement(found: Provenance) -> str:
    return f"ablation confirms the sign of {found.agreement:.0%}" if found.edges else "none was tested"


def _strongest(subject: Subject) -> str:
    """The text in which it fires most, as far as a form takes it."""
    found = subject.desk.features.windows(subject.one, subject.index, 0.0, float("inf"), 1)
    return copied(found[0].tokens)[:_LONGEST] if found else ""


def _ask(subject: Subject, text: str, top: int) -> None:
    st.session_state.pop(_ANSWER, None)
    services = subject.desk.services
    try:
        with st.spinner("Following it back …"), services.client() as client:
            st.session_state[_ANSWER] = client.sae.provenance(str(subject.id), text, top=top)
    except RaylensError as error:
        down(services, error)
