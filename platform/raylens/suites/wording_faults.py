"""Why a wording that a language model wrote may not stand for a prompt; what cannot be checked is its meaning.

A variant is worth comparing only if a model goes on from it as from the original. So code stays the same code up to
names, comments and layout, prose that stops in the middle of a sentence still does, and what others fill in or run
(braces, code blocks) is kept.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from raylens.suites.same_code import continues_python, reads_as_code, same_code
from raylens.suites.suite import Prompt
from raylens.suites.suite_parsing import MAX_TEXT

_BLOCK: Final = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON: Final = frozenset({"", "python", "py", "python3"})
_BRACES: Final = re.compile(r"\{[^{}\n]{0,200}\}|[{}]")
_NO_TEXT: Final = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_MARKERS: Final = ("<rewrite>", "</rewrite>", "```")
_SENTENCE_ENDS: Final = (".", "!", "?", "…")
_PYTHON_CHECKS: Final = frozenset({"python_parses", "language_python"})
_MAY_GROW: Final = 3
"""Times as long as the original, at most, and times as short; beyond that it is no other wording of it."""
_SPARE: Final = 200
"""Characters more, for short originals."""


def is_code(prompt: Prompt, text: str) -> bool:
    """Whether ``text`` of ``prompt`` is to stay Python: it reads as such, or it can be and a check asks for it."""
    asked_for = any(check.name in _PYTHON_CHECKS for check in prompt.checks)
    return reads_as_code(text) or (prompt.text is not None and asked_for and continues_python(text))


def fault_of(wording: str, original: str, *, code: bool, continued: bool) -> str | None:
    """What is wrong with ``wording``, as a phrase that goes on after "version 2"; None where nothing is.

    Args:
        wording: What a model wrote.
        original: What it was to say in other words.
        code: Whether that is Python; see :func:`is_code`.
        continued: Whether a model is to go on from its end, and not to answer it.
    """
    size, most = len(original), min(MAX_TEXT, _MAY_GROW * len(original) + _SPARE)
    if not size <= _MAY_GROW * len(wording) or len(wording) > most:
        return f"has {len(wording):,} characters, and the original {size:,}"
    if any(found not in original for found in _NO_TEXT.findall(wording)):
        return "holds characters that are no text"
    if marker := next((one for one in _MARKERS if one in wording and one not in original), None):
        return f"holds {marker}"
    if code:
        return _code_fault(wording, original)
    if fault := _block_fault(wording, original):
        return fault
    kept, found = (Counter(_BRACES.findall(_BLOCK.sub("", text))) for text in (original, wording))
    if lost := [*(kept - found), *(found - kept)]:
        return f"does not keep {lost[0]} as it is"
    if continued and wording.rstrip().endswith(_SENTENCE_ENDS) and not original.rstrip().endswith(_SENTENCE_ENDS):
        return "ends a sentence that the original leaves open"
    return None


def _code_fault(wording: str, original: str) -> str | None:
    if not continues_python(wording):
        return "is not Python"
    if not same_code(wording, original):
        return "is not the same code, or does not stop where the original stops"
    return None


def _block_fault(wording: str, original: str) -> str | None:
    ours, theirs = _BLOCK.findall(original), _BLOCK.findall(wording)
    if len(ours) != len(theirs):
        return f"has {len(theirs)} code blocks, and the original {len(ours)}"
    for (language, before), (_, after) in zip(ours, theirs, strict=True):
        if before != after and not (language.lower() in _PYTHON and same_code(before, after)):
            return "changes what a code block does"
    return None
