"""OTLP → spans: alike in both encodings, whole, and no worse than refused."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from otlp_requests import AT, SPAN, TRACE, any_value, as_json, otlp_span, put, request_of
from raylens.errors import InputError
from raylens.traces import bounds, genai, otlp
from raylens.traces.otlp import Batch, read_json, read_protobuf
from raylens.traces.otlp_size import count_fields
from raylens.traces.span import Span, Turn

CAME = datetime(2026, 2, 3, tzinfo=UTC)
EMPTY = ExportTraceServiceRequest()


def read_one(span: OtlpSpan, **sender: Any) -> Span:
    (found,) = read_protobuf(request_of(span, resource=sender).SerializeToString(), CAME).spans
    return found


texts = st.text(max_size=30)
JSON_TEXTS = ['[{"role": "user", "content": "a"}]', '{"messages": [{"content": [{"type": "text"}]}]}', "[[1]]"]
PLACES = ["role", "content", "parts", "type", "text", "message", "tool_calls", "finish_reason", "x"]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=9)
    | st.sampled_from(JSON_TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PLACES), inner, max_size=3),
    max_leaves=8,
)
KNOWN = [
    *genai.MODEL_KEYS[:4],
    *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.prompt", "llm.prompts"),
    *("gen_ai.prompt.0.role", "gen_ai.prompt.0.content", "gen_ai.prompt.1.content.0.text", "gen_ai.completion.0"),
    *("llm.input_messages.0.message.role", "llm.output_messages.0.message.content", "input.value", "output.value"),
    *("openinference.span.kind", "gen_ai.operation.name", "gen_ai.response.finish_reasons", "ai.prompt", "content"),
    *("gen_ai.event.content", "message", "role", "finish_reason", bounds.NOTES),
]
attributes = st.dictionaries(st.sampled_from(KNOWN) | texts, values, max_size=5)
EVENTS = ["gen_ai.user.message", "gen_ai.choice", "gen_ai.assistant.message", "gen_ai.content.prompt", "exception"]
times = st.integers(0, 2**64 - 1)
ids = st.binary(min_size=8, max_size=8)


@st.composite
def otlp_spans(draw: st.DrawFn) -> OtlpSpan:
    span = otlp_span(
        draw(attributes),
        trace_id=draw(st.sampled_from([TRACE, TRACE[:8], b"", bytes(16)]) | ids.map(lambda half: 2 * half)),
        span_id=draw(ids | st.binary(max_size=9)),
        parent_span_id=draw(st.sampled_from([b"", bytes(8)]) | ids | st.binary(max_size=2)),
        name=draw(texts),
        kind=draw(st.sampled_from(OtlpSpan.SpanKind.values())),
        start_time_unix_nano=draw(times),
        end_time_unix_nano=draw(times),
        trace_state=draw(texts),
        flags=draw(st.integers(0, 2**32 - 1)),
        dropped_events_count=draw(st.integers(0, 9)),
        status=Status(code=draw(st.sampled_from(Status.StatusCode.values())), message=draw(texts)),
    )
    for name in draw(st.lists(st.sampled_from(EVENTS), max_size=3)):
        put(span.events.add(name=name, time_unix_nano=draw(times)).attributes, draw(attributes))
    for linked in draw(st.lists(ids, max_size=2)):
        put(span.links.add(trace_id=2 * linked, span_id=linked).attributes, draw(attributes))
    return span


@settings(max_examples=60)
@given(st.lists(otlp_spans(), max_size=3), attributes)
def test_json_says_what_protobuf_says(spans: list[OtlpSpan], sender: dict[str, Any]) -> None:
    request = request_of(*spans, resource=sender)
    batch = read_protobuf(request.SerializeToString(), CAME)
    assert read_json(as_json(request), CAME) == batch
    assert len(batch.spans) + batch.refused == len(spans)
    for span in batch.spans:
        assert Span.model_validate_json(span.model_dump_json()) == span
        json.dumps(span.attributes, allow_nan=False, ensure_ascii=False).encode()


def is_read_or_refused(read: Callable[[bytes], Batch], body: bytes) -> bool:
    try:
        return isinstance(read(body), Batch)
    except InputError as error:
        return bool(error.hint)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    assert is_read_or_refused(read_protobuf, body)
    assert is_read_or_refused(read_json, body)


FIELDS = ["resourceSpans", "scopeSpans", "spans", "traceId", "spanId", "attributes", "key", "value", "stringValue",
          "arrayValue", "values", "links", "events", "startTimeUnixNano", "kind", "status", "@type"]  # fmt: skip
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=25,
)


@given(any_json, st.sampled_from(["alone", "span", "attributes"]))
def test_any_json_is_read_or_refused(value: Any, place: str) -> None:
    sent = value
    if place != "alone":
        span = {"traceId": TRACE.hex(), "spanId": SPAN.hex(), place: value} | (value if isinstance(value, dict) else {})
        sent = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    assert is_read_or_refused(read_json, json.dumps(sent).encode())


NO_REQUESTS = [b"", b"[]", b"null", b"{", b"\xff{}", b"7" * 5000, b"[" * 10**6, b'{"resourceSpans": 7}']


@pytest.mark.parametrize("body", [*NO_REQUESTS, b"[" + b"0," * 2_000_001], ids=lambda body: body[:12].decode("latin-1"))
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        read_json(body)


def test_json_may_hold_what_is_not_known_and_begin_with_a_mark() -> None:
    assert read_json(b'\xef\xbb\xbf{"resourceSpans": [], "soon": {"more": 1}}') == Batch(())
    assert read_protobuf(b"") == Batch(())


def test_a_span_of_a_model_arrives_whole() -> None:  # A0.01, A0.06
    sent = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]),
        "gen_ai.output.messages": json.dumps(
            [{"role": "assistant", "parts": [{"type": "text", "content": "Hello"}], "finish_reason": "stop"}]
        ),
    }
    span = otlp_span(
        sent,
        parent_span_id=bytes.fromhex("00f067aa0ba902b7"),
        name="chat gpt-4o",
        kind=OtlpSpan.SPAN_KIND_CLIENT,
        end_time_unix_nano=AT + 1_500_000_999,
        trace_state="a=1",
        status=Status(code=Status.STATUS_CODE_ERROR, message="cut short"),
    )
    put(span.events.add(name="exception", time_unix_nano=AT + 7).attributes, {"exception.type": "Timeout"})
    put(span.links.add(trace_id=TRACE, span_id=SPAN).attributes, {"why": b"\x00"})
    request = request_of(span, resource={"service.name": "shop"})
    scoped = request.resource_spans[0].scope_spans[0]
    scoped.scope.name, scoped.scope.version, scoped.schema_url = "my.agent", "1.2", "https://schemas/1"
    put(scoped.scope.attributes, {"a": 1})
    (found,) = read_protobuf(request.SerializeToString()).spans
    assert found == Span(
        span_id=SPAN.hex(),
        trace_id=TRACE.hex(),
        parent_id="00f067aa0ba902b7",
        name="chat gpt-4o",
        kind="llm",
        model="gpt-4o",
        provider="openai",
        started_at=datetime(2026, 1, 5, 9, tzinfo=UTC),
        ended_at=datetime(2026, 1, 5, 9, 0, 1, 500_000, tzinfo=UTC),
        input=(Turn(role="user", content="Hi"),),
        output="Hello",
        status="error",
        attributes={
            **{key: value for key, value in sent.items() if not key.endswith(".messages")},
            "gen_ai.response.finish_reasons": ["stop"],
            "otel.kind": "client",
            "otel.status_description": "cut short",
            "otel.trace_state": "a=1",
            "resource.service.name": "shop",
            "otel.scope.name": "my.agent",
            "otel.scope.version": "1.2",
            "otel.schema_url": "https://schemas/1",
            "otel.scope.attributes.a": 1,
            "otel.events": [
                {"name": "exception", "time_unix_nano": AT + 7, "attributes": {"exception.type": "Timeout"}}
            ],
            "otel.links": [{"trace_id": TRACE.hex(), "span_id": SPAN.hex(), "attributes": {"why": "AA=="}}],
        },
    )


def test_a_span_that_names_no_model_is_kept() -> None:  # A0.23: the error about it needs the span
    found = read_one(otlp_span({"gen_ai.operation.name": "chat", "gen_ai.prompt.0.content": "Hi"}))
    assert (found.kind, found.model) == ("llm", None)
    found = read_one(otlp_span({"http.method": "GET"}, name="GET /"))
    assert (found.kind, found.model, found.input, found.attributes["http.method"]) == ("span", None, "", "GET")


def test_messages_leave_their_events_and_nothing_else_does() -> None:
    span = otlp_span()
    put(span.events.add(name="gen_ai.user.message", time_unix_nano=AT).attributes, {"content": "Hi", "id": "7"})
    assert read_one(span).attributes == {
        "otel.events": [{"name": "gen_ai.user.message", "time_unix_nano": AT, "attributes": {"id": "7"}}]
    }


def test_one_malformed_id_refuses_one_span() -> None:
    faults: list[dict[str, Any]] = [
        {"trace_id": TRACE[:8]},
        {"trace_id": bytes(16)},
        {"span_id": b""},
        {"parent_span_id": b"1"},
    ]
    request = request_of(otlp_span(), *(otlp_span(**fault) for fault in faults))
    batch = read_protobuf(request.SerializeToString())
    assert (len(batch.spans), batch.refused, len(batch.reasons)) == (1, 4, 3)
    sent = json.loads(as_json(request_of(otlp_span(), otlp_span(), otlp_span())))
    spans = sent["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans[0]["traceId"], spans[1]["spanId"] = "not hexadecimal, and some more..", SPAN.hex().upper()
    batch = read_json(json.dumps(sent).encode())
    assert [span.span_id for span in batch.spans] == [SPAN.hex(), SPAN.hex()]
    assert batch.refused == 1
    assert "trace id" in batch.reasons[0]


def test_a_span_that_does_not_say_when_it_began_began_when_it_came() -> None:
    found = read_one(otlp_span(start_time_unix_nano=0))
    assert (found.started_at, found.ended_at) == (CAME, None)
    assert "does not say when" in found.attributes[bounds.NOTES][0]
    assert read_one(otlp_span(start_time_unix_nano=2**64 - 1)).started_at.year == 2554


def test_what_is_too_long_is_cut_and_it_is_said() -> None:
    found = read_one(otlp_span({"input.value": "x" * 4_000_001, "a": "y" * 10**6}, name="n" * 1001))
    assert len(found.input) == 4_000_000
    assert found.attributes[bounds.NOTES] == [
        "the name was cut to 1,000 of 1,001 characters.",
        "the input was cut to 4,000,000 of 4,000,001 characters.",
        "cut to fit: a.",
    ]


def test_attributes_of_one_name_take_nobodys_place() -> None:
    span = otlp_span({"otel.scope.name": "mine", "resource.a": 1})
    span.attributes.add(key="resource.a").value.CopyFrom(any_value(2))
    assert read_one(span, a=3).attributes == {
        "otel.scope.name": "mine",
        "resource.a": 1,
        "resource.a~2": 2,
        "resource.a~3": 3,
    }


@pytest.mark.parametrize("as_bytes", [lambda request: request.SerializeToString(), as_json], ids=["protobuf", "json"])
def test_a_request_of_too_much_is_refused(as_bytes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_json if as_bytes is as_json else read_protobuf
    monkeypatch.setattr(otlp, "MOST_SPANS", 2)
    assert len(read(as_bytes(request_of(*[otlp_span()] * 2))).spans) == 2
    with pytest.raises(InputError, match="more than 2 spans"):
        read(as_bytes(request_of(*[otlp_span()] * 3)))
    monkeypatch.setattr(otlp, "MOST_VALUES", 5)
    with pytest.raises(InputError, match="5 attributes"):
        read(as_bytes(request_of(otlp_span({"a": [1, 2], "b": [3, 4]}))))


def test_counting_comes_before_what_counts_takes_memory() -> None:
    """Two bytes a span become 170 of memory: 30 MB of them would be gigabytes."""
    spans = b"\x12\x00" * 15_000_000
    body = b"\x0a" + varint(len(spans) + 5) + b"\x12" + varint(len(spans)) + spans
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="more than 20,000 spans"):
        read_protobuf(body)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def varint(number: int) -> bytes:
    made = b""
    while number > 127:
        made += bytes([number & 127 | 128])
        number >>= 7
    return made + bytes([number])


@settings(max_examples=25)
@given(st.lists(otlp_spans(), max_size=3), attributes)
def test_the_count_is_what_the_parser_finds(spans: list[OtlpSpan], sender: dict[str, Any]) -> None:
    body = request_of(*spans, resource=sender).SerializeToString()
    n, fields = count_fields(body, 10**6, 10**6)
    assert n == len(spans)
    assert fields >= sum(len(span.attributes) + len(span.events) + len(span.links) for span in spans)


words = st.integers(0, 10**9).map(lambda n: f"w{n}w")
held = st.recursive(
    words | words.map(lambda word: json.dumps([{"role": "user", "parts": [{"type": "text", "content": word}]}])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PLACES), inner, max_size=4),
    max_leaves=6,
)
spoken = st.dictionaries(st.sampled_from(KNOWN), held | held.map(json.dumps), max_size=4)


@given(spoken, st.lists(st.tuples(st.sampled_from(EVENTS), spoken), max_size=3), spoken)
def test_nothing_that_was_sent_is_lost(
    attributes: dict[str, Any], events: list[tuple[str, dict[str, Any]]], sender: dict[str, Any]
) -> None:
    """Every word that went in is in the span, wherever that is."""
    span = otlp_span(attributes)
    for name, inside in events:
        put(span.events.add(name=name).attributes, inside)
    kept = read_one(span, **sender).model_dump_json()
    sent = json.dumps([attributes, events, sender])
    assert set(re.findall("w[0-9]+w", sent)) <= set(re.findall("w[0-9]+w", kept))
