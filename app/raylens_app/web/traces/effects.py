"""Ablation and counterfactuals: what each token that went in did for what came out (A0.06).

Where the model runs here its tokens are taken out and replaced one by one, and its output is measured again; a model
behind an API has to be asked again by whoever has its key, and the tab says how.
"""

from __future__ import annotations

from typing import Final

import streamlit as st

from raylens.api.extraction import EffectsAnswer
from raylens.api.reading import AblateAnswer, TokenEffect
from raylens.catalog.support import support
from raylens.errors import RaylensError
from raylens.traces.span import Span
from raylens_app.cli.render import token_text as shown_token
from raylens_app.web.desk import Desk
from raylens_app.web.plain import plain
from raylens_app.web.services import down
from raylens_app.web.states import empty
from raylens_app.web.tokens import token_text

BOUND: Final = "query-params"
_ANSWER: Final = "span-effects"
_TOKENS: Final = 64
_MOST: Final = 512
_ROW_PX: Final = 35
_TALLEST: Final = 460


def effects(desk: Desk, span: Span) -> None:
    """Draw it."""
    st.caption(
        "What did each token that went in do for what came out? Each is taken out, the most important ones are also "
        "replaced, and the log-probability of the output is measured again."
    )
    found = support(desk.catalog, span.model)
    if found.status in ("api-only", "unnamed"):
        _by_hand(found.reason)
        return
    if not span.input or not span.output:
        missing = "input" if not span.input else "output"
        empty(f"This span has no {missing}.", "Effects are those of what went in on what came out: both are needed.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n_tokens = st.number_input(
            "tokens taken out", 1, _MOST, _TOKENS, step=16, key="tokens", bind=BOUND, width=180,
            help="At most; spread evenly where the input has more. Each is a pass of the model.",
        )  # fmt: skip
        pressed = st.button("Measure effects", icon=":material/play_arrow:", type="primary", key="effects-measure")
    if pressed:
        _measure(desk, span, n_tokens)
    kept = st.session_state.get(_ANSWER)
    if isinstance(kept, EffectsAnswer) and kept.span_id == span.span_id:
        if kept.effects is None:
            st.warning(f"{plain(kept.reason)}  \n{plain(kept.hint)}", icon=":material/block:")
        else:
            _shown(kept.effects)


def _by_hand(reason: str) -> None:
    empty(
        "These need whoever runs the model: it has to answer each changed prompt.",
        f"{reason} Ablation and counterfactuals need only its answers, so they can be done by hand.",
    )
    st.markdown(
        "1. **Ablation**: leave one part of the input out, a sentence or a turn, and ask the model again. What changes "
        "the answer mattered.\n"
        "2. **Counterfactuals**: put something else in the place of that part, another name or number, and see whether "
        "the answer follows it.\n"
        "3. Ask several times each, or at temperature 0: answers differ by themselves too."
    )


def _measure(desk: Desk, span: Span, n_tokens: int) -> None:
    st.session_state.pop(_ANSWER, None)
    try:
        with st.spinner("Measuring …", show_time=True), desk.services.client() as client:
            st.session_state[_ANSWER] = client.sae.span_effects(span.span_id, n_tokens=n_tokens)
    except RaylensError as error:
        down(desk.services, error)


def _shown(found: AblateAnswer) -> None:
    spoke = [0.0] * found.n_input
    for one in found.ablations:
        spoke[one.position] = max(0.0, -one.effect)
    st.markdown("**The input, shaded by how much each token spoke for the output**")
    label = "input, shaded by how much each token spoke for the output, in nats"
    st.html(token_text(found.tokens[: found.n_input], spoke, max(spoke, default=0.0), label=label))
    measured = f"{len(found.ablations):,} of {found.n_input:,} tokens were taken out"
    st.caption(plain(f"log-probability of the output {found.log_prob:.4g} nats · {measured} · {found.model}"))
    if found.n_dropped:
        st.warning(f"{found.n_dropped:,} tokens at the end of the output were not read: the model's context is full.")
    rows = sorted((*found.ablations, *found.counterfactuals), key=lambda one: one.effect)
    st.dataframe(
        [_row(one) for one in rows],
        hide_index=True,
        column_config={
            "effect": st.column_config.NumberColumn(
                "effect (nats)", format="%+.3f", help="Log-probability of the output after the change, less before."
            ),
            "output": st.column_config.NumberColumn("output after it (nats)", format="%.3f"),
        },
        height=min(_TALLEST, _ROW_PX * (len(rows) + 1) + 3),
        row_height=_ROW_PX,
        alt="effects of tokens on the output, those that spoke for it most first",
    )


def _row(one: TokenEffect) -> dict[str, object]:
    return {
        "place": one.position,
        "token": shown_token(one.token),
        "change": "taken out" if one.substitute is None else f"replaced by {shown_token(one.substitute)}",
        "effect": one.effect,
        "output": one.log_prob,
    }
