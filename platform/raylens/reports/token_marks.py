"""Tokens with a feature's activation behind each, side by side for both models."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Final

from raylens.audit.feature_rows import Highlight, Side
from raylens.reports.markup import Child, Markup, element, joined
from raylens.reports.numbers import count, figure
from raylens.reports.visible import visible

_LEVELS: Final = 9
"""Shades; the darkest is the largest activation of either side."""
_MOST_TOKENS: Final = 240
"""A side."""
_SOURCE: Final = "interp_evidence.json"


def token_marks(highlight: Highlight) -> Markup:
    """Both sides, on one scale."""
    largest = max((*highlight.reference.activations, *highlight.candidate.activations, 0.0))
    sides = (("Reference", highlight.reference), ("Candidate", highlight.candidate))
    return element("div", (_side(who, side, largest) for who, side in sides), class_="columns")


def _side(who: str, side: Side, largest: float) -> Markup:
    n = min(len(side.tokens), len(side.activations))
    strongest = max(range(n), key=lambda i: side.activations[i], default=0)
    start = max(0, min(strongest - _MOST_TOKENS // 2, n - _MOST_TOKENS))
    end = min(n, start + _MOST_TOKENS)
    border = min(max(side.n_prompt_tokens, start), end)
    most = figure(side.activations[strongest]) if n else "none"
    return element(
        "section",
        element("h5", f"{who}: at most {most}"),
        _left_out(start, "before"),
        *_part("prompt", side, start, border, largest),
        *_part("completion", side, border, end, largest),
        _left_out(n - end, "after"),
        aria_label=f"{who}’s tokens",
    )


def _part(name: str, side: Side, start: int, end: int, largest: float) -> list[Markup]:
    if start == end:
        return []
    tokens = zip(side.tokens[start:end], side.activations[start:end], strict=True)
    parts: list[Child] = []
    for level, group in groupby(
        ((_level(value, largest), token, value) for token, value in tokens), lambda one: one[0]
    ):
        if level == 0:
            parts += [_text(token) for _, token, _ in group]
        else:
            parts += [
                element("b", _text(token), class_=f"a{level}", title=figure(value, 4)) for _, token, value in group
            ]
    return [element("p", name, class_="soft"), element("pre", parts, class_="tokens")]


def _level(activation: float, largest: float) -> int:
    """0 where the feature is silent, else from 1."""
    if not activation > 0:
        return 0
    return min(_LEVELS, max(1, math.ceil(activation / largest * _LEVELS)))


def _text(token: str) -> Markup:
    """Spaces as dots, which still are places to break a line; tabs and line breaks as signs before them."""
    text = visible(token).replace("\n", "↵\n").replace("\t", "⇥\t")
    return joined(text.split(" "), between=f"{element('wbr')}·")


def _left_out(n: int, where: str) -> Markup | None:
    return element("p", f"… {count(n, 'token')} {where} these in {_SOURCE}", class_="soft") if n > 0 else None
