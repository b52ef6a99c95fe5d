"""Text of others where Streamlit reads Markdown: names, explanations, error messages that repeat what was typed.

Markdown could turn such a text into a link, or into a picture that the browser fetches from somewhere. So every
character that could mean anything there is escaped, and what has no shape is shown by its number.
"""

from __future__ import annotations

import re
from typing import Final

from raylens.reports.visible import one_line

_PUNCTUATION: Final = re.compile(r"([!-/:-@\[-`{-~])")


def plain(text: str) -> str:
    """``text`` for Streamlit's Markdown, in one line, so that all of it is shown as it stands.

    Every ASCII punctuation character is escaped by a backslash, as CommonMark allows for each of them; Streamlit's own
    signs (``:red[…]``, ``$…$``) begin with such characters too.
    """
    return _PUNCTUATION.sub(r"\\\1", one_line(text))
