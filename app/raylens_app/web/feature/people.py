"""What people say of a feature: a label and a star each, and notes. Kept as ``raylens label`` keeps them."""

from __future__ import annotations

import getpass
import os
from typing import Final

import streamlit as st

from raylens.errors import RaylensError
from raylens.store.labels import AUTHOR_LIMIT, LABEL_LIMIT, NOTE_LIMIT
from raylens_app.web.feature.subject import Subject
from raylens_app.web.plain import plain
from raylens_app.web.states import refused

_AUTHOR: Final = "label-author"


def people(subject: Subject) -> None:
    """Draw what is said, and the form that says more."""
    card = subject.card
    for label in card.labels:
        star = "★ " if label.starred else ""
        st.markdown(f"{star}**{plain(label.label or 'starred')}**, {plain(label.author)}, {label.at:%Y-%m-%d}")
    for note in card.notes:
        st.markdown(f"{plain(note.note)}  \n{plain(note.author)}, {note.at:%Y-%m-%d}")
    if not card.labels and not card.notes:
        st.caption("Nobody has said anything of it yet.")
    _form(subject)


def _form(subject: Subject) -> None:
    author = st.session_state.setdefault(_AUTHOR, _known_author(subject))
    own = next((one for one in subject.card.labels if one.author == author), None)
    with st.form(f"say-{subject.id}", border=True):
        who = (st.text_input("your name", value=author, max_chars=AUTHOR_LIMIT) or "").strip()
        before = (own.label if own else None) or ""
        text = st.text_input("your label", value=before, max_chars=LABEL_LIMIT, help="Empty takes it away.")
        star = st.checkbox("star", value=bool(own and own.starred))
        note = (st.text_area("a note", max_chars=NOTE_LIMIT, height=80) or "").strip()
        sent = st.form_submit_button("Save", type="primary")
    if not sent:
        return
    st.session_state[_AUTHOR] = who
    mine = next((one for one in subject.card.labels if one.author == who), None)
    had, starred = (mine.label, mine.starred) if mine else (None, False)
    label = (text or "").strip() or None
    try:
        subject.desk.features.say(
            subject.id,
            who,
            label=label if label != had else None,
            star=star if star != starred else None,
            note=note or None,
            unlabel=label is None and had is not None,
        )
    except RaylensError as error:
        refused(error)
        return
    st.rerun()


def _known_author(subject: Subject) -> str:
    """The user of this machine, where the app serves nobody else."""
    if subject.desk.settings.login:
        return ""
    try:
        return os.environ.get("RAYLENS_AUTHOR", "").strip() or getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as containers have
        return ""
