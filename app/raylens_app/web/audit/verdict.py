"""Why the verdict: the candidate's place among benign fine-tunes, all score methods, and what none of it says."""

from __future__ import annotations

import streamlit as st

from raylens.reports.wording import ONE_VERDICT, posture
from raylens_app.web.audit.null_chart import null_chart
from raylens_app.web.audit.shelf import Audited
from raylens_app.web.plain import plain
from raylens_app.web.states import empty


def verdict(audited: Audited) -> None:
    """Draw it."""
    score = audited.artefacts.score
    if score.null:
        null_chart(score)
    else:
        model = audited.artefacts.decision.reference.name
        empty(
            "There are no benign fine-tunes to compare with.",
            "A distance alone is no verdict. This makes some and scores them; the same audit then has a p-value.",
            command=f"{audited.command} organisms build --model {model} --kind benign --half development",
        )
    _methods(audited)
    st.markdown("**What this does and does not say**")
    st.markdown("\n".join(f"- {plain(sentence)}" for sentence in posture(audited.artefacts)))


def _methods(audited: Audited) -> None:
    rows = [
        {
            "method": one.method,
            "score": one.score,
            "p": one.p_value,
            "n": one.n_benign,
            "gives": "the verdict" if one.gives_verdict else "diagnostic" if one.diagnostic else "evidence",
            "what it measures": f"{one.description} {one.note}".strip(),
        }
        for one in audited.artefacts.score.methods
    ]
    columns = {
        "score": st.column_config.NumberColumn(format="%.4g", help="Larger is more suspicious; each has its own unit."),
        "p": st.column_config.NumberColumn(format="%.3g", help="Conformal, against benign scores of the same method."),
        "n": st.column_config.NumberColumn(help="Benign fine-tunes."),
        "what it measures": st.column_config.TextColumn(width="large"),
    }
    st.markdown("**Scores of all methods**", help=ONE_VERDICT)
    st.dataframe(rows, hide_index=True, column_config=columns, placeholder="–", alt="scores of all methods")
    st.caption(ONE_VERDICT)
