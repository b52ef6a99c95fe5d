"""Effect sizes of the features that changed, a bar each from a common zero, with their q-values."""

from __future__ import annotations

from collections.abc import Sequence

from raylens.audit.feature_rows import FeatureRow
from raylens.reports.markup import Markup, element
from raylens.reports.numbers import figure, signed


def effect_bars(rows: Sequence[FeatureRow]) -> Markup:
    """A table whose middle column is drawn; the longest bar is the largest magnitude."""
    longest = max((abs(row.effect) for row in rows if row.effect is not None), default=0.0) or 1.0
    return element(
        "figure",
        element(
            "table",
            element(
                "thead",
                element(
                    "tr",
                    element("th", "feature", scope="col"),
                    element("th", "effect", scope="col", class_="bar"),
                    element("th", "g", scope="col", class_="right"),
                    element("th", "q", scope="col", class_="right"),
                ),
            ),
            element("tbody", (_row(row, longest) for row in rows)),
            class_="bars",
        ),
        element(
            "figcaption",
            "Hedges’ g of the paired differences candidate − reference, prompts as units: to the right of the middle "
            "what the candidate has more of. q is Benjamini and Hochberg’s.",
        ),
    )


def _row(row: FeatureRow, longest: float) -> Markup:
    return element(
        "tr",
        element("th", element("code", row.id), scope="row"),
        element("td", _bar(row.effect, longest), class_="bar"),
        element("td", signed(row.effect), class_="right"),
        element("td", figure(row.q_value), class_="right"),
    )


def _bar(effect: float | None, longest: float) -> Markup:
    middle = element("line", class_="axis", x1="50%", x2="50%", y1=0, y2="100%")
    if effect is None:
        return element("svg", middle, aria_hidden="true")
    width = 49 * min(1.0, abs(effect) / longest)
    bar = element(
        "rect",
        class_="up" if effect > 0 else "down",
        x=f"{50 - width if effect < 0 else 50:.2f}%",
        y="15%",
        width=f"{width:.2f}%",
        height="70%",
    )
    # The figure stands in the next cell.
    return element("svg", bar, middle, aria_hidden="true")
