"""Charts: each with a title that says what it shows, axes with units, and colours from the theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import altair as alt
import streamlit as st
from altair.utils import schemapi

from raylens.labels.buckets import BUCKETS
from raylens_app.web.theme import bucket_colours, is_dark, series, soft

_SHAPES: Final = ("triangle-up", "square", "diamond", "cross", "circle")
"""Of buckets: colour never says something alone."""
PICK: Final = "pick"
_HISTOGRAM_PX: Final = 280
_BAR_PX: Final = 24
_BASE: Final = 0.8
"""Tokens at which bars begin, for their axis is logarithmic: one token is seen, none is not."""
_AXIS_PX: Final = 120
_SCATTER_PX: Final = 520


alt.theme.enable("none")  # Streamlit's own is put over it


def check_charts(*, check: bool) -> None:
    """Say whether charts are checked against Vega-Lite's schema when they are made.

    Tests have every one checked. In the app it would take most of the time of a page with charts.
    """
    (schemapi.enable_debug_mode if check else schemapi.disable_debug_mode)()


check_charts(check=False)


def draw(chart: alt.Chart | alt.LayerChart | alt.FacetChart, **given: Any) -> Any:
    """Show a chart, as ``st.altair_chart`` does with the same arguments but for the check."""
    return st.vega_lite_chart(spec=chart.to_dict(validate=schemapi.DEBUG_MODE), **given)


def histogram(edges: Sequence[float], counts: Sequence[int], *, title: str, unit: str) -> None:
    """Counts between edges, without the empty ends.

    Args:
        edges: ``[n + 1]`` rising, log-spaced.
        counts: ``[n]``.
        title: What it shows.
        unit: Of the axis.
    """
    filled = [at for at, count in enumerate(counts) if count]
    if not filled:
        return
    kept = range(filled[0], filled[-1] + 1)
    rows = [{"low": edges[at], "high": edges[at + 1], "tokens": counts[at]} for at in kept]
    rows = [row | {"base": _BASE} for row in rows if row["tokens"]]
    chart = (
        alt.Chart(alt.Data(values=rows), title=title)
        .mark_bar(color=series(dark=is_dark()))
        .encode(
            x=alt.X(
                "low:Q",
                scale=alt.Scale(type="log", nice=False, domain=[rows[0]["low"], rows[-1]["high"]]),
                title=f"{unit} (log scale)",
                axis=alt.Axis(format="~g", tickCount=8),
            ),
            x2="high:Q",
            y=alt.Y(
                "tokens:Q",
                scale=alt.Scale(type="log", domainMin=_BASE),
                title="tokens (log scale)",
                axis=alt.Axis(format="~s", tickCount=4),
            ),
            y2="base:Q",
            tooltip=[
                alt.Tooltip("low:Q", title="from", format=".4g"),
                alt.Tooltip("high:Q", title="to", format=".4g"),
                alt.Tooltip("tokens:Q", format=","),
            ],
        )
        .properties(height=_HISTOGRAM_PX)
    )
    draw(chart)


def scatter(
    rows: Sequence[Mapping[str, Any]],
    x: alt.X,
    y: alt.Y,
    *,
    title: str,
    subtitle: str,
    key: str,
    tooltip: Sequence[alt.Tooltip],
) -> str | None:
    """Features as points, coloured by bucket; the ``feature_id`` of the one that was chosen, if one was.

    Args:
        rows: With ``feature_id``, ``bucket``, and what the axes and the tooltip name.
        x: One axis, with its title and unit.
        y: The other.
        title: What it shows.
        subtitle: Of how many.
        key: Of the widget.
        tooltip: What is said of a point.
    """
    heading = alt.TitleParams(title, subtitle=subtitle, anchor="start", subtitleColor=soft(dark=is_dark()))
    pick = alt.selection_point(name=PICK, fields=["feature_id"])
    colour = alt.Scale(domain=list(BUCKETS), range=bucket_colours(dark=is_dark()))
    chart = (
        alt.Chart(alt.Data(values=sorted(rows, key=_rare_last)), title=heading)
        .mark_point(filled=True, size=46, opacity=0.75)
        .encode(
            x=x,
            y=y,
            color=alt.Color("bucket:N", scale=colour, title="bucket"),
            shape=alt.Shape("bucket:N", scale=alt.Scale(domain=list(BUCKETS), range=list(_SHAPES)), title="bucket"),
            tooltip=list(tooltip),
        )
        .add_params(pick)
        .properties(height=_SCATTER_PX)
    )
    event = draw(chart, on_select="rerun", selection_mode=PICK, key=key)
    chosen = event["selection"].get(PICK) or []
    return str(chosen[0]["feature_id"]) if chosen else None


def _rare_last(row: Mapping[str, Any]) -> bool:
    """What is of a bucket lies on top of what is of none."""
    return row["bucket"] != BUCKETS[-1]


def bars(rows: Sequence[Mapping[str, Any]], x: alt.X, y: alt.Y, *, title: str, colour: str) -> None:
    """Horizontal bars, the first row on top.

    Args:
        rows: What the axes name.
        x: Length, with its title and unit.
        y: Names; none twice.
        title: What it shows.
        colour: Of all bars.
    """
    marks = alt.Chart(alt.Data(values=list(rows)), title=title).mark_bar(color=colour).encode(x=x, y=y)
    draw(marks.properties(height=_AXIS_PX + _BAR_PX * len(rows)))
