"""The null distribution: scores of benign fine-tunes, the threshold, and the candidate's place."""

from __future__ import annotations

from typing import Any, Final

import altair as alt
import numpy as np

from raylens.audit.artefacts import ScoreFile
from raylens.reports.axis import Axis
from raylens.reports.numbers import count, figure
from raylens_app.web.charts import draw
from raylens_app.web.theme import FOR_AND_AGAINST, is_dark, series, soft

_BINS: Final = 40
_HEIGHT_PX: Final = 330
"""Of all of it, title and axis included."""
_RUG_PX: Final = 22
_MARGIN: Final = 0.02
_RIGHT: Final = 50.0
"""Per cent of the axis beyond which a label stands to the left of its line."""


def null_chart(score: ScoreFile) -> None:
    """Draw it; there must be benign scores."""
    dark = is_dark()
    values = [one.score for one in score.null]
    lines = [] if score.threshold is None else [score.threshold]
    axis = Axis.over([*values, score.aggregate_score, *lines])
    x = _x(axis, score.score_method)
    layers: list[Any] = [_columns(values, axis, x), _strokes(score, x)]
    layers.append(_line(axis, x, score.aggregate_score, "candidate", 8, FOR_AND_AGAINST[dark][0], [1, 0]))
    if score.threshold is not None:
        layers.append(_line(axis, x, score.threshold, "threshold", 26, soft(dark=dark), [6, 4]))
    as_high = sum(one >= score.aggregate_score for one in values)
    heading = alt.TitleParams(
        f"The candidate among {count(len(values), 'benign fine-tune')}",
        subtitle=f"{as_high} of them score {figure(score.aggregate_score, 4)} or higher; higher is more suspicious",
        anchor="start",
        subtitleColor=soft(dark=dark),
    )
    chart = alt.layer(*layers, title=heading).properties(height=_HEIGHT_PX)
    draw(chart, alt=f"scores of {len(values)} benign fine-tunes and the candidate's")


def _x(axis: Axis, method: str) -> alt.X:
    """The axis, a little wider than what stands on it, with room for strokes between it and the columns."""
    beyond = _MARGIN * (axis.high - axis.low)
    domain = [axis.low / 1.1, axis.high * 1.1] if axis.is_log else [axis.low - beyond, axis.high + beyond]
    return alt.X(
        "value:Q",
        scale=alt.Scale(type="log" if axis.is_log else "linear", domain=domain, nice=False, zero=False),
        title=f"{method} score{' (log scale)' if axis.is_log else ''}",
        axis=alt.Axis(format="~g", tickCount=8, offset=_RUG_PX, grid=False),
    )


def _columns(values: list[float], axis: Axis, x: alt.X) -> alt.Chart:
    return (
        alt.Chart(alt.Data(values=_binned(values, axis)))
        .mark_bar(color=series(dark=is_dark()), opacity=0.8)
        .encode(
            x=x,
            x2="high:Q",
            y=alt.Y("n:Q", title="benign fine-tunes", axis=alt.Axis(tickMinStep=1)),
            y2="base:Q",
            tooltip=[
                alt.Tooltip("value:Q", title="from", format=".4g"),
                alt.Tooltip("high:Q", title="to", format=".4g"),
                alt.Tooltip("n:Q", title="benign fine-tunes"),
            ],
        )
    )


def _strokes(score: ScoreFile, x: alt.X) -> alt.Chart:
    rows = [{"value": one.score, "organism": one.organism, "family": one.family} for one in score.null]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_tick(color=soft(dark=is_dark()), thickness=1, size=_RUG_PX - 8, yOffset=_RUG_PX / 2)
        .encode(
            x=x,
            y=alt.value("height"),
            tooltip=[
                alt.Tooltip("organism:N", title="fine-tune"),
                alt.Tooltip("family:N"),
                alt.Tooltip("value:Q", title="score", format=".4g"),
            ],
        )
    )


def _line(
    axis: Axis, x: alt.X, value: float, name: str, at: int, colour: str, dash: list[int]
) -> alt.LayerChart | alt.FacetChart:
    data = alt.Data(values=[{"value": value, "said": f"{name} {figure(value, 4)}"}])
    to_the_left = axis.place(value) > _RIGHT
    rule = alt.Chart(data).mark_rule(color=colour, strokeWidth=2, strokeDash=dash).encode(x=x, tooltip="said:N")
    label = (
        alt.Chart(data)
        .mark_text(
            align="right" if to_the_left else "left",
            dx=-6 if to_the_left else 6,
            y=at,
            color=colour,
            fontSize=13,
            fontWeight="bold",
        )
        .encode(x=x, text="said:N")
    )
    return alt.layer(rule, label)


def _binned(values: list[float], axis: Axis) -> list[dict[str, Any]]:
    """Counts between equal ways of the axis, without empty ones."""
    space = np.geomspace if axis.is_log else np.linspace
    counts, edges = np.histogram(values, bins=space(axis.low, axis.high, _BINS + 1))
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return [{"value": low, "high": high, "n": n, "base": 0} for low, high, n in rows if n]
