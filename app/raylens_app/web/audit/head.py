"""The head of an audit: which one, the verdict in a sentence, and what it rests on."""

from __future__ import annotations

import streamlit as st

from raylens.reports.markup import element
from raylens.reports.numbers import figure, percent
from raylens.reports.wording import verdict_line
from raylens_app.web.audit.shelf import Audited
from raylens_app.web.plain import plain
from raylens_app.web.registry import link
from raylens_app.web.theme import VERDICTS


def head(audited: Audited) -> None:
    """Draw it."""
    about, said = audited.artefacts.decision, audited.decision
    link("audits", "All audits", icon="arrow_back")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title(plain(about.title or about.run), width="content", anchor=False)
        st.badge(said.verdict, color=VERDICTS[said.verdict])
    when = f" · {audited.made.finished_at:%Y-%m-%d %H:%M} UTC" if audited.made and audited.made.finished_at else ""
    st.caption(
        plain(
            f"{audited.place} · {about.candidate.kind} {about.candidate.name} against {about.reference.name} · "
            f"suite {about.suite.name}, {about.suite.n_prompts} prompts in {about.suite.n_forms} wordings · "
            f"SAE {about.sae or 'none'}{when}"
        )
    )
    st.markdown(f"**{plain(verdict_line(said))}** {plain(said.reason)}")
    pairs = (
        ("p", figure(said.p_value)),
        ("benign fine-tunes (n)", str(said.n_benign)),
        ("target false-positive rate", percent(said.target_fpr)),
        (said.score_method, figure(said.aggregate_score, 4)),
        ("threshold", figure(said.threshold, 4)),
        ("smallest p possible", figure(said.smallest_p)),
        ("capability", said.capability),
    )
    st.html(
        element(
            "dl",
            (element("div", element("dt", name), element("dd", value)) for name, value in pairs),
            class_="rl-facts",
        )
    )
