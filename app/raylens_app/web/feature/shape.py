"""How strongly a feature fires, and which tokens it writes."""

from __future__ import annotations

import altair as alt
import streamlit as st

from raylens.schema import histogram_edges
from raylens_app.cli.render import token_text
from raylens_app.web.charts import bars, histogram
from raylens_app.web.feature.subject import Subject
from raylens_app.web.theme import FOR_AND_AGAINST, is_dark

_SHOWN = 10


def shape(subject: Subject) -> None:
    """Draw the histogram of activations and the tokens with the largest and smallest logits."""
    found = subject.card.statistics
    if found["n_active"]:
        histogram(
            histogram_edges().tolist(),
            found["histogram"],
            title=f"Activations of {subject.short} on {found['n_active']:,} tokens",
            unit="activation",
        )
    top, bottom = (subject.card.logits(sign)[:_SHOWN] for sign in ("top", "bottom"))
    if not top and not bottom:
        st.caption("No logits: they need the SAE's decoder and the model's unembedding when the cache is merged.")
        return
    left, right = st.columns(2)
    colour = FOR_AND_AGAINST[is_dark()]
    for place, rows, title, at in ((left, top, "Promotes", 0), (right, bottom, "Suppresses", 1)):
        with place:
            labelled = [
                {"token": f"{n}  {token_text(row['token'])}", "logit": row["logit"]} for n, row in enumerate(rows, 1)
            ]
            bars(
                labelled,
                alt.X("logit:Q", title="direct effect on the logit"),
                alt.Y("token:N", sort=None, title=None, axis=alt.Axis(labelOverlap=False, labelLimit=160)),
                title=f"{title}: tokens by logit",
                colour=colour[at],
            )
