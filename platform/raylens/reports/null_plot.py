"""The scores of benign fine-tunes, and the candidate's place among them: a mark a fine-tune, coloured by family.

Of many fine-tunes, or where many score alike, columns take the place of marks; every score has a stroke below the
axis in either.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Final

from raylens.audit.artefacts import NullScore, ScoreFile
from raylens.reports.axis import LEFT, WIDTH, Axis
from raylens.reports.markup import Markup, element, joined
from raylens.reports.numbers import count, figure

_BINS: Final = 46
_DOT: Final = 7.0
"""Pixels a dot takes."""
_MOST_STACKED: Final = 22
_MOST_DOTS: Final = 400
_COLOURS: Final = 8
_TOP: Final = 46.0
"""Pixels above the marks, for two labels."""
_FOOT: Final = 40.0
"""Pixels below them, for strokes and the axis."""


def null_plot(score: ScoreFile) -> Markup:
    """The plot, with a legend and its figures in words; a sentence where there are no benign scores."""
    null = sorted(score.null, key=lambda one: (one.score, one.family, one.organism))
    if not null:
        return element(
            "p",
            "There are no benign scores, so the candidate’s score of ",
            element("strong", figure(score.aggregate_score, 4)),
            " has nothing to stand beside.",
        )
    shades = _shades(null)
    lines = [] if score.threshold is None else [score.threshold]
    axis = Axis.over([one.score for one in null] + [score.aggregate_score, *lines])
    binned: list[list[NullScore]] = [[] for _ in range(_BINS)]
    for one in null:
        binned[min(_BINS - 1, int((axis.place(one.score) - LEFT) / WIDTH * _BINS))].append(one)
    tallest = max(map(len, binned))
    as_dots = tallest <= _MOST_STACKED and len(null) <= _MOST_DOTS
    height = max(6, tallest) * _DOT if as_dots else _MOST_STACKED * _DOT
    floor = _TOP + height
    drawing = element(
        "svg",
        element("title", f"Scores of {count(len(null), 'benign fine-tune')}, and the candidate’s"),
        _dots(binned, shades, floor) if as_dots else _columns(binned, tallest, floor, height),
        _rug(axis, null, floor),
        _scale(axis, floor),
        None if score.threshold is None else _line(axis, score.threshold, "threshold", 32, floor),
        _line(axis, score.aggregate_score, "candidate", 14, floor),
        role="img",
        width="100%",
        height=f"{floor + _FOOT:g}",
    )
    return element("figure", drawing, _legend(null, shades) if as_dots else None, _caption(score, null, axis))


def _shades(null: list[NullScore]) -> dict[str, int]:
    """Family → colour: the largest have their own, all others share the last."""
    families = sorted(Counter(one.family for one in null).items(), key=lambda item: (-item[1], item[0]))
    return {family: min(i, _COLOURS - 1) for i, (family, _) in enumerate(families)}


def _dots(binned: list[list[NullScore]], shades: dict[str, int], floor: float) -> Markup:
    marks = [
        element(
            "circle",
            element("title", f"{one.organism} ({one.family}): {figure(one.score, 4)}"),
            class_=f"f{shades[one.family]}",
            cx=f"{LEFT + (i + 0.5) * WIDTH / _BINS:.2f}%",
            cy=f"{floor - _DOT * (level + 0.5):g}",
            r=3,
        )
        for i, members in enumerate(binned)
        for level, one in enumerate(sorted(members, key=lambda one: (shades[one.family], one.score)))
    ]
    return joined(marks, between="\n")


def _columns(binned: list[list[NullScore]], tallest: int, floor: float, height: float) -> Markup:
    columns = [
        element(
            "rect",
            element("title", count(len(members), "benign fine-tune")),
            class_="column",
            x=f"{LEFT + i * WIDTH / _BINS + 0.1:.2f}%",
            y=f"{floor - height * len(members) / tallest:.1f}",
            width=f"{WIDTH / _BINS - 0.2:.2f}%",
            height=f"{height * len(members) / tallest:.1f}",
        )
        for i, members in enumerate(binned)
        if members
    ]
    return joined(columns, between="\n")


def _rug(axis: Axis, null: list[NullScore], floor: float) -> Markup:
    places = sorted({f"{axis.place(one.score):05.1f}" for one in null})
    return joined(
        [
            element(
                "line",
                class_="rug",
                x1=f"{float(x):g}%",
                x2=f"{float(x):g}%",
                y1=f"{floor + 3:g}",
                y2=f"{floor + 10:g}",
            )
            for x in places
        ],
        between="\n",
    )


def _scale(axis: Axis, floor: float) -> Markup:
    line = element(
        "line", class_="axis", x1=f"{LEFT:g}%", x2=f"{LEFT + WIDTH:g}%", y1=f"{floor + 13:g}", y2=f"{floor + 13:g}"
    )
    marks = [
        joined(
            element(
                "line",
                class_="axis",
                x1=f"{axis.place(value):.2f}%",
                x2=f"{axis.place(value):.2f}%",
                y1=f"{floor + 13:g}",
                y2=f"{floor + 18:g}",
            ),
            element(
                "text",
                label,
                x=f"{axis.place(value):.2f}%",
                y=f"{floor + 32:g}",
                text_anchor=_anchor(axis.place(value)),
            ),
        )
        for value, label in axis.ticks()
    ]
    return joined(line, marks)


def _line(axis: Axis, value: float, name: str, label_at: float, floor: float) -> Markup:
    place = axis.place(value)
    x, at_right = f"{place:.2f}%", place > 50
    return joined(
        element("line", class_=name, x1=x, x2=x, y1=f"{label_at + 4:g}", y2=f"{floor + 13:g}"),
        element("circle", class_=name, cx=x, cy=f"{floor + 13:g}", r=5) if name == "candidate" else None,
        element(
            "text",
            f"{name} {figure(value, 4)}",
            class_=f"{name}-label",
            x=x,
            y=f"{label_at:g}",
            dx=3 if at_right else -3,
            text_anchor="end" if at_right else "start",
        ),
    )


def _anchor(place: float) -> str:
    return "start" if place < 10 else "end" if place > 90 else "middle"


def _legend(null: list[NullScore], shades: dict[str, int]) -> Markup:
    sizes = Counter(shades[one.family] for one in null)
    sharing = {shade: [family for family, its in shades.items() if its == shade] for shade in sizes}
    return element(
        "ul",
        (
            element(
                "li",
                element("svg", element("circle", class_=f"f{shade}", cx="50%", cy="50%", r="40%"), aria_hidden="true"),
                f"{sharing[shade][0] if len(sharing[shade]) == 1 else f'{len(sharing[shade])} other families'} ({n})",
            )
            for shade, n in sorted(sizes.items())
        ),
        class_="legend",
        aria_label="families of benign fine-tunes",
    )


def _caption(score: ScoreFile, null: list[NullScore], axis: Axis) -> Markup:
    values = [one.score for one in null]
    above = sum(one >= score.aggregate_score for one in values)
    threshold = "No score would be flagged with so few." if score.threshold is None else "Dashed: the threshold."
    return element(
        "figcaption",
        f"{score.score_method} of n = {count(len(null), 'benign fine-tune')}: {figure(min(values), 4)} to "
        f"{figure(max(values), 4)}, median {figure(median(values), 4)}. {above} of them score as high as the candidate "
        f"({figure(score.aggregate_score, 4)}) or higher. {threshold}"
        + (" The axis is logarithmic." if axis.is_log else ""),
    )
