"""Scores of organisms, a line a family and a dot an organism, beside the threshold: the picture of ``audit bench``.

It is an SVG file of its own, with its colours in it, for a page or a paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raylens.audit.halves import Half
from raylens.audit.organism_bench import Scored
from raylens.reports.axis import Axis
from raylens.reports.markup import Markup, element, joined
from raylens.reports.numbers import count, figure

_WIDTH: Final = 900
_LEFT: Final = 200
"""Pixels for names of families."""
_LINE: Final = 17
_TOP: Final = 44
_FOOT: Final = 52
_GROUPS: Final[tuple[tuple[bool, Half, str], ...]] = (
    (True, "held_out", "backdoored, held-out families"),
    (True, "development", "backdoored, development"),
    (False, "held_out", "benign, held-out families"),
    (False, "held_out_seeds", "benign, held-out seeds"),
    (False, "development", "benign, development"),
)
_STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #1a1d21; }
.page { fill: #ffffff; } .soft, .soft text { fill: #555c66; } .group { font-weight: 700; }
.axis, .line { stroke: #d4d8de; } .threshold { stroke: #1a1d21; stroke-width: 1.5; stroke-dasharray: 5 4; }
.bad { fill: #b04a00; fill-opacity: .75; } .good { fill: #0072b2; fill-opacity: .6; }
"""


def family_plot(organisms: Sequence[Scored], method: str, threshold: float | None) -> str:
    """The file's text.

    Args:
        organisms: Of any half; those that the method has not scored are left out.
        method: Whose scores are drawn.
        threshold: A score above it is flagged; None where too few benign ones calibrate.

    Raises:
        ValueError: The method has scored none of them.
    """
    scored = [one for one in organisms if method in one.scores]
    if not scored:
        raise ValueError(f"{method} has scored no organism")
    marks = [threshold] if threshold is not None else []
    axis = Axis.over([one.scores[method] for one in scored] + marks)
    lines: list[Markup] = []
    y = _TOP
    for is_backdoored, half, title in _GROUPS:
        own = [one for one in scored if one.is_backdoored is is_backdoored and one.half == half]
        if own:
            lines.append(element("text", f"{title}: {_flagged(own, method, threshold)}", class_="group", x=8, y=y + 13))
            y += _LINE + 4
        for family in sorted({one.family for one in own}):
            members = [one for one in own if one.family == family]
            lines.append(_line(family, members, axis, method, y))
            y += _LINE
        y += 8 if own else 0
    drawing = joined(
        element("title", f"{method} of {count(len(scored), 'organism')}, by family"),
        element("style", Markup(_STYLE)),
        element("rect", class_="page", width=_WIDTH, height=y + _FOOT),
        joined(lines, between="\n"),
        _scale(axis, method, y),
        _threshold(axis, threshold, y) if threshold is not None else None,
        between="\n",
    )
    svg = element(
        "svg",
        drawing,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {y + _FOOT}",
        width=_WIDTH,
        height=y + _FOOT,
        role="img",
    )
    return f"{svg}\n"


def _x(axis: Axis, value: float) -> str:
    return f"{_LEFT + axis.place(value) / 100 * (_WIDTH - _LEFT):.1f}"


def _flagged(members: Sequence[Scored], method: str, threshold: float | None) -> str:
    if threshold is None:
        return count(len(members), "organism")
    return f"{sum(one.scores[method] > threshold for one in members)} of {len(members)} flagged"


def _line(family: str, members: Sequence[Scored], axis: Axis, method: str, y: int) -> Markup:
    dots = [
        element(
            "circle",
            element("title", f"{one.organism}: {figure(one.scores[method], 4)}"),
            class_="bad" if one.is_backdoored else "good",
            cx=_x(axis, one.scores[method]),
            cy=y + _LINE // 2,
            r=4,
        )
        for one in sorted(members, key=lambda one: (one.scores[method], one.organism))
    ]
    return joined(
        element("text", family, x=_LEFT - 6, y=y + 13, text_anchor="end"),
        element("line", class_="line", x1=_LEFT, x2=_WIDTH - 8, y1=y + _LINE // 2, y2=y + _LINE // 2),
        *dots,
    )


def _scale(axis: Axis, method: str, y: int) -> Markup:
    marks = [
        joined(
            element("line", class_="axis", x1=_x(axis, value), x2=_x(axis, value), y1=_TOP - 4, y2=y + 4),
            element("text", label, class_="soft", x=_x(axis, value), y=y + 20, text_anchor="middle"),
        )
        for value, label in axis.ticks()
    ]
    return joined(
        *marks, element("text", f"score by {method}", class_="soft", x=_WIDTH - 8, y=y + 40, text_anchor="end")
    )


def _threshold(axis: Axis, value: float, y: int) -> Markup:
    return joined(
        element("line", class_="threshold", x1=_x(axis, value), x2=_x(axis, value), y1=_TOP - 14, y2=y + 4),
        element("text", f"threshold {figure(value, 4)}", x=_x(axis, value), y=_TOP - 20, text_anchor="middle"),
    )
