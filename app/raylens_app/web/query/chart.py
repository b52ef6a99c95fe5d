"""Rows of a query as bars, a line, or points: which columns, the person says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final

import altair as alt
import pyarrow as pa
import pyarrow.types as types
import streamlit as st

from raylens_app.web.charts import draw
from raylens_app.web.query.result import is_number, readable
from raylens_app.web.states import empty
from raylens_app.web.theme import SERIES, is_dark, series, soft

BOUND: Final = "query-params"
_MOST: Final = 5000
"""Points that a browser draws without a pause."""
_NONE: Final = "one"
_HEIGHT: Final = 420
_UNITS: Final[Mapping[str, str]] = {
    "density": "share of tokens",
    "activation": "in the SAE's own units",
    "max_activation": "in the SAE's own units",
    "mean_activation": "in the SAE's own units",
    "effect": "of the candidate, less its reference",
    "p_value": "share of benign fine-tunes",
    "cosine": "no unit",
    "value": "of the scorer's metric",
}
"""What is known of columns by their name; of counts and seconds the name itself says it."""

_MARKS: Final[Mapping[str, Callable[[alt.Chart, str], alt.Chart]]] = {
    "bars": lambda chart, colour: chart.mark_bar(color=colour),
    "line": lambda chart, colour: chart.mark_line(color=colour, point={"size": 24}),
    "points": lambda chart, colour: chart.mark_point(color=colour, filled=True, opacity=0.75),
}


def chart(table: pa.Table) -> None:
    """Draw the choices and the chart."""
    numbers = [field.name for field in table.schema if is_number(field.type)]
    if not numbers:
        empty("No column of this result holds numbers.", "A chart needs one: count(*) is one.")
        return
    names = list(table.column_names)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control("chart", tuple(_MARKS), default="bars", required=True, key="chart", bind=BOUND)
        x = st.selectbox("across (x)", names, key="x", bind=BOUND, width=240)
        last = numbers[-1] if numbers[-1] != x or len(numbers) == 1 else numbers[0]
        y = st.selectbox("up (y)", numbers, index=numbers.index(last), key="y", bind=BOUND, width=240)
        by = st.selectbox("colours", (_NONE, *_few(table, names)), key="by", bind=BOUND, width=200)
    if x is None or y is None:
        return
    shown = readable(table.slice(0, _MOST))
    columns = {"x": x, "y": y} | ({} if by == _NONE else {"by": by})
    every = zip(*(shown[name].to_pylist() for name in columns.values()), strict=True)
    rows = [dict(zip(columns, map(_plain, values), strict=True)) for values in every]
    of = f"{len(rows):,} rows" if table.num_rows <= _MOST else f"the first {len(rows):,} of {table.num_rows:,} rows"
    title = alt.TitleParams(f"{y} by {x}", subtitle=of, anchor="start", subtitleColor=soft(dark=is_dark()))
    drawn = _MARKS[kind or "bars"](alt.Chart(alt.Data(values=rows), title=title), series(dark=is_dark()))
    # Sorted as the query sorts, unless the axis is one of quantities.
    across = alt.X(f"x:{_scale(shown[x].type, kind or 'bars')}", title=_titled(x), sort=None)
    up = alt.Y("y:Q", title=_titled(y))
    tooltip = [alt.Tooltip(across.shorthand, title=x), alt.Tooltip("y:Q", title=y)]
    drawn = drawn.encode(x=across, y=up, tooltip=tooltip)
    if by != _NONE:
        drawn = drawn.encode(color=alt.Color("by:N", scale=alt.Scale(range=list(SERIES)), title=by))
        # Told apart without colours, too; parts of a bar stand in the order of the legend.
        if kind == "points":
            drawn = drawn.encode(shape=alt.Shape("by:N", title=by))
        elif kind == "line":
            drawn = drawn.encode(strokeDash=alt.StrokeDash("by:N", title=by))
    draw(drawn.properties(height=_HEIGHT))


def _few(table: pa.Table, names: Sequence[str]) -> list[str]:
    """Columns of so few different values that each has a colour of its own."""
    found: list[str] = []
    for name in names:
        column = readable(table.select([name]).slice(0, _MOST))[name]
        if not types.is_nested(column.type) and len(column.unique()) <= len(SERIES):
            found.append(name)
    return found


def _scale(kind: pa.DataType, chosen: str) -> str:
    if types.is_timestamp(kind) or types.is_date(kind):
        return "T"
    return "Q" if is_number(kind) and chosen != "bars" else "O"


def _titled(name: str) -> str:
    unit = _UNITS.get(name)
    return f"{name} ({unit})" if unit else name


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, list) else value
