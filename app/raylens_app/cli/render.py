"""How a window of text looks in a terminal: tokens shaded by activation, the peak underlined.

Pure: arrays and strings in, strings and rich ``Text`` out. All text passes
:func:`raylens_app.cli.output.printable`, so what a document holds is shown and never obeyed.
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.color import Color
from rich.style import Style
from rich.text import Text

from raylens_app.cli.output import printable

_BARS: Final = "▁▂▃▄▅▆▇█"
_GAP: Final = " "
_RUN_OF_SPACES: Final = re.compile(" {3,}")
_SPECIAL: Final = "‹special›"

# Weak to strong, on a dark and on a light terminal: weak stays near the background.
_DARK: Final = ((58, 40, 16), (255, 168, 38))
_LIGHT: Final = ((255, 240, 214), (240, 124, 20))
_BLACK_TEXT_FROM: Final = 0.45


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a window's text that one or more tokens produced.

    Attributes:
        text: as in the document.
        activation: the largest over its tokens, 0 where the feature is silent.
        peak: whether the window's strongest token is in it.
    """

    text: str
    activation: float
    peak: bool


def pieces(tokens: Sequence[str], activations: Sequence[float]) -> list[Piece]:
    """Join a window's tokens to what can be shown: at least a character each.

    Where several tokens spell one character, all but the last are empty; they join the last. An
    empty token that is no byte of the character after it is special (BOS, a separator): it has no
    text, and is shown only where it fires.

    Args:
        tokens: ``[n]`` the text of each token, as in ``raylens.store.examples.Example``.
        activations: ``[n]`` how strongly the feature fires on each, 0 where it is silent.

    Returns:
        Pieces whose texts join to the window's text, special tokens aside. The first of the strongest
        is the peak; a special token only where nothing else fires, as in all statistics.
    """
    found: list[tuple[str, float, bool]] = []
    waiting: list[float] = []
    for token, activation in zip(tokens, activations, strict=True):
        waiting.append(float(activation))
        if token:
            n_bytes = len(token[0].encode(errors="replace"))
            found += [(_SPECIAL, value, True) for value in waiting[:-n_bytes] if value]
            found.append((token, max(waiting[-n_bytes:]), False))
            waiting = []
    found += [(_SPECIAL, value, True) for value in waiting if value]
    ordinary = max((value for _, value, special in found if not special), default=0.0)
    wanted = (ordinary, False) if ordinary > 0 else (max((value for _, value, _ in found), default=0.0), True)
    peak = next((at for at, (_, *rest) in enumerate(found) if wanted[0] > 0 and tuple(rest) == wanted), -1)
    return [Piece(text, value, at == peak) for at, (text, value, _) in enumerate(found)]


def around_peak(cut: Sequence[Piece], context: int) -> list[Piece]:
    """The pieces at most ``context`` away from the peak; all of them where ``context`` is 0.

    What is left out at an end is marked by an ellipsis.
    """
    at = next((index for index, piece in enumerate(cut) if piece.peak), 0)
    if context <= 0:
        return list(cut)
    first, last = max(0, at - context), min(len(cut), at + context + 1)
    ellipsis = Piece("…", 0.0, False)
    return [*([ellipsis] if first else []), *cut[first:last], *([ellipsis] if last < len(cut) else [])]


def highlighted(cut: Sequence[Piece], scale: float, *, colour: bool) -> Text:
    """One line in which active tokens stand out.

    Args:
        cut: what to show, in order.
        scale: the activation that gets the strongest shade, usually the feature's maximum.
        colour: shade the background by activation and underline the peak; otherwise write
            ``«token»(activation)`` around each active token.

    Returns:
        The line; newlines show as ↵, tabs as ⇥, indentation and other runs of spaces as two, and
        spaces that fire by themselves as dots.
    """
    line = Text()
    for piece in cut:
        shown = _RUN_OF_SPACES.sub("  ", printable(piece.text))
        if piece.activation <= 0:
            line.append(shown)
            continue
        # Spaces at a line's end are dropped by terminals and wrapping: what fires must be seen.
        shown = shown if shown.strip(" ↵⇥") else shown.replace(" ", "·")
        if colour:
            line.append(shown, style=shade(piece.activation / scale if scale > 0 else 0.0, peak=piece.peak))
        else:
            line.append(f"«{shown}»({number(piece.activation)})")
    return line


def shade(share: float, *, peak: bool = False) -> Style:
    """The style of a token that fires at ``share`` (0 … 1) of the strongest."""
    share = min(max(share, 0.0), 1.0)
    low, high = _LIGHT if _light_terminal() else _DARK
    red, green, blue = (round(weak + (strong - weak) * share) for weak, strong in zip(low, high, strict=True))
    dark_text = _light_terminal() or share >= _BLACK_TEXT_FROM
    text = Color.from_rgb(0, 0, 0) if dark_text else Color.from_rgb(255, 236, 205)
    return Style.from_color(text, Color.from_rgb(red, green, blue)) + Style(bold=peak or None, underline=peak or None)


def _light_terminal() -> bool:
    # The one convention by which terminals say what their background is; dark where they say nothing.
    return os.environ.get("COLORFGBG", "").rpartition(";")[2] in {"7", "15"}


def sparkline(counts: Sequence[int]) -> str:
    """One bar a count, scaled to the largest; a zero is a blank, and any other count is seen."""
    top = max(counts, default=0)
    return "".join(_BARS[min(7, bisect_right(range(1, 8), 8 * count / top))] if count else _GAP for count in counts)


def histogram_line(counts: Sequence[int], edges: Sequence[float]) -> str:
    """A histogram without its empty ends, between the activations at which it begins and ends.

    Args:
        counts: ``[n]`` activations per bin.
        edges: ``[n + 1]`` bin edges.
    """
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return ""
    first, last = filled[0], filled[-1] + 1
    return f"{number(edges[first])} {sparkline(counts[first:last])} {number(edges[last])}"


def number(value: float) -> str:
    """Three significant digits, without an exponent in the range of activations: ``12.3``, ``0.0417``."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 0.001:
        decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3 if size >= 0.09995 else 4
        return f"{value:.{decimals}f}"
    return f"{value:.1e}"


def percent(share: float) -> str:
    """A share as a percentage with two significant digits: ``0.43 %``, ``12 %``."""
    value = share * 100
    if value == 0 or value >= 99.5:
        return f"{value:.0f} %"
    digits = 1 - math.floor(math.log10(value))
    return f"{value:.{max(0, digits)}f} %" if digits <= 7 else f"{value:.1e} %"


def token_text(token: str, limit: int = 24) -> str:
    """One token, quoted so that its spaces are seen: ``' return'``, ``'↵␣×4'``."""
    shown = _RUN_OF_SPACES.sub(lambda run: f"␣×{len(run[0])}", printable(token))
    return f"'{shown[: limit - 1] + '…' if len(shown) > limit else shown}'"
