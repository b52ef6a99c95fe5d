"""What a tool answers: one sentence that decides, then what it rests on, in a bounded number of bytes.

A document is one JSON object with ``answer`` first. Where its rows do not all fit, the last are left out and ``more``
says how to get them. Text is cut at the end of a line, and its last line says how to go on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

LIMIT_BYTES: Final = 16_000
"""Of one answer."""

_DIGITS: Final = 4
_SHORTEST: Final = 40
# What steers a terminal, turns text round or has no shape; tabs and line feeds are escaped by JSON itself.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """An answer with figures.

    Attributes:
        says: The sentence that decides.
        fields: What it rests on; keys with None are left out.
        name: What the rows are.
        rows: The first of them that were asked for.
        rest: Given how many rows are shown, how to get those that are not; empty where there are none.
        digits: Significant digits of numbers; None for all.
    """

    says: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    name: str = "rows"
    rows: Sequence[Any] = ()
    rest: Callable[[int], str] = lambda _: ""
    digits: int | None = _DIGITS

    def render(self, limit: int = LIMIT_BYTES) -> str:
        """JSON of at most ``limit`` bytes: rows give way first, then the ends of long texts."""
        fields = _plain({key: value for key, value in self.fields.items() if value is not None}, self.digits)
        rows = _plain(list(self.rows), self.digits)
        low, high = 0, len(rows)
        if _fits(whole := self._with(fields, rows, high), limit):
            return whole
        while low < high:
            half = (low + high + 1) // 2
            low, high = (half, high) if _fits(self._with(fields, rows, half), limit) else (low, half - 1)
        return self._shortened(fields, rows, max(low, 1) if rows else 0, limit)

    def _with(self, fields: Mapping[str, Any], rows: Sequence[Any], shown: int) -> str:
        more = self.rest(shown)
        if not more and shown < len(rows):
            more = f"{len(rows) - shown} more do not fit."
        document: dict[str, Any] = {"answer": self.says, **fields}
        if self.rows:
            document[self.name] = list(rows[:shown])
        return as_json(document | ({"more": more} if more else {}))

    def _shortened(self, fields: Mapping[str, Any], rows: Sequence[Any], shown: int, limit: int) -> str:
        length = limit
        while not _fits(text := self._with(fields, rows, shown), limit):
            if length <= _SHORTEST:
                return as_json(
                    {"answer": clipped(self.says, limit // 8), "more": "the rest does not fit; ask for less."}
                )
            length //= 2
            fields, rows = _clip(fields, length), _clip(list(rows[:shown]), length)
        return text


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is read as it is.

    Attributes:
        text: From where the caller wants it on.
        offset: Characters before it.
        hint: Added to the last line where it does not fit.
    """

    text: str
    offset: int = 0
    hint: str = ""

    def render(self, limit: int = LIMIT_BYTES) -> str:
        """The text, or its beginning and how to go on, in at most ``limit`` bytes."""
        if len(self.text.encode()) <= limit:
            return self.text
        room = limit - 200 - len(self.hint.encode())
        head = self.text.encode()[:room].decode(errors="ignore")
        line = head.rfind("\n") + 1
        head = head[:line] if line > len(head) // 2 else head
        ends = self.offset + len(head)
        total = self.offset + len(self.text)
        return f"{head}\n… cut at character {ends} of {total}: ask again with offset={ends}. {self.hint}".rstrip()


Answer = Document | Text


def paged(offset: int, total: int, what: str = "") -> Callable[[int], str]:
    """``rest`` of rows that are asked for from ``offset`` on, of ``total`` in all."""

    def rest(shown: int) -> str:
        left = total - offset - shown
        if left <= 0:
            return ""
        return f"{left} more{f' {what}' if what else ''}: ask with offset={offset + shown}."

    return rest


def as_json(value: object) -> str:
    """Compact JSON that no terminal obeys."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def clipped(text: str, length: int) -> str:
    """``text``, its end left out where it is longer than ``length`` characters."""
    return text if len(text) <= length else f"{text[: max(0, length - 1)]}…"


def plural(n: int, what: str, many: str | None = None) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {what if n == 1 else many or what + 's'}"


def _fits(text: str, limit: int) -> bool:
    return len(text.encode()) <= limit


def _clip(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return clipped(value, length)
    if isinstance(value, Mapping):
        return {clipped(key, length): _clip(one, length) for key, one in value.items()}
    if isinstance(value, list):
        kept = max(1, length // 8)
        return [_clip(one, length) for one in value[:kept]] + (
            [f"… {len(value) - kept} more"] if len(value) > kept else []
        )
    return value


def _plain(value: Any, digits: int | None) -> Any:
    """``value`` as JSON has it: numbers rounded, NaN as null, times in ISO form."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        rounded = value if digits is None else float(f"{value:.{digits}g}")
        return rounded if math.isfinite(rounded) else value
    if isinstance(value, Mapping):
        return {str(key): _plain(one, digits) for key, one in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date) or hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), digits)
    if isinstance(value, Sequence):
        return [_plain(one, digits) for one in value]
    return str(value)
