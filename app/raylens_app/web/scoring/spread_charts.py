"""How scores spread over features, a chart a scorer, beside what explanations of other features get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import altair as alt
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from raylens.labels.page_shapes import HEADLINES
from raylens.score.aggregate import median
from raylens.store.score_spread import Scored, Spread
from raylens_app.web.charts import draw
from raylens_app.web.numbers import figure
from raylens_app.web.scoring.passes import ScoredPass
from raylens_app.web.theme import is_dark, series, soft

_BINS: Final = 20
_HEIGHT_PX: Final = 320
"""Of all of it, title, axis and legend included."""
_OWN: Final = "own explanation"
_SHUFFLED: Final = "another feature's"
_SHARES: Final = frozenset({"f1", "precision", "recall", "accuracy", "balanced_accuracy", "auc"})
"""Metrics between 0 and 1."""


def spread_charts(found: Sequence[ScoredPass], *, all_metrics: bool) -> None:
    """Draw one chart a pass, scorer and metric; by default of each scorer the metric that is its score."""
    charts = [
        (one, own, shuffled)
        for one in found
        for own, shuffled in _pairs(one.scored)
        if all_metrics or own.metric == _headline(one.scored, own.scorer)
    ]
    columns = st.columns(2)
    for at, (one, own, shuffled) in enumerate(charts):
        with columns[at % 2]:
            _chart(one, own, shuffled)


def _pairs(found: Scored) -> list[tuple[Spread, Spread | None]]:
    """Each metric of features' own explanations, with its control where there is one."""
    controls = {(one.scorer, one.metric): one for one in found.spreads if one.control is not None}
    return [(one, controls.get((one.scorer, one.metric))) for one in found.spreads if one.control is None]


def _headline(found: Scored, scorer: str) -> str:
    metrics = [one.metric for one in found.spreads if one.scorer == scorer and one.control is None]
    return next((name for name in HEADLINES if name in metrics), min(metrics))


def _chart(one: ScoredPass, own: Spread, shuffled: Spread | None) -> None:
    row = next((r for r in one.card["figures"] if (r["scorer"], r["metric"]) == (own.scorer, own.metric)), None)
    heading = alt.TitleParams(
        f"{own.scorer} {own.metric}, {one.explainer} explainer",
        subtitle=_said(own, shuffled, row),
        anchor="start",
        subtitleColor=soft(dark=is_dark()),
    )
    if not len(own.values):
        st.markdown(f"**{own.scorer} {own.metric}**: no feature has a value.")
        return
    edges = _edges(own, shuffled)
    rows = _binned(own.values, edges, _OWN)
    if shuffled is not None and len(shuffled.values):
        rows += _binned(shuffled.values, edges, _SHUFFLED)
    colours = alt.Scale(domain=[_OWN, _SHUFFLED], range=[series(dark=is_dark()), soft(dark=is_dark())])
    base = alt.Chart(alt.Data(values=rows))
    tooltip = [
        alt.Tooltip("of:N", title="explanation"),
        alt.Tooltip("low:Q", title="from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
        alt.Tooltip("n:Q", title="features", format=","),
    ]
    x = alt.X("low:Q", title=own.metric, scale=alt.Scale(domain=[edges[0], edges[-1]], nice=False, zero=False))
    y = alt.Y("share:Q", title="share of features", axis=alt.Axis(format="%", tickCount=4))
    colour = alt.Color("of:N", scale=colours, title=None, legend=alt.Legend(orient="bottom"))
    columns = (
        base.transform_filter(alt.datum.of == _OWN)
        .mark_bar(opacity=0.8)
        .encode(x=x, x2="high:Q", y=y, y2="base:Q", color=colour, tooltip=tooltip)
    )
    steps = (
        base.transform_filter(alt.datum.of == _SHUFFLED)
        .mark_line(interpolate="step-after", strokeWidth=2, strokeDash=[5, 3])
        .encode(x=x, y=y, color=colour)
    )
    chart = alt.layer(columns, steps, title=heading).properties(height=_HEIGHT_PX)
    draw(chart, alt=f"distribution of {own.scorer} {own.metric}")


def _said(own: Spread, shuffled: Spread | None, row: Mapping[str, Any] | None) -> list[str]:
    lines = [f"n = {len(own.values):,} features"]
    if row is not None and row["median"] is not None:
        lines = [_median(row["median"], row["ci_low"], row["ci_high"], row["n"])]
    if shuffled is not None and len(shuffled.values):
        found = median(shuffled.metric, shuffled.values.tolist())
        assert found.value is not None  # there are values
        lines.append(f"another feature's: {_median(found.value, found.ci_low, found.ci_high, found.n)}")
    return lines


def _median(value: float, low: float | None, high: float | None, n: int) -> str:
    interval = "" if low is None or high is None else f" ({figure(low)}–{figure(high)})"
    return f"median {figure(value)}{interval}, n = {n:,} features"


def _edges(own: Spread, shuffled: Spread | None) -> list[float]:
    values = own.values if shuffled is None else np.concatenate([own.values, shuffled.values])
    low, high = float(values.min()), float(values.max())
    if own.metric in _SHARES and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1).tolist()


def _binned(values: NDArray[np.float64], edges: Sequence[float], of: str) -> list[dict[str, Any]]:
    counts, _ = np.histogram(values, bins=np.array(edges))
    rows = [
        {"low": low, "high": high, "n": n, "share": n / len(values), "base": 0, "of": of}
        for low, high, n in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]
    # A line of steps ends where its last step does.
    return rows if of == _OWN else [*rows, rows[-1] | {"low": edges[-1], "high": edges[-1]}]
