"""Next-token probabilities of both models, a pair of bars a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import altair as alt

from raylens_app.web.charts import draw
from raylens_app.web.theme import SERIES, is_dark, soft

_MODELS: Final = ("baseline", "patched")
_ENDS: Final = (0.1, 0.2, 0.5, 1.0)
"""Where the axis may end: it moves only when probabilities change a lot, so that a toggle can be seen."""
_TOKEN_PX: Final = 26
_AXIS_PX: Final = 100


def probabilities(rows: Sequence[Mapping[str, Any]], subtitle: str) -> None:
    """Draw them, the likeliest token on top.

    Args:
        rows: ``token``, ``model`` (``baseline`` or ``patched``) and ``probability``; two a token, in order.
        subtitle: What makes the difference.
    """
    title = alt.TitleParams(
        "What comes next after the text", subtitle=subtitle, anchor="start", subtitleColor=soft(dark=is_dark())
    )
    largest = max((float(row["probability"]) for row in rows), default=1.0)
    end = next((one for one in _ENDS if one >= largest), _ENDS[-1])
    colour = alt.Scale(domain=list(_MODELS), range=list(SERIES[:2]))
    chart = (
        alt.Chart(alt.Data(values=list(rows)), title=title)
        .mark_bar()
        .encode(
            x=alt.X("probability:Q", title="probability of the token", scale=alt.Scale(domain=[0, end])),
            y=alt.Y("token:N", sort=None, title=None, axis=alt.Axis(labelOverlap=False, labelLimit=180)),
            yOffset=alt.YOffset("model:N", sort=list(_MODELS)),
            color=alt.Color("model:N", scale=colour, title="model"),
            tooltip=[
                alt.Tooltip("token:N"),
                alt.Tooltip("model:N"),
                alt.Tooltip("probability:Q", format=".4f"),
            ],
        )
        .properties(height=_AXIS_PX + _TOKEN_PX * (len(rows) // 2))
    )
    draw(chart)
