"""A feature on a text of one's own, read by the services."""

from __future__ import annotations

from typing import Final

import streamlit as st

from raylens.api.feature_texts import ActivateAnswer
from raylens.errors import RaylensError
from raylens_app.web.feature.subject import Subject
from raylens_app.web.numbers import figure
from raylens_app.web.plain import plain
from raylens_app.web.services import down
from raylens_app.web.tokens import VALUES_HELP, token_text

_LONGEST: Final = 20_000
_ANSWER: Final = "own-text-answer"


@st.fragment
def own_text(subject: Subject) -> None:
    """Draw the form and, once a text was read, the text. It stays in this session: the address does not hold it."""
    with st.form("own-text", border=False):
        text = st.text_area("A text of your own", max_chars=_LONGEST, height=110, key="own-text-input")
        sent = st.form_submit_button("Read it", icon=":material/play_arrow:", type="primary")
    if sent and text:
        _read(subject, text)
    elif sent:
        st.session_state.pop(_ANSWER, None)
        st.info("Write a text first.")
    kept = st.session_state.get(_ANSWER)
    if isinstance(kept, ActivateAnswer) and kept.feature_id == str(subject.id):
        _shown(subject, kept)


def _read(subject: Subject, text: str) -> None:
    st.session_state.pop(_ANSWER, None)
    services = subject.desk.services
    try:
        with st.spinner("Reading …"), services.client() as client:
            st.session_state[_ANSWER] = client.features.activate(str(subject.id), text)
    except RaylensError as error:
        down(services, error)


def _shown(subject: Subject, read: ActivateAnswer) -> None:
    special = set(read.special)
    there = [place for place in range(len(read.tokens)) if place not in special]
    tokens, values = [read.tokens[place] for place in there], [read.values[place] for place in there]
    if read.position is None:
        st.info(f"It fires on none of the {len(there):,} tokens, as {plain(read.model)} reads them.")
    else:
        share = f", {read.peak / subject.scale:.0%} of its maximum in this cache" if subject.scale > 0 else ""
        st.caption(f"peak {figure(read.peak)}{share}; read by {plain(read.model)}")
    if read.n_dropped:
        st.warning(f"{read.n_dropped:,} tokens at the end were not read: the model's context is full.")
    written = st.toggle("values", key="own-text-values", help=VALUES_HELP)
    label = "your text, shaded by activation"
    st.html(token_text(tokens, values, max(subject.scale, read.peak), values=written, label=label))
