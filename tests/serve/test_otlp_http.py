"""``POST /v1/traces``: a real exporter's spans arrive whole, and whatever else comes is answered as OTLP says."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, SpanKind, StatusCode, format_span_id, format_trace_id

from otlp_requests import SPAN, TRACE, as_json, otlp_span, request_of
from raylens.store import trace_rows
from raylens_serve.otlp_http import JSON, PROTOBUF
from traces_here import SENT, Traces, traces_here

OTHER = bytes(reversed(TRACE))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Traces]:
    with traces_here(tmp_path / "workspace") as traces:
        yield traces


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    """Of which nothing is written."""
    with traces_here(tmp_path_factory.mktemp("empty")) as traces:
        yield traces


def post(here: Traces, body: bytes, kind: str = PROTOBUF, **headers: str) -> httpx.Response:
    return here.http.post("/v1/traces", content=body, headers={"Content-Type": kind, **headers})


def exporter(here: Traces, compression: Compression = Compression.NoCompression) -> OTLPSpanExporter:
    return OTLPSpanExporter(f"{here.url}/v1/traces", headers=SENT, compression=compression)


def messages(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}], ensure_ascii=False)


@pytest.mark.parametrize("compression", Compression, ids=lambda one: one.value)
def test_spans_of_a_real_exporter_arrive_whole(here: Traces, compression: Compression) -> None:  # A0.01
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    sending = exporter(here, compression)
    results: list[SpanExportResult] = []
    export = sending.export
    sending.export = lambda spans: results.append(export(spans)) or results[-1]  # pyright: ignore[reportAttributeAccessIssue]
    provider.add_span_processor(BatchSpanProcessor(sending))
    tracer = provider.get_tracer("my.agent", "1.2")
    with tracer.start_as_current_span("answer", attributes={"customer": 42}) as agent:
        linked = Link(agent.get_span_context(), {"why": "retry"})
        with tracer.start_as_current_span("chat gpt-4o", kind=SpanKind.CLIENT, links=[linked]) as call:
            call.set_attributes(
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.provider.name": "openai",
                    "gen_ai.request.model": "gpt-4o",
                    "gen_ai.request.stop_sequences": ["\n", "END"],
                    "gen_ai.usage.input_tokens": 2**40,
                    "gen_ai.request.temperature": 0.25,
                    "gen_ai.input.messages": messages("user", "Grüße, 世界"),
                    "gen_ai.output.messages": messages("assistant", "Hello"),
                }
            )
            call.add_event("first token", {"after_ms": 120})
            call.set_status(StatusCode.ERROR, "cut short")
    provider.shutdown()
    assert results == [SpanExportResult.SUCCESS]

    trace_id = format_trace_id(agent.get_span_context().trace_id)
    answer = here.http.get(f"/api/v1/traces/{trace_id}").json()
    assert [span["name"] for span in answer["spans"]] == ["answer", "chat gpt-4o"]
    first, second = answer["spans"]
    assert (first["kind"], first["model"], first["parent_id"], first["attributes"]["customer"]) == (
        "span",
        None,
        None,
        42,
    )
    assert second["span_id"] == format_span_id(call.get_span_context().span_id)
    assert second["parent_id"] == first["span_id"]
    assert (second["kind"], second["model"], second["provider"]) == ("llm", "gpt-4o", "openai")
    assert second["input"] == [{"role": "user", "content": "Grüße, 世界"}]
    assert (second["output"], second["status"]) == ("Hello", "error")
    said = second["attributes"]
    assert said["gen_ai.request.stop_sequences"] == ["\n", "END"]
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.request.temperature"]) == (2**40, 0.25)
    assert (said["resource.service.name"], said["otel.scope.name"], said["otel.scope.version"]) == (
        "shop",
        "my.agent",
        "1.2",
    )
    assert (said["otel.kind"], said["otel.status_description"]) == ("client", "cut short")
    assert said["otel.events"][0]["attributes"] == {"after_ms": 120}
    assert said["otel.links"][0]["attributes"] == {"why": "retry"}
    assert first["started_at"] <= second["started_at"] <= second["ended_at"] <= first["ended_at"]


def test_an_exporter_without_the_token_is_refused(empty: Traces) -> None:
    with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        pass
    sending = OTLPSpanExporter(f"{empty.url}/v1/traces")
    assert sending.export([span]) is SpanExportResult.FAILURE  # pyright: ignore[reportArgumentType]
    assert empty.ids() == []


@pytest.mark.parametrize("kind", [PROTOBUF, JSON, f"{JSON}; charset=utf-8"])
@pytest.mark.parametrize("packing", ["identity", "gzip", "deflate"])
def test_both_encodings_are_read_packed_or_not_and_answered_in_kind(here: Traces, kind: str, packing: str) -> None:
    request = request_of(otlp_span({"gen_ai.request.model": "gpt-4o"}))
    body = request.SerializeToString() if kind == PROTOBUF else as_json(request)
    packed = {"identity": bytes, "gzip": gzip.compress, "deflate": zlib.compress}[packing](body)
    answer = post(here, packed, kind, **{"Content-Encoding": packing})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind.partition(";")[0])
    assert answer.content == (b"" if kind == PROTOBUF else b"{}")
    assert here.span(SPAN.hex())["model"] == "gpt-4o"  # A0.06


def test_a_batch_that_is_sent_twice_is_there_once(here: Traces) -> None:
    request = request_of(otlp_span(), otlp_span(span_id=bytes.fromhex("00f067aa0ba902b7"), parent_span_id=SPAN))
    for body, kind in [(request.SerializeToString(), PROTOBUF)] * 2 + [(as_json(request), JSON)]:
        assert post(here, body, kind).status_code == 200
    assert sorted(here.ids()) == ["00f067aa0ba902b7", SPAN.hex()]
    assert here.span("00f067aa0ba902b7")["parent_id"] == SPAN.hex()


def test_two_traces_may_use_the_same_span_id(here: Traces) -> None:
    child = bytes.fromhex("00f067aa0ba902b7")
    mine = request_of(otlp_span(name="mine"))
    theirs = request_of(
        otlp_span(trace_id=OTHER, span_id=child, parent_span_id=SPAN), otlp_span(trace_id=OTHER, name="theirs")
    )
    for request in (mine, theirs, mine, theirs):
        assert post(here, request.SerializeToString()).status_code == 200
    apart = f"{OTHER.hex()}.{SPAN.hex()}"
    assert sorted(here.ids()) == sorted([SPAN.hex(), apart, child.hex()])
    assert (here.span(SPAN.hex())["name"], here.span(SPAN.hex())["trace_id"]) == ("mine", TRACE.hex())
    assert (here.span(apart)["name"], here.span(apart)["trace_id"]) == ("theirs", OTHER.hex())
    assert here.span(child.hex())["parent_id"] == apart
    # What was given stays given, though the short id is free again.
    assert here.http.delete(f"/api/v1/traces/{TRACE.hex()}").status_code == 200
    assert post(here, theirs.SerializeToString()).status_code == 200
    assert sorted(here.ids()) == sorted([apart, child.hex()])


def test_two_traces_of_one_batch_are_told_apart(here: Traces) -> None:
    request = request_of(otlp_span(name="mine"), otlp_span(trace_id=OTHER, name="theirs"))
    assert post(here, request.SerializeToString()).status_code == 200
    assert sorted(here.ids()) == sorted([SPAN.hex(), f"{OTHER.hex()}.{SPAN.hex()}"])


def test_spans_that_cannot_be_taken_are_counted_and_the_others_are_kept(here: Traces) -> None:
    request = request_of(otlp_span(), otlp_span(span_id=b"short"), otlp_span(trace_id=bytes(16)))
    answer = ExportTraceServiceResponse.FromString(post(here, request.SerializeToString()).content)
    assert answer.partial_success.rejected_spans == 2
    assert "span id is not 16" in answer.partial_success.error_message
    said = post(here, as_json(request), JSON).json()
    assert said["partialSuccess"]["rejectedSpans"] == "2"
    assert here.ids() == [SPAN.hex()]


def test_a_span_too_large_to_be_kept_does_not_take_its_neighbours_along(
    here: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_rows, "SPAN_BYTES", 1_000_000)
    long = otlp_span({"gen_ai.prompt": "x" * 1_000_001}, span_id=b"too long")
    answer = post(here, request_of(otlp_span(), long).SerializeToString())
    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert (answer.status_code, partial.rejected_spans) == (200, 1)
    assert "bytes of text" in partial.error_message
    assert here.ids() == [SPAN.hex()]


MALFORMED = [(b"\xff", PROTOBUF), (b"{", JSON), (b"[]", JSON), (b"", JSON), (b'{"resourceSpans": 1}', JSON)]


@pytest.mark.parametrize(("body", "kind"), MALFORMED, ids=str)
def test_what_is_malformed_is_refused_in_kind(empty: Traces, body: bytes, kind: str) -> None:
    answer = post(empty, body, kind)
    assert (answer.status_code, answer.headers["content-type"]) == (400, kind)
    if kind == PROTOBUF:
        status = Status.FromString(answer.content)
        assert (status.code, "ExportTraceServiceRequest" in status.message) == (3, True)
    else:
        assert {"error", "hint", "kind"} == set(answer.json())


HALF = {"gzip": gzip.compress(b"x" * 999)[:-9], "deflate": zlib.compress(b"x")[:-5]}


@pytest.mark.parametrize("packing", HALF)
@pytest.mark.parametrize("is_half", [False, True], ids=["another", "half"])
def test_a_damaged_packing_is_malformed(empty: Traces, packing: str, is_half: bool) -> None:
    answer = post(empty, HALF[packing] if is_half else b"plain", PROTOBUF, **{"Content-Encoding": packing})
    assert (answer.status_code, Status.FromString(answer.content).code) == (400, 3)


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, packing: str, kind: str) -> None:
    pack: Any = gzip.compress if packing == "gzip" else zlib.compress
    with traces_here(tmp_path / "workspace", unpacked_bytes=100_000) as here:
        bomb = pack(b" " * 50_000_000)
        assert len(bomb) < 100_000
        answer = post(here, bomb, kind, **{"Content-Encoding": packing})
        assert (answer.status_code, answer.headers["content-type"]) == (413, kind)
        fits = pack(b"{}" + b" " * 99_998 if kind == JSON else b"")
        assert post(here, fits, kind, **{"Content-Encoding": packing}).status_code == 200


def test_a_body_of_too_many_bytes_is_refused(empty: Traces) -> None:
    assert post(empty, bytes(16 * 2**20 + 1)).status_code == 413


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "text/plain"}, {"Content-Type": ""}, {"Content-Encoding": "zstd"}]
)
def test_what_is_not_read_here_is_said(empty: Traces, headers: dict[str, str]) -> None:
    answer = empty.http.post("/v1/traces", content=b"{}", headers={"Content-Type": JSON, **headers})
    assert answer.status_code == 415
    assert "send " in answer.json()["hint"]


def test_what_may_pass_later_asks_for_a_retry(here: Traces) -> None:
    """Exporters send a batch again after 503, and drop it after most others."""
    asyncio.run(here.ledger.close())
    body = request_of(otlp_span()).SerializeToString()
    answer = post(here, body)
    assert (answer.status_code, Status.FromString(answer.content).code) == (503, 14)
    assert int(answer.headers["retry-after"]) > 0
    assert post(here, as_json(request_of(otlp_span())), JSON).json()["kind"] == "OverloadedError"


def test_many_at_a_time_are_all_kept(here: Traces) -> None:
    async def send_all() -> list[int]:
        async with httpx.AsyncClient(
            base_url=here.url, headers={**SENT, "Content-Type": PROTOBUF}, trust_env=False
        ) as http:
            bodies = [
                request_of(*(otlp_span(span_id=(100 * i + j + 1).to_bytes(8)) for j in range(20))).SerializeToString()
                for i in range(40)
            ]
            answers = await asyncio.gather(*(http.post("/v1/traces", content=body, timeout=60) for body in bodies))
            return [answer.status_code for answer in answers]

    assert asyncio.run(send_all()) == [200] * 40
    assert len(here.ids(limit=1000)) == 800
