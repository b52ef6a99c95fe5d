"""Two texts side by side, with what only the one has marked in each."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Final

from raylens.reports.markup import Child, Markup, element, joined

_PIECES: Final = re.compile(r"[A-Za-z0-9_]+|[^\x00-\x7f]+|[\x00-\x7f]")
"""Words, runs beyond ASCII, and single characters; said out, since ``\\w`` changes with Python's version."""
_MOST_PIECES: Final = 400
"""Between the common beginning and the common end; of more, all counts as different. A model may write what takes the
cube of their number to compare."""


def marked(before: str, after: str) -> tuple[Markup, Markup]:
    """``before`` with ``<del>`` around what ``after`` lacks, and ``after`` with ``<ins>`` likewise."""
    a, b = _PIECES.findall(before), _PIECES.findall(after)
    left: list[Child] = []
    right: list[Child] = []
    for (from_a, to_a, from_b, to_b), same in _blocks(a, b):
        if same:
            left.append("".join(a[from_a:to_a]))
            right.append("".join(b[from_b:to_b]))
            continue
        if to_a > from_a:
            left.append(element("del", _seen("".join(a[from_a:to_a]))))
        if to_b > from_b:
            right.append(element("ins", _seen("".join(b[from_b:to_b]))))
    return joined(left), joined(right)


def _blocks(a: list[str], b: list[str]) -> list[tuple[tuple[int, int, int, int], bool]]:
    """Ranges of ``a`` and ``b`` in turn, and whether they are the same."""
    least = min(len(a), len(b))
    start = next((i for i in range(least) if a[i] != b[i]), least)
    end = next((i for i in range(least - start) if a[-1 - i] != b[-1 - i]), least - start)
    to_a, to_b = len(a) - end, len(b) - end
    if max(to_a, to_b) - start > _MOST_PIECES:
        middle = [((start, to_a, start, to_b), False)]
    else:
        matcher = SequenceMatcher(None, a[start:to_a], b[start:to_b], autojunk=False)
        middle = [
            ((i + start, j + start, k + start, m + start), tag == "equal") for tag, i, j, k, m in matcher.get_opcodes()
        ]
    return [((0, start, 0, start), True), *middle, ((to_a, len(a), to_b, len(b)), True)]


def _seen(text: str) -> str:
    """A difference of white space alone would be a mark around nothing."""
    return text.replace("\n", "↵\n").replace("\t", "⇥\t").replace(" ", "·") if not text.strip(" \t\n") else text
