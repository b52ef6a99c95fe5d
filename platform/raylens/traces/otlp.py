"""Spans as OpenTelemetry sends them (OTLP, ``ExportTraceServiceRequest``), in protobuf or JSON.

Nothing that was sent is dropped silently. What :mod:`raylens.traces.genai` does not take into input and output stays
among the span's attributes under its own name; what OTLP says of the span besides stands there under these:

=================================  ======================================================================
attribute                          what
=================================  ======================================================================
``resource.*``                     who sent it (``resource.service.name``)
``otel.scope.name``, ``.version``  the instrumentation; its own attributes under ``otel.scope.attributes.*``
``otel.kind``                      ``internal``, ``server``, ``client``, ``producer``, ``consumer``
``otel.status_description``        what went wrong
``otel.events``, ``otel.links``    lists of objects
``otel.trace_state`` …             ``otel.schema_url``, ``otel.dropped_attributes_count`` and the like
``raylens.notes``                  what was cut or filled in here
=================================  ======================================================================

Times are kept to the microsecond. Ids are lower-case hexadecimal digits.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from raylens.errors import InputError
from raylens.traces import genai
from raylens.traces.bounds import bounded, clean, clean_json, fitted, put
from raylens.traces.chat_events import SpanEvent
from raylens.traces.otlp_json import request_of_json
from raylens.traces.otlp_size import count_fields
from raylens.traces.span import NAME_LIMIT, TEXT_LIMIT, Span, Turn, now

MOST_SPANS: Final = 20_000
"""Of one request."""
MOST_VALUES: Final = 2_000_000
"""Attributes, events, links and what is in them, of one request."""
REASONS: Final = 5
"""Why spans were refused, at most."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STATUS: Final[dict[int, Literal["ok", "error"]]] = {1: "ok", 2: "error"}
_KINDS: Final = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


@dataclass(frozen=True, slots=True)
class Batch:
    """What one request held.

    Attributes:
        spans: Those that can be taken.
        refused: How many cannot.
        reasons: Why, of the first few.
    """

    spans: tuple[Span, ...]
    refused: int = 0
    reasons: tuple[str, ...] = ()


def read_protobuf(body: bytes, at: datetime | None = None) -> Batch:
    """The spans of a request in protobuf.

    Args:
        body: Unpacked.
        at: When it came, for spans that do not say when they began; now by default.

    Raises:
        InputError: It is no such request, or holds too much.
    """
    n_spans, n_fields = count_fields(body, MOST_SPANS, MOST_VALUES)
    if n_spans > MOST_SPANS or n_fields > MOST_VALUES:
        raise _too_much()
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise InputError(
            "the body is no ExportTraceServiceRequest in protobuf.",
            hint="send OTLP traces as application/x-protobuf, or as application/json what is JSON.",
        ) from error
    return _Reader(at or now()).read(request)


def read_json(body: bytes, at: datetime | None = None) -> Batch:
    """The spans of a request in OTLP's JSON, as :func:`read_protobuf`.

    Raises:
        InputError: It is no such request, or holds too much.
    """
    return _Reader(at or now()).read(request_of_json(body, MOST_SPANS))


