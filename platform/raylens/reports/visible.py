"""What cannot be seen in a text, made visible: a backdoor's trigger may be a space of no width.

=============================  ====================
character                      shown as
=============================  ====================
control characters, U+0000 …   ``␀`` …, ``␡``
all others without a shape     ``⟨U+200B⟩``
line break, in one line        ``↵``
tab, in one line               ``⇥``
space at either end, one line  ``␣``
=============================  ====================

The characters are listed here and not asked of :mod:`unicodedata`, whose answers change with Python's version: a report
is the same bytes on each.
"""

from __future__ import annotations

import re
from typing import Final

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
SHAPELESS: Final = re.compile(
    "[\x80-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    "\u2800\u3164\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U0001fffe\U0001ffff]"
)
"""C1, spaces that look like another, joiners, marks of direction, fillers, selectors, halves of pairs, tags."""
_ENDS: Final = re.compile(r"^ +| +$")


def visible(text: str) -> str:
    """``text`` in which every character but space, tab and line feed has a shape."""
    return SHAPELESS.sub(_code_point, _CONTROL.sub(_picture, text))


def one_line(text: str) -> str:
    """:func:`visible`, in one line, with what stands at its ends seen as well."""
    line = visible(text).replace("\n", "↵").replace("\t", "⇥")
    return _ENDS.sub(lambda spaces: "␣" * len(spaces[0]), line)


def _picture(found: re.Match[str]) -> str:
    return "␡" if found[0] == "\x7f" else chr(0x2400 + ord(found[0]))


def _code_point(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"
