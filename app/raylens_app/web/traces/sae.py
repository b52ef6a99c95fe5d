"""The SAE tab of a span: which concepts the model was thinking about (A0.01–A0.19).

What was read of the span before is shown from the workspace, without services (A0.11). Nothing is read before somebody
presses the button (A0.12).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import streamlit as st

from raylens.api.extraction import CACHED, ExtractAnswer, Extraction
from raylens.api.reading import KEPT
from raylens.catalog.support import Support, support
from raylens.errors import RaylensError
from raylens.store.trace_reader import TraceReader
from raylens.traces.span import Span
from raylens_app.web.desk import Desk
from raylens_app.web.numbers import ago
from raylens_app.web.plain import plain
from raylens_app.web.services import Services, down
from raylens_app.web.supported import supported
from raylens_app.web.traces.shelf import labelled, traces_of
from raylens_app.web.traces.strip import strip

BOUND: Final = "query-params"
_TOP_K: Final = 20
_FEWEST: Final = 5
_SERVED_S: Final = 10.0
_ANSWERS: Final = "span-answers"
"""What the services answered in this session, by span and SAE: why, and of features that another workspace keeps."""
_NEVER: Final = ("api-only", "unnamed")
"""There is nothing that could be read, whoever is asked."""


def sae(desk: Desk, reader: TraceReader, span: Span) -> None:
    """Draw it."""
    st.caption(
        "Which concepts was the model thinking about? Features of its residual stream, each with its largest "
        "activation over the tokens that went in and came out."
    )
    found = support(desk.catalog, span.model)
    kept = {one.sae: one for one in reader.extractions(span.span_id)}
    if not kept and found.status in _NEVER:
        _never(desk, found)
        return
    chosen, top_k = _controls(desk, span, kept)
    answer = _answer(desk, span, kept.get(chosen), chosen, top_k)
    if answer is not None and answer.features:
        _shown(desk, answer, kept.get(chosen))
    elif answer is not None:
        _refused(answer)
    _button(desk, span, found, chosen, top_k, again=chosen in kept)
    if not kept and found.status != "supported":
        with st.expander(f"Models whose features can be read ({len(desk.supported_models)})"):
            supported(desk)


def _controls(desk: Desk, span: Span, kept: Mapping[str, Extraction]) -> tuple[str, int]:
    """The SAE, empty for the one that is served first, and how many features."""
    saes = list(dict.fromkeys([*kept, *_served(desk, span)]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = saes[0] if saes else ""
        if len(saes) > 1:
            chosen = st.selectbox(
                "SAE", saes, key="span_sae", bind=BOUND, width=300,
                format_func=lambda one: f"{one} ✓" if one in kept else one,
                help="✓ where something was read of this span already.",
            )  # fmt: skip
        top_k = st.number_input(
            "features", _FEWEST, KEPT, _TOP_K, step=5, key="top_k", bind=BOUND, width=150,
            help=f"How many are shown. The {KEPT} largest are kept, so another number reads nothing anew.",
        )  # fmt: skip
    return chosen, top_k


def _served(desk: Desk, span: Span) -> Sequence[str]:
    if span.model is None or desk.services.health().said is None:
        return ()
    return _served_saes(desk.services.url, desk.services).get(desk.catalog.aliases.canonical(span.model), ())


@st.cache_data(ttl=_SERVED_S, show_spinner=False, max_entries=8)
def _served_saes(url: str, _services: Services) -> dict[str, tuple[str, ...]]:
    """SAEs by the one name of their model; empty where the services do not say, which the button will."""
    try:
        with _services.client() as client:
            return {one.model: one.saes for one in client.sae.supported_models().served}
    except RaylensError:
        return {}


def _answer(desk: Desk, span: Span, kept: Extraction | None, chosen: str, top_k: int) -> ExtractAnswer | None:
    """What is kept of the span, as the services would answer it; else what they said last."""
    said: ExtractAnswer | None = st.session_state.get(_ANSWERS, {}).get((span.span_id, chosen))
    if kept is None:
        return said
    hint = ""
    if kept.n_dropped:
        hint = f"the last {kept.n_dropped:,} tokens were left out: {kept.model} does not read so many."
    with st.spinner("Looking for labels …"):
        features = labelled(desk, kept, top_k)
    # Labels that the services fetched for this answer may not be in the workspace yet.
    fetched = {one.index: one for one in said.features if one.label is not None} if said is not None else {}
    return ExtractAnswer(
        span_id=span.span_id,
        model=kept.model,
        sae=kept.sae,
        features=tuple(one if one.label is not None else fetched.get(one.index, one) for one in features),
        reason=said.reason if said is not None else CACHED,
        hint=hint,
    )


def _shown(desk: Desk, answer: ExtractAnswer, kept: Extraction | None) -> None:
    strip(desk, answer.sae or "", answer.features)
    read = f" · {kept.n_tokens:,} tokens, read {ago(kept.at)}" if kept is not None else ""
    st.caption(plain(f"{answer.model} · {answer.sae}{read} · {answer.reason}"))
    if answer.hint:
        st.warning(plain(answer.hint))


def _refused(answer: ExtractAnswer) -> None:
    """Why there are no features, and what to do instead (A0.06, A0.10, A0.23)."""
    fallback = f"  \nWhat works all the same: {plain(' and '.join(answer.fallback))}." if answer.fallback else ""
    st.warning(f"{plain(answer.reason)}  \n{plain(answer.hint)}{fallback}", icon=":material/block:")


def _never(desk: Desk, found: Support) -> None:
    st.warning(
        f"**No features can be read of this span.**  \n{plain(found.reason)}  \n{plain(found.hint)}",
        icon=":material/block:",
    )
    if found.fallback:
        st.markdown(f"What works all the same, in the tab beside this one: **{plain(' and '.join(found.fallback))}**.")
    st.subheader("Models whose features can be read", anchor="models")
    supported(desk)


def _button(desk: Desk, span: Span, found: Support, chosen: str, top_k: int, *, again: bool) -> None:
    override = False
    if not again:
        st.markdown(
            "Nothing was read of this span yet. Reading runs its model once, on the machine of the services; nothing "
            "leaves it."
        )
        if found.status != "supported":
            st.info(f"{plain(found.reason)}  \n{plain(found.hint)}", icon=":material/info:")
        if found.status == "other-model":
            override = st.checkbox("read it although the SAE was trained on another model", key="sae-override")
    pressed = st.button(
        "Read it anew" if again else "Extract now",
        icon=":material/refresh:" if again else ":material/psychology:",
        type="tertiary" if again else "primary",
        key="sae-extract",
    )
    if pressed:
        _extract(desk, span, chosen, top_k, again=again, override=override)


def _extract(desk: Desk, span: Span, chosen: str, top_k: int, *, again: bool, override: bool) -> None:
    try:
        with st.spinner("Reading …", show_time=True), desk.services.client() as client:
            answer = client.sae.extract(span.span_id, top_k, sae=chosen or None, again=again, override_guard=override)
    except RaylensError as error:
        down(desk.services, error)
        return
    answers = st.session_state.setdefault(_ANSWERS, {})
    answers[span.span_id, chosen] = answers[span.span_id, answer.sae or chosen] = answer
    traces_of(desk, now=True)
    st.rerun()
