"""OTLP requests for tests: made of plain values, and rewritten into OTLP's JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE = bytes.fromhex("5b8efff798038103d269b633813fc60c")
SPAN = bytes.fromhex("eee19b7ec3c1b174")
AT = 1_767_603_600_000_000_000
"""2026-01-05 09:00 UTC, in nanoseconds."""


def any_value(value: Any) -> AnyValue:
    """A value as OTLP has it."""
    made = AnyValue()
    if isinstance(value, bool):
        made.bool_value = value
    elif isinstance(value, int):
        made.int_value = value
    elif isinstance(value, float):
        made.double_value = value
    elif isinstance(value, str):
        made.string_value = value
    elif isinstance(value, bytes):
        made.bytes_value = value
    elif isinstance(value, list):
        made.array_value.SetInParent()
        made.array_value.values.extend(map(any_value, value))
    elif isinstance(value, Mapping):
        made.kvlist_value.SetInParent()
        put(made.kvlist_value.values, value)
    return made


def put(pairs: Any, attributes: Mapping[str, Any]) -> None:
    """Add attributes to a message's list of them."""
    for key, value in attributes.items():
        pairs.add(key=key).value.CopyFrom(any_value(value))


def otlp_span(attributes: Mapping[str, Any] | None = None, **fields: Any) -> Span:
    """A span; ``fields`` of the message over sensible ones."""
    span = Span(**{"trace_id": TRACE, "span_id": SPAN, "start_time_unix_nano": AT, **fields})
    put(span.attributes, attributes or {})
    return span


def request_of(*spans: Span, resource: Mapping[str, Any] | None = None) -> ExportTraceServiceRequest:
    """A request of one resource and one scope."""
    request = ExportTraceServiceRequest()
    sent = request.resource_spans.add()
    put(sent.resource.attributes, resource or {})
    scoped = sent.scope_spans.add()
    scoped.spans.extend(spans)
    return request


def as_json(request: ExportTraceServiceRequest) -> bytes:
    """The request in OTLP's JSON: protobuf's own, with ids in hexadecimal digits."""
    sent = MessageToDict(request, use_integers_for_enums=True)
    for resource in sent.get("resourceSpans", []):
        for scoped in resource.get("scopeSpans", []):
            for span in scoped.get("spans", []):
                for holder in (span, *span.get("links", [])):
                    for key in {"traceId", "spanId", "parentSpanId"} & set(holder):
                        holder[key] = base64.b64decode(holder[key]).hex()
    return json.dumps(sent).encode()
