"""What the model says of a text, untouched and patched: next-token probabilities, and what each writes."""

from __future__ import annotations

from typing import Final

import streamlit as st

from raylens.api.workbench import InferenceAnswer, NextChange, SessionAnswer
from raylens.errors import RaylensError
from raylens_app.cli.render import token_text
from raylens_app.web.bench.chart import probabilities
from raylens_app.web.bench.session import Bench
from raylens_app.web.numbers import figure
from raylens_app.web.services import down

BOUND: Final = "query-params"
_PROMPT: Final = "def area(radius):\n    return"
_LONGEST: Final = 6000
"""Characters: the address holds the text."""
_TOPS: Final = (5, 10, 20, 50)
_WRITTEN: Final = "bench-written"


def answers(bench: Bench, session: SessionAnswer) -> None:
    """Draw the text, the probabilities, and the part in which both models write."""
    text = st.text_area("Text", value=_PROMPT, max_chars=_LONGEST, height=140, key="prompt", bind=BOUND)
    top = st.selectbox("tokens shown", _TOPS, index=1, key="top", bind=BOUND, width=140)
    if not text:
        st.caption("Write something: what comes next is shown here.")
        return
    found = _asked(bench, text=text, top_k=top)
    if found is None:
        return
    if found.n_dropped:
        st.warning(f"{found.n_dropped:,} tokens at the end were not read: the model's context is full.")
    _chart(found)
    _table(found)
    _writing(bench, session, text)


def _asked(bench: Bench, **asked: object) -> InferenceAnswer | None:
    try:
        found = bench.ask(lambda services: services.infer(**asked))
    except RaylensError as error:
        down(bench.desk.services, error)
        return None
    assert isinstance(found, InferenceAnswer)
    return found


def _chart(found: InferenceAnswer) -> None:
    on = len(found.patches)
    said = f"{on} patch{'' if on == 1 else 'es'} on · KL {figure(found.kl)} nats" if on else "no patch is on"
    rows = [
        {"token": label, "model": model, "probability": getattr(one, model)}
        for label, one in zip(_labels(found.next), found.next, strict=True)
        for model in ("baseline", "patched")
    ]
    probabilities(rows, said)


def _table(found: InferenceAnswer) -> None:
    rows = [
        {"token": label, "baseline": one.baseline, "patched": one.patched, "change": one.change}
        for label, one in zip(_labels(found.next), found.next, strict=True)
    ]
    exact, signed = (st.column_config.NumberColumn(format=form) for form in ("%.4f", "%+.4f"))
    with st.expander("as a table"):
        st.dataframe(
            rows,
            hide_index=True,
            column_config={
                "baseline": exact,
                "patched": exact,
                "change": signed,
            },
        )


def _labels(tokens: tuple[NextChange, ...]) -> list[str]:
    """Of tokens, none twice: two may read the same."""
    shown = [token_text(one.token) for one in tokens]
    return [
        label if shown.count(label) == 1 else f"{label} ({one.id})" for label, one in zip(shown, tokens, strict=True)
    ]


def _writing(bench: Bench, session: SessionAnswer, text: str) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n = st.number_input("tokens written", 1, 1024, 48, key="written", bind=BOUND, width=150)
        heat = st.number_input("temperature", 0.0, 2.0, 0.0, 0.1, key="temperature", bind=BOUND, width=150)
        wanted = st.button("Write on", icon=":material/edit:", type="primary")
    key = session.session, text, n, heat, tuple(patch.model_dump_json() for patch in session.patches)
    if wanted:
        st.session_state.pop(_WRITTEN, None)
        with st.spinner("Both models write …"):
            made = _asked(bench, text=text, max_new_tokens=n, temperature=heat)
        if made is not None:
            st.session_state[_WRITTEN] = key, text, made
    kept = st.session_state.get(_WRITTEN)
    if kept is None:
        return
    if kept[0] != key:
        st.caption("Text or patches have changed since this was written.")
    _, text, made = kept
    for place, title, written in zip(
        st.columns(2), ("baseline", "patched"), (made.baseline, made.patched), strict=True
    ):
        place.caption(title)
        # With what it goes on from: by itself it would lose the line break and the indentation that it begins with.
        place.code(f"{text}{written}", language=None, wrap_lines=True)
