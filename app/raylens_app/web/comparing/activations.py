"""How strongly features fire, on one axis, and which tokens each writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import altair as alt
import streamlit as st

from raylens.reports.markup import Markup, element
from raylens.schema import histogram_edges
from raylens_app.web.charts import draw
from raylens_app.web.feature.subject import Subject
from raylens_app.web.numbers import figure
from raylens_app.web.theme import SERIES, is_dark, soft
from raylens_app.web.tokens import one_token

_HEIGHT_PX: Final = 340
_LOGITS: Final = 10
_DASHES: Final = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [1, 4], [12, 4])
"""A line is told from another by its dashes as well as by its colour."""


def activations(subjects: Sequence[Subject]) -> None:
    """Draw both."""
    _histograms([one for one in subjects if one.card.statistics["n_active"]])
    st.markdown(
        "**Tokens by direct effect on the logit**",
        help="The decoder direction through the unembedding. Tokens that several of the features have are bold.",
    )
    st.html(element("div", _logits(subjects, "top", "promotes"), class_="rl-scroll"))
    st.html(element("div", _logits(subjects, "bottom", "suppresses"), class_="rl-scroll"))


def _histograms(subjects: Sequence[Subject]) -> None:
    if not subjects:
        st.caption("None of them fires in its cache.")
        return
    edges = histogram_edges().tolist()
    counts = [one.card.statistics["histogram"] for one in subjects]
    filled = [at for at in range(len(edges) - 1) if any(each[at] for each in counts)]
    kept = range(filled[0], filled[-1] + 1)
    names = [_name(one, subjects) for one in subjects]
    rows: list[dict[str, Any]] = []
    for name, one, each in zip(names, subjects, counts, strict=True):
        n = one.card.statistics["n_active"]
        rows += [
            {"of": name, "at": edges[at], "to": edges[at + 1], "share": each[at] / n, "n": each[at]} for at in kept
        ]
        rows.append({"of": name, "at": edges[kept[-1] + 1], "to": edges[kept[-1] + 1], "share": 0, "n": 0})
    heading = alt.TitleParams(
        "Activations of each feature",
        subtitle="; ".join(
            f"{name}: n = {one.card.statistics['n_active']:,} tokens" for name, one in zip(names, subjects, strict=True)
        ),
        anchor="start",
        subtitleColor=soft(dark=is_dark()),
    )
    domain = [edges[kept[0]], edges[kept[-1] + 1]]
    chart = (
        alt.Chart(alt.Data(values=rows), title=heading)
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(
                "at:Q",
                scale=alt.Scale(type="log", nice=False, domain=domain),
                title="activation (log scale)",
                axis=alt.Axis(format="~g", tickCount=8),
            ),
            y=alt.Y("share:Q", title="share of its activations", axis=alt.Axis(format="%", tickCount=4)),
            color=alt.Color("of:N", sort=names, scale=alt.Scale(domain=names, range=list(SERIES)), title=None),
            strokeDash=alt.StrokeDash(
                "of:N", sort=names, scale=alt.Scale(domain=names, range=list(_DASHES)), title=None
            ),
            tooltip=[
                alt.Tooltip("of:N", title="feature"),
                alt.Tooltip("at:Q", title="from", format=".4g"),
                alt.Tooltip("to:Q", title="to", format=".4g"),
                alt.Tooltip("n:Q", title="tokens", format=","),
            ],
        )
        .properties(height=_HEIGHT_PX)
    )
    draw(chart, alt="activations of each feature")


def _name(one: Subject, subjects: Sequence[Subject]) -> str:
    """Short where that names one of them only; SAEs of one layer have features of the same short name."""
    return (
        one.short if sum(other.short == one.short for other in subjects) == 1 else f"{one.id} ({one.one.cache_id[:6]})"
    )


def _logits(subjects: Sequence[Subject], sign: str, what: str) -> Markup:
    found = [one.card.logits(sign)[:_LOGITS] for one in subjects]
    shared = Counter(token for rows in found for token in {row["token"] for row in rows})
    head = element("tr", (element("th", f"{_name(one, subjects)} {what}", scope="col") for one in subjects))
    body: list[Markup] = []
    for at in range(max(map(len, found), default=0)):
        cells: list[Markup] = []
        for rows in found:
            if at >= len(rows):
                cells.append(element("td", ""))
                continue
            token = one_token(rows[at]["token"])
            shown = element("strong", token) if shared[rows[at]["token"]] > 1 else token
            cells.append(element("td", shown, " ", element("span", figure(rows[at]["logit"]), class_="rl-soft")))
        body.append(element("tr", cells))
    if not body:
        return element("p", f"No logits ({what}): they need weights when the cache is merged.", class_="rl-soft")
    return element("table", element("thead", head), element("tbody", body), class_="rl-table")
