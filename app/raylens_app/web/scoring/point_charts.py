"""Precision beside recall, and scores by how often features fire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import altair as alt
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from raylens.score.aggregate import GOOD_F1, GOOD_PRECISION, GOOD_RECALL
from raylens_app.web.charts import draw
from raylens_app.web.scoring.passes import ScoredPass
from raylens_app.web.theme import SERIES, is_dark, series, soft

_GRID: Final = 40
"""Cells a side: a hundred thousand features are drawn as no more than 1,600 circles."""
_HEIGHT_PX: Final = 420
"""Of all of it, title, axis and legend included."""
_ABOVE: Final = "above the thresholds"
_BELOW: Final = "not"
_SHAPES: Final = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def precision_and_recall(found: Sequence[ScoredPass]) -> None:
    """A chart a pass and scorer that says yes or no."""
    charts = [(one, scorer, points) for one in found for scorer, points in one.scored.points.items() if len(points)]
    columns = st.columns(2)
    for at, (one, scorer, points) in enumerate(charts):
        with columns[at % 2]:
            _points(one, scorer, points)


def _points(one: ScoredPass, scorer: str, points: NDArray[np.float64]) -> None:
    above = np.all(points > np.array([GOOD_PRECISION, GOOD_RECALL, GOOD_F1]), axis=1)
    heading = alt.TitleParams(
        f"Precision and recall: {scorer}, {one.explainer} explainer",
        subtitle=[
            f"{int(above.sum()):,} of n = {len(points):,} features are above both dashed lines and of F1 > {GOOD_F1}",
            "the larger a mark, the more features",
        ],
        anchor="start",
        subtitleColor=soft(dark=is_dark()),
    )
    cells: Counter[tuple[int, int, bool]] = Counter()
    for (p, r, _), good in zip(np.rint(points * _GRID).astype(int).tolist(), np.asarray(above).tolist(), strict=True):
        cells[p, r, good] += 1
    rows = [
        {"precision": p / _GRID, "recall": r / _GRID, "n": n, "is": _ABOVE if good else _BELOW}
        for (p, r, good), n in cells.items()
    ]
    colours = alt.Scale(domain=[_ABOVE, _BELOW], range=[series(dark=is_dark()), soft(dark=is_dark())])
    below = alt.Legend(orient="bottom")
    dots = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, opacity=0.7)
        .encode(
            x=alt.X("recall:Q", title="recall", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("precision:Q", title="precision", scale=alt.Scale(domain=[0, 1])),
            size=alt.Size("n:Q", scale=alt.Scale(range=[25, 500]), legend=None),
            color=alt.Color("is:N", scale=colours, title=None, legend=below),
            shape=alt.Shape(
                "is:N", scale=alt.Scale(domain=[_ABOVE, _BELOW], range=["circle", "diamond"]), title=None, legend=below
            ),
            tooltip=["precision:Q", "recall:Q", alt.Tooltip("n:Q", title="features")],
        )
    )
    dash, grey = [5, 4], soft(dark=is_dark())
    down = alt.Chart(alt.Data(values=[{"x": GOOD_RECALL}])).mark_rule(strokeDash=dash, color=grey).encode(x="x:Q")
    across = alt.Chart(alt.Data(values=[{"y": GOOD_PRECISION}])).mark_rule(strokeDash=dash, color=grey).encode(y="y:Q")
    chart = alt.layer(dots, down, across, title=heading).properties(height=_HEIGHT_PX)
    draw(chart, alt=f"precision and recall of {scorer}")


def by_density(found: Sequence[ScoredPass]) -> None:
    """Median F1 in bands of density, with its interval; a colour and a shape a pass and scorer."""
    rows = [_band(one, row) for one in found for row in one.card["by_density"] if row["value"] is not None]
    if not rows:
        return
    names = list(dict.fromkeys(row["of"] for row in rows))
    order = list(dict.fromkeys(row["band"] for row in sorted(rows, key=lambda row: row["above"])))
    heading = alt.TitleParams(
        "F1 by density",
        subtitle="median over features, with its 95 % interval where there are enough",
        anchor="start",
        subtitleColor=soft(dark=is_dark()),
    )
    base = alt.Chart(alt.Data(values=rows))
    x = alt.X(
        "band:N", sort=order, title="density: share of tokens on which features fire", axis=alt.Axis(labelAngle=0)
    )
    beside = alt.XOffset("of:N", sort=names)
    colour = alt.Color("of:N", sort=names, scale=alt.Scale(domain=names, range=list(SERIES)), title=None)
    shape = alt.Shape("of:N", scale=alt.Scale(domain=names, range=list(_SHAPES)), title=None)
    tooltip = [
        alt.Tooltip("of:N", title="scorer"),
        alt.Tooltip("band:N", title="density"),
        alt.Tooltip("value:Q", title="median F1", format=".3f"),
        alt.Tooltip("low:Q", title="from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
        alt.Tooltip("n:Q", title="features", format=","),
    ]
    spans = (
        base.transform_filter("datum.low !== null")
        .mark_rule(strokeWidth=2)
        .encode(x=x, xOffset=beside, y="low:Q", y2="high:Q", color=colour)
    )
    dots = base.mark_point(filled=True, size=90).encode(
        x=x,
        xOffset=beside,
        y=alt.Y("value:Q", title="F1", scale=alt.Scale(domain=[0, 1])),
        color=colour,
        shape=shape,
        tooltip=tooltip,
    )
    draw(alt.layer(spans, dots, title=heading).properties(height=_HEIGHT_PX), alt="F1 by density")
    columns = {name: st.column_config.NumberColumn(format="%.3f") for name in ("median F1", "from", "to")}
    st.dataframe(
        [
            {"scorer": row["of"], "density": row["band"], "median F1": row["value"], "from": row["low"]}
            | {"to": row["high"], "features": row["n"]}
            for row in rows
        ],
        hide_index=True,
        column_config=columns,
        placeholder="–",
        alt="median F1 by band of density",
    )


def _band(one: ScoredPass, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "of": f"{row['scorer']}, {one.explainer}",
        "above": row["density_above"],
        "band": f"{100 * row['density_above']:g}–{100 * row['density_to']:g} %",
        "value": row["value"],
        "low": row["ci_low"],
        "high": row["ci_high"],
        "n": row["n"],
    }
