"""Features on a text of one's own, in one model or in two; and what audits kept of reference and candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import streamlit as st

from raylens.api.feature_texts import ActivateAnswer
from raylens.errors import RaylensError
from raylens_app.web.comparing.kept_highlights import kept_highlights
from raylens_app.web.feature.subject import Subject
from raylens_app.web.numbers import figure
from raylens_app.web.plain import plain
from raylens_app.web.services import Services, down
from raylens_app.web.tokens import token_text

_LONGEST: Final = 20_000
_ANSWERS: Final = "compare-answers"
_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class Read:
    """What one model read of a text.

    Attributes:
        about: The features, in order.
        answers: One each.
    """

    about: tuple[str, ...]
    answers: tuple[ActivateAnswer, ...]


def two_models(subjects: Sequence[Subject]) -> None:
    """Draw the form and what was read, and below it what audits kept."""
    _own_text(subjects)
    st.markdown("**Reference and candidate, as audits saw them**")
    kept_highlights(subjects)


@st.fragment
def _own_text(subjects: Sequence[Subject]) -> None:
    services = subjects[0].desk.services
    models = _served(services)
    with st.form("compare-text", border=False):
        text = st.text_area("A text of your own", max_chars=_LONGEST, height=110, key="compare-input")
        other = _NONE
        if len(models) > 1:
            other = st.selectbox(
                "beside it, read by",
                (_NONE, *models),
                key="compare-other",
                width=320,
                help="Of the models that the services serve. With an SAE of another model the guard must be overridden "
                "in their config too.",
            )
        sent = st.form_submit_button("Read it", icon=":material/play_arrow:", type="primary")
    if len(models) < 2:
        st.caption(
            "A candidate can be read beside its reference where the services serve both: a checkpoint under `models` "
            "in their config, with the reference's SAEs and `override_guard`. They do not read features with a LoRA "
            "adapter attached; merge it first, or see what audits kept below."
        )
    if sent and text:
        _ask(subjects, text, None if other == _NONE else other)
    about = tuple(str(one.id) for one in subjects)
    kept = st.session_state.get(_ANSWERS) or ()
    if kept and all(isinstance(one, Read) and one.about == about for one in kept):
        _shown(subjects, kept)


def _served(services: Services) -> list[str]:
    """Models that the services say they serve; none where they are down."""
    health = services.health()
    encoder = health.said.parts.get("encoder") if health.said is not None else None
    listed: Any = encoder.said.get("models") if encoder is not None else None
    if not isinstance(listed, list | tuple):
        return []
    return [str(one["model"]) for one in listed if isinstance(one, dict) and "model" in one]


def _ask(subjects: Sequence[Subject], text: str, other: str | None) -> None:
    st.session_state.pop(_ANSWERS, None)
    services, about = subjects[0].desk.services, tuple(str(one.id) for one in subjects)
    options: list[dict[str, Any]] = [{}]
    if other is not None:
        options.append({"model": other, "override_guard": True})
    try:
        with st.spinner("Reading …"), services.client() as client:
            st.session_state[_ANSWERS] = tuple(
                Read(about, tuple(client.features.activate(name, text, **each) for name in about)) for each in options
            )
    except RaylensError as error:
        down(services, error)


def _shown(subjects: Sequence[Subject], kept: Sequence[Read]) -> None:
    for at, one in enumerate(subjects):
        answers = [read.answers[at] for read in kept]
        # Both models on one scale, or the weaker one would look as strong.
        scale = max(one.scale, *(answer.peak for answer in answers), 0.0)
        st.markdown(f"**{plain(one.short)}** {plain(one.said or '')}")
        for place, answer in zip(st.columns(len(answers)), answers, strict=True):
            with place:
                _answer(answer, scale)


def _answer(answer: ActivateAnswer, scale: float) -> None:
    special = set(answer.special)
    there = [place for place in range(len(answer.tokens)) if place not in special]
    said = f"peak {figure(answer.peak)}" if answer.position is not None else f"silent on all {len(there):,} tokens"
    st.caption(plain(f"{answer.model}: {said}"))
    if answer.n_dropped:
        st.warning(f"{answer.n_dropped:,} tokens at the end were not read: the model's context is full.")
    tokens, values = [answer.tokens[place] for place in there], [answer.values[place] for place in there]
    st.html(token_text(tokens, values, scale, label="your text, shaded by activation"))
