"""What can be kept of what was sent: text that every format holds, JSON that every reader reads, of a bounded size.

Instrumentation sends what programs hand it, so null characters, lone surrogates, ``NaN``, integers of any length and
megabytes of attributes do come. A span is not worth refusing for them: what no format holds is replaced, what is too
long is cut, and of each cut a note stays with the span.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from raylens.errors import InputError

DEPTH: Final = 64
"""Lists and objects inside one another, at most."""
VALUES: Final = 1_000_000
"""Values in one text of JSON."""
ATTRIBUTES: Final = 2000
"""Attributes of a span that are kept."""
KEY_CHARS: Final = 500
ATTRIBUTE_CHARS: Final = 65_536
"""Characters of one attribute, as JSON unless it is a text."""
ATTRIBUTES_CHARS: Final = 1_000_000
"""Characters of all attributes of a span."""
NOTES: Final = "raylens.notes"
"""The attribute that says what was changed; a list of sentences."""

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_NAMED: Final = 5
_INTEGERS: Final = range(-(2**63), 2**64)


def clean(text: str) -> str:
    """``text`` with U+FFFD in the place of null characters and lone surrogates; pairs of surrogates are joined."""
    if "\0" in text:
        text = text.replace("\0", _REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean_json(value: Any, depth: int = 0) -> Any:
    """A JSON value as every reader of JSON takes it.

    Texts are cleaned (:func:`clean`); floats that are no numbers, and integers of more than 64 bits, become texts;
    bytes become base64. What is no JSON value stays as it is.

    Args:
        value: What :func:`json.loads` gives, or the like.
        depth: How deep it lies already.

    Raises:
        InputError: It is nested deeper than :data:`DEPTH`.
    """
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping | list | tuple):
        if depth >= DEPTH:
            raise InputError(f"values are nested deeper than {DEPTH}.", hint="send deep values as JSON text.")
        if not isinstance(value, Mapping):
            return [clean_json(item, depth + 1) for item in value]
        cleaned: dict[str, Any] = {}
        for key, item in value.items():
            put(cleaned, clean(str(key)), clean_json(item, depth + 1))
        return cleaned
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, int) and value not in _INTEGERS:
        return hex(value)  # decimal digits of a number of any length take too long, and Python refuses them
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def is_crowded(text: str, most: int = VALUES) -> bool:
    """Whether JSON may hold more than ``most`` values: each takes many times the memory of its two characters."""
    return sum(map(text.count, "[{,")) > most


def decoded(text: str) -> Any:
    """The JSON value of a text, cleaned; None where it is no list and no object, or one of too many values."""
    if text[:100].lstrip()[:1] not in ("[", "{") or is_crowded(text):
        return None
    try:
        return clean_json(json.loads(text))
    except (ValueError, RecursionError, InputError):
        return None


def as_text(value: Any) -> str:
    """A text as it stands, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def put(into: dict[str, Any], key: str, value: Any) -> None:
    """Set ``key``; where it is taken, the next free name of ``key~2``, ``key~3`` …: nothing takes another's place."""
    name, n = key, 1
    while name in into:
        n += 1
        name = f"{key}~{n}"
    into[name] = value


def fitted(text: str, limit: int, what: str, notes: list[str]) -> str:
    """The first ``limit`` characters; a note where that is not all."""
    if len(text) <= limit:
        return text
    notes.append(f"{what} was cut to {limit:,} of {len(text):,} characters.")
    return text[:limit]


def bounded(attributes: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Attributes within the limits above, in their order, with the notes where there are any.

    Args:
        attributes: Cleaned JSON values.
        notes: What is to be said of the span besides; what is cut here is added.
    """
    kept: dict[str, Any] = {}
    left, cut, dropped = ATTRIBUTES_CHARS, [], []
    for key, value in attributes.items():
        name, text = key[:KEY_CHARS], as_text(value)
        room = min(ATTRIBUTE_CHARS, left - len(name))
        if len(kept) >= ATTRIBUTES or room < min(len(text), 1):
            dropped.append(name)
            continue
        if len(text) > room or name != key:
            cut.append(name)
        put(kept, name, value if len(text) <= room else text[:room])
        left -= len(name) + min(len(text), room)
    if cut:
        notes.append(f"cut to fit: {_named(cut)}.")
    if dropped:
        notes.append(f"left out to fit: {_named(dropped)}.")
    if notes:
        put(kept, NOTES, list(notes))
    return kept


def _named(keys: Iterable[str]) -> str:
    listed = [key[:100] for key in keys]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
