"""How much an OTLP request in protobuf holds, counted before it is parsed.

A message of two bytes becomes an object of a hundred and more, so that a request of a few megabytes could take
gigabytes. Counting reads the lengths of fields and skips what is in them, down to the attributes of spans.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_PATH: Final = (1, 2, 2)
"""Numbers of the fields that lead to a span: of a request, of resource spans, of scope spans."""
_FIXED: Final = {1: 8, 5: 4}
_BYTES: Final = 2


def count_fields(body: bytes, most_spans: int, most_fields: int) -> tuple[int, int]:
    """Spans of a request, and fields of these; counting ends where one is above its limit.

    What is malformed ends the count as well: the parser will say so.
    """
    spans = fields = 0
    for start, end in _messages(body, 0, len(body), _PATH):
        spans += 1
        for _ in _fields(body, start, end):
            fields += 1
            if fields > most_fields:
                return spans, fields
        if spans > most_spans:
            return spans, fields
    return spans, fields


def _messages(body: bytes, start: int, end: int, path: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Where the messages at the end of a path of fields begin and end."""
    if not path:
        yield start, end
        return
    for number, first, last in _fields(body, start, end):
        if number == path[0]:
            yield from _messages(body, first, last, path[1:])


def _fields(body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of a message; 0 in the place of the number where it holds no bytes."""
    while at < end:
        tag, at = _varint(body, at, end)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _varint(body, at, end)
            if length > end - at:
                return
            yield tag >> 3, at, at + length
            at += length
        elif kind == 0:
            _, at = _varint(body, at, end)
            yield 0, at, at
        elif kind in _FIXED:
            at += _FIXED[kind]
            yield 0, at, at
        else:  # groups, which OTLP has none of
            return


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends; past the end where it is not whole, or longer than any is."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    return 0, end + 1