class _Reader:
    """Reads one request, and counts what it holds."""

    def __init__(self, at: datetime) -> None:
        self._at, self._values = at, 0

    def read(self, request: ExportTraceServiceRequest) -> Batch:
        spans: list[Span] = []
        reasons: list[str] = []
        for resource in request.resource_spans:
            whose = self._resource(resource)
            for scoped in resource.scope_spans:
                said = whose | self._scope(scoped)
                for span in scoped.spans:
                    fault = _fault(span)
                    if fault is None:
                        spans.append(self._span(span, said))
                    else:
                        reasons.append(fault)
        return Batch(tuple(spans), len(reasons), tuple(dict.fromkeys(reasons))[:REASONS])

    def _span(self, span: OtlpSpan, said: Mapping[str, Any]) -> Span:
        own = self._attributes(span.attributes)
        events = [
            SpanEvent(clean(event.name), event.time_unix_nano, self._attributes(event.attributes))
            for event in self._counted(span.events)
        ]
        name = clean(span.name)
        reading = genai.read(name, own, events)
        notes: list[str] = []
        started = _time(span.start_time_unix_nano)
        if started is None:
            notes.append("the span does not say when it began: the time it came was put there.")
        kept = {key: value for key, value in own.items() if key not in reading.used}
        if reading.finish_reasons and kept.get(genai.FINISH_REASONS) != list(reading.finish_reasons):
            put(kept, genai.FINISH_REASONS, list(reading.finish_reasons))
        for key, value in (*_envelope(span).items(), *said.items()):
            put(kept, key, value)
        if events:
            put(kept, "otel.events", [_event(event, reading.events.get(i)) for i, event in enumerate(events)])
        if links := [self._link(link) for link in self._counted(span.links)]:
            put(kept, "otel.links", links)
        return Span(
            span_id=span.span_id.hex(),
            trace_id=span.trace_id.hex(),
            parent_id=span.parent_span_id.hex() if any(span.parent_span_id) else None,
            name=fitted(name, NAME_LIMIT, "the name", notes),
            kind=reading.kind,
            model=_named(reading.model, "the model", notes),
            provider=_named(reading.provider, "the provider", notes),
            started_at=started or self._at,
            ended_at=_time(span.end_time_unix_nano),
            input=_text(reading.input, "the input", notes),
            output=_text(reading.output, "the output", notes),
            status=_STATUS.get(span.status.code, "unset"),
            attributes=bounded(kept, notes),
        )

    def _resource(self, resource: ResourceSpans) -> dict[str, Any]:
        said = {f"resource.{key}": value for key, value in self._attributes(resource.resource.attributes).items()}
        if resource.resource.dropped_attributes_count:
            put(said, "resource.dropped_attributes_count", resource.resource.dropped_attributes_count)
        if resource.schema_url:
            put(said, "resource.schema_url", clean(resource.schema_url))
        return said

    def _scope(self, scoped: ScopeSpans) -> dict[str, Any]:
        scope: InstrumentationScope = scoped.scope
        said: dict[str, Any] = {}
        for key, value in (
            ("otel.scope.name", clean(scope.name)),
            ("otel.scope.version", clean(scope.version)),
            ("otel.scope.dropped_attributes_count", scope.dropped_attributes_count),
            ("otel.schema_url", clean(scoped.schema_url)),
        ):
            if value:
                said[key] = value
        inside = self._attributes(scope.attributes)
        return said | {f"otel.scope.attributes.{key}": value for key, value in inside.items()}

    def _link(self, link: OtlpSpan.Link) -> dict[str, Any]:
        said = {
            "trace_id": link.trace_id.hex(),
            "span_id": link.span_id.hex(),
            "trace_state": clean(link.trace_state),
            "flags": link.flags,
            "dropped_attributes_count": link.dropped_attributes_count,
            "attributes": self._attributes(link.attributes),
        }
        return {key: value for key, value in said.items() if value}

    def _attributes(self, pairs: Iterable[KeyValue]) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        for pair in self._counted(pairs):
            put(attributes, clean(pair.key), self._value(pair.value))
        return attributes

    def _value(self, value: AnyValue) -> Any:
        """A value as JSON. The parser has bounded how deep it is (100 messages)."""
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [self._value(item) for item in self._counted(value.array_value.values)]
        if kind == "kvlist_value":
            return self._attributes(value.kvlist_value.values)
        if kind == "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        return None if kind is None else clean_json(getattr(value, kind))

    def _counted(self, items: Any) -> Any:
        self._values += len(items)
        if self._values > MOST_VALUES:
            raise _too_much()
        return items


def _too_much() -> InputError:
    return InputError(
        f"the request holds more than {MOST_SPANS:,} spans, or {MOST_VALUES:,} attributes, events and links.",
        hint="send it in parts.",
    )


def _fault(span: OtlpSpan) -> str | None:
    """Why a span cannot be taken."""
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "a trace id is not 32 hexadecimal digits, of which one is not 0."
    if len(span.span_id) != 8 or not any(span.span_id):
        return "a span id is not 16 hexadecimal digits, of which one is not 0."
    if len(span.parent_span_id) not in (0, 8):
        return "a parent span id is not 16 hexadecimal digits."
    return None


def _envelope(span: OtlpSpan) -> dict[str, Any]:
    """What OTLP says of the span beside its attributes."""
    said = {
        "otel.kind": _KINDS.get(span.kind),
        "otel.status_description": clean(span.status.message),
        "otel.trace_state": clean(span.trace_state),
        "otel.flags": span.flags,
        "otel.dropped_attributes_count": span.dropped_attributes_count,
        "otel.dropped_events_count": span.dropped_events_count,
        "otel.dropped_links_count": span.dropped_links_count,
    }
    return {key: value for key, value in said.items() if value}


def _event(event: SpanEvent, told: frozenset[str] | None) -> dict[str, Any]:
    said: dict[str, Any] = {"name": event.name}
    if event.time_unix_nano:
        said["time_unix_nano"] = event.time_unix_nano
    if rest := {key: value for key, value in event.attributes.items() if key not in (told or ())}:
        said["attributes"] = rest
    return said


def _time(nanoseconds: int) -> datetime | None:
    """UTC; None for 0, which stands for none. 64 bits of nanoseconds end in the year 2554."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000) if nanoseconds else None


def _named(name: str | None, what: str, notes: list[str]) -> str | None:
    return None if name is None else fitted(name, NAME_LIMIT, what, notes)


def _text(said: str | tuple[Turn, ...], what: str, notes: list[str]) -> str | tuple[Turn, ...]:
    return fitted(said, TEXT_LIMIT, what, notes) if isinstance(said, str) else said
