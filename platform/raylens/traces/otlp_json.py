"""OTLP's JSON mapping → its protobuf message.

It is protobuf's own JSON (camelCase names, 64-bit integers as texts) but for ids of traces and spans, which are
hexadecimal digits in place of base64. So ids are rewritten, and protobuf's parser does the rest; unknown names are
ignored, as OTLP asks for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from raylens.errors import InputError
from raylens.traces.bounds import clean_json, is_crowded

MOST_VALUES: Final = 2_000_000
"""Brackets and commas of a body: parsed values take many times the memory of their text."""

_IDS: Final = ("traceId", "trace_id", "spanId", "span_id", "parentSpanId", "parent_span_id")
_NO_ID: Final = base64.b64encode(b"\xff").decode()
"""One byte: an id of a wrong length, for which its span is refused later on like any other."""
_HINT: Final = 'send {"resourceSpans": [...]}, or application/x-protobuf what is protobuf.'


def request_of_json(body: bytes, most_spans: int) -> ExportTraceServiceRequest:
    """Parse a body.

    Args:
        body: UTF-8.
        most_spans: That it may hold.

    Raises:
        InputError: It is no such JSON, or too much of it.
    """
    try:
        text = body.decode("utf-8-sig")
        if is_crowded(text, MOST_VALUES):
            raise InputError("the body holds too many values.", hint="send it in parts.")
        sent = clean_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InputError("the body is not JSON.", hint=_HINT) from error
    if not isinstance(sent, dict):
        raise InputError("the body is JSON, but no object.", hint=_HINT)
    for n, span in enumerate(_spans(sent)):
        if n == most_spans:
            raise InputError(f"the body holds more than {most_spans:,} spans.", hint="send them in parts.")
        for holder in (span, *_objects(span, "links")):
            for key in _IDS:
                if isinstance(holder.get(key), str):
                    holder[key] = _as_base64(holder[key])
    try:
        return ParseDict(sent, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except ParseError as error:
        where = " ".join(str(error).split())[:200]
        raise InputError(f"the body is no ExportTraceServiceRequest: {where}", hint=_HINT) from error


def _spans(sent: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in _objects(sent, "resourceSpans", "resource_spans"):
        for scoped in _objects(resource, "scopeSpans", "scope_spans"):
            yield from _objects(scoped, "spans")


def _objects(holder: dict[str, Any], *names: str) -> Iterator[dict[str, Any]]:
    for name in names:
        listed = holder.get(name)
        if isinstance(listed, list):
            yield from (item for item in listed if isinstance(item, dict))


def _as_base64(digits: str) -> str:
    try:
        # bytes.fromhex skips spaces, which no id has.
        return base64.b64encode(bytes.fromhex(digits)).decode() if digits.isalnum() or not digits else _NO_ID
    except ValueError:
        return _NO_ID
