"""Text with its tokens shaded by activation: the one place where text of a corpus becomes HTML.

Everything is built by :func:`raylens.reports.markup.element`, which escapes, and Streamlit cleans what it is given once
more in the browser. Characters without a shape are shown by their number, and each token that fires stands in a
direction of its own, so that no text turns round what stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from raylens.reports.markup import Child, Markup, element, joined
from raylens_app.cli.render import Piece, around_peak, pieces
from raylens_app.web.theme import LEVELS

BREAK: Final = "↵"
VALUES_HELP: Final = "The activation behind each token that fires."
"""Of the switch for ``values``."""
DIGITS: Final = 5
"""Of an activation that is written out: the store keeps a 10-bit mantissa, and four would not tell all apart."""
_TAB: Final = "⇥"
_SPACE: Final = "·"


def token_text(
    tokens: Sequence[str],
    activations: Sequence[float],
    scale: float,
    *,
    context: int = 0,
    breaks: bool = True,
    values: bool = False,
    label: str = "text, shaded by activation",
) -> Markup:
    """A text whose tokens are shaded by how strongly a feature fires on them.

    Args:
        tokens: ``[n]`` the text of each token, as in :class:`raylens.store.examples.Example`: empty for special
            tokens, and for all but the last of several that spell one character.
        activations: ``[n]`` in units of the SAE's activations, 0 where it is silent.
        scale: The activation that gets the strongest shade, usually the feature's maximum.
        context: Tokens on either side of the peak; 0 for all.
        breaks: Break lines where the text does; else only show that it does.
        values: Write the activation behind each token that fires, for those who cannot point at it, and on paper.
        label: What it is, for those who do not see it.

    Returns:
        One block: tokens that fire carry their exact activation as a title, the peak is underlined.
    """
    cut = around_peak(pieces(tokens, activations), context)
    parts: list[Child] = []
    for fires, group in groupby(cut, lambda piece: piece.activation > 0):
        if fires:
            for piece in group:
                parts.append(_token(piece, scale, breaks=breaks))
                if values:
                    parts.append(element("sub", f"{piece.activation:.{DIGITS}g}", class_="rl-value"))
        else:
            parts.append(_signed("".join(piece.text for piece in group), breaks=breaks))
    return element("div", parts, class_="rl-tokens", role="group", aria_label=label)


def one_token(token: str) -> Markup:
    """A token by itself, its spaces and breaks seen."""
    shown = token.replace(" ", _SPACE).replace("\n", BREAK).replace("\t", _TAB)
    return element("code", shown, dir="auto")


def copied(tokens: Sequence[str]) -> str:
    """The text itself, for the clipboard."""
    return "".join(tokens)


def level_of(activation: float, scale: float) -> int:
    """The shade of a token, 1 … ``LEVELS``; 0 where the feature is silent."""
    if not activation > 0:
        return 0
    share = activation / scale if scale > 0 else 1.0
    return min(LEVELS, max(1, math.ceil(share * LEVELS))) if math.isfinite(share) else LEVELS


def _token(piece: Piece, scale: float, *, breaks: bool) -> Markup:
    # A token of nothing but spaces has to be seen where it fires.
    text = piece.text if piece.text.strip(" \n\t") else piece.text.replace(" ", _SPACE)
    level = level_of(piece.activation, scale)
    classes = f"rl-a{level} rl-peak" if piece.peak else f"rl-a{level}"
    shown = _signed(text, breaks=breaks)
    return element("span", shown, class_=classes, title=exact(piece.activation), dir="auto")


def exact(activation: float) -> str:
    """An activation with all of its digits: the store rounds to a 10-bit mantissa, so nine always do."""
    return f"{activation:.9g}"


def _signed(text: str, *, breaks: bool) -> Markup:
    """Signs where lines break and tabs stand."""
    parts: list[Child] = []
    for at, line in enumerate(text.split("\n")):
        if at:
            parts.append(element("span", BREAK, class_="rl-sign"))
            parts.append("\n" if breaks else " ")
        for place, run in enumerate(line.split("\t")):
            if place:
                parts += [element("span", _TAB, class_="rl-sign"), "\t"]
            parts.append(run)
    return joined(*parts)
