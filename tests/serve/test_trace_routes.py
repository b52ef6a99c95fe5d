"""``/api/v1/traces`` and ``/api/v1/spans``: sent, listed, read, deleted, and described."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from raylens.api.spans import SpanOut, SpanPage, TraceOut, TracePage
from raylens.bundle.traces import sample_spans
from raylens_serve.routes import traces as routes
from traces_here import TOKEN, Traces, trace_app, traces_here


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Traces]:
    with traces_here(tmp_path / "workspace") as traces:
        yield traces


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    """Of which nothing is written."""
    with traces_here(tmp_path_factory.mktemp("empty")) as traces:
        yield traces


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    """With the sample traces, to be read."""
    with traces_here(tmp_path_factory.mktemp("full")) as traces:
        send_sample(traces)
        yield traces


def send_sample(here: Traces) -> None:
    sent = [json.loads(span.model_dump_json()) for span in sample_spans()]
    assert send(here, *sent) == [span.span_id for span in sample_spans()]


def send(here: Traces, *spans: dict[str, Any]) -> list[str]:
    answer = here.http.post("/api/v1/traces", json={"spans": [{"input": "", "output": "", **span} for span in spans]})
    assert answer.status_code == 200, answer.text
    return answer.json()["span_ids"]


def test_spans_come_back_as_they_were_sent(full: Traces) -> None:  # A0.01
    for span in sample_spans():
        assert SpanOut.model_validate(full.span(span.span_id)).model_dump() == span.model_dump()
    page = SpanPage.model_validate(full.http.get("/api/v1/spans").json())
    assert {span.span_id: span.model_dump() for span in page.spans} == {
        s.span_id: s.model_dump() for s in sample_spans()
    }
    starts = [span.started_at for span in page.spans]
    assert starts == sorted(starts, reverse=True), "the latest first"
    assert (page.total, page.next_offset) == (len(sample_spans()), None)


def test_models_and_none_are_kept(full: Traces) -> None:  # A0.06, A0.23
    models = {span.model for span in SpanPage.model_validate(full.http.get("/api/v1/spans").json()).spans}
    assert {"raylens/pico", "gpt-4o", None} <= models


def test_traces_are_listed_and_read_as_trees(full: Traces) -> None:
    page = TracePage.model_validate(full.http.get("/api/v1/traces").json())
    names = [trace.name for trace in page.traces]
    assert names == ["text_completion raylens/pico", "answer a customer", "write a downloader"], "the latest first"
    last = page.traces[-1]
    assert (last.n_spans, last.models, last.n_errors) == (4, ("raylens/pico",), 1)
    trace = TraceOut.model_validate(full.http.get(f"/api/v1/traces/{last.trace_id}").json())
    wanted = [span.span_id for span in sample_spans() if span.trace_id == last.trace_id]
    assert [span.span_id for span in trace.spans] == wanted, "the oldest first"
    assert {span.parent_id for span in trace.spans} == {None, wanted[0]}


def test_lists_are_cut_into_pages(full: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = full.ids()
    for path, key, wanted in (
        ("/api/v1/spans", "spans", everything),
        (f"/api/v1/traces/{sample_spans()[0].trace_id}", "spans", [span.span_id for span in sample_spans()[:4]]),
    ):
        for limit, chars in ((3, routes.PAGE_CHARS), (1, routes.PAGE_CHARS), (1000, 100)):
            monkeypatch.setattr(routes, "PAGE_CHARS", chars)
            found: list[str] = []
            offset: int | None = 0
            while offset is not None:
                page = full.http.get(path, params={"limit": limit, "offset": offset}).json()
                assert page["total"] == len(wanted)
                found += [span["span_id"] for span in page[key]]
                offset = page["next_offset"]
            assert found == wanted
    page = full.http.get("/api/v1/traces", params={"limit": 2}).json()
    assert (len(page["traces"]), page["total"], page["next_offset"]) == (2, 3, 2)
    for path in ("/api/v1/spans", "/api/v1/traces", f"/api/v1/traces/{sample_spans()[0].trace_id}"):
        page = full.http.get(path, params={"offset": 99}).json()
        assert (page.get("spans", page.get("traces")), page["next_offset"]) == ([], None)


FILTERS: list[tuple[dict[str, str], Any]] = [
    ({"model": "gpt-4o"}, lambda span: span.model == "gpt-4o"),
    ({"text": "ORDER 1042"}, lambda span: "order 1042" in json.dumps(span.model_dump(mode="json")).lower()),
    ({"text": "\0"}, lambda span: False),
    ({"since": "2026-01-05T10:00:00Z"}, lambda span: span.started_at.hour >= 10),
    ({"until": "2026-01-05T11:00:00+01:00"}, lambda span: span.started_at.hour < 10),
    ({"since": "2026-01-05T10:00:00", "until": "2026-01-05T11:00:00"}, lambda span: span.started_at.hour == 10),
    ({"trace_id": sample_spans()[0].trace_id, "model": "raylens/pico"}, lambda span: span in sample_spans()[1:3]),
    ({"model": "raylens/pico", "text": "fetch"}, lambda span: span.model == "raylens/pico" and "fetch" in span.input),
    ({"trace_id": "none-such"}, lambda span: False),
    ({"until": "0001-01-01T00:00:00+14:00"}, lambda span: False),
    ({"since": "0001-01-01T00:00:00+14:00", "until": "9999-12-31T23:59:59-14:00"}, lambda span: True),
]


@pytest.mark.parametrize(("which", "belongs"), FILTERS, ids=lambda value: "" if callable(value) else str(value)[:50])
def test_lists_hold_what_is_asked_for(full: Traces, which: dict[str, str], belongs: Any) -> None:
    wanted = [span for span in sample_spans() if belongs(span)]
    assert set(full.ids(**which)) == {span.span_id for span in wanted}
    traces = full.http.get("/api/v1/traces", params=which).json()["traces"]
    assert {trace["trace_id"] for trace in traces} == {span.trace_id for span in wanted}


def test_what_is_missing_is_filled_in(here: Traces) -> None:
    first, second = send(here, {"model": "raylens/pico", "input": "a"}, {})
    assert here.span(first)["trace_id"] == here.span(second)["trace_id"]
    assert here.span(first)["kind"] == "llm"
    assert here.span(first)["started_at"].endswith("Z")


def test_the_same_id_takes_the_place_of_what_was_there(here: Traces) -> None:
    for text in ("a", "b"):
        send(here, {"span_id": "one", "trace_id": "t", "input": text})
    assert here.ids() == ["one"]
    assert here.span("one")["input"] == "b"


def test_spans_and_traces_are_deleted(here: Traces) -> None:
    send_sample(here)
    first, second, *_ = sample_spans()
    assert here.http.delete(f"/api/v1/spans/{second.span_id}").json() == {"deleted": 1}
    assert second.span_id not in here.ids()
    assert here.http.delete(f"/api/v1/traces/{first.trace_id}").json() == {"deleted": 3}
    assert here.http.get("/api/v1/traces").json()["total"] == 2


@pytest.mark.parametrize("path", ["/api/v1/spans/none", "/api/v1/traces/none"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_not_there_is_404(empty: Traces, path: str, method: str) -> None:
    answer = empty.http.request(method, path)
    assert (answer.status_code, answer.json()["kind"]) == (404, "UnknownNameError")
    assert "'none'" in answer.json()["error"]
    assert answer.json()["hint"]


ODD = [
    ("GET", "/api/v1/spans?limit=0"),
    ("GET", "/api/v1/spans?limit=1001"),
    ("GET", "/api/v1/spans?offset=-1"),
    ("GET", f"/api/v1/spans?offset={10**30}"),
    ("GET", "/api/v1/traces?since=yesterday"),
    ("GET", "/api/v1/spans?trace_id=a%20b"),
    ("GET", f"/api/v1/spans?text={'x' * 1001}"),
    ("GET", "/api/v1/spans/%00"),
    ("GET", f"/api/v1/traces/{'x' * 129}"),
    ("DELETE", "/api/v1/spans/%ff"),
]


@pytest.mark.parametrize(("method", "path"), ODD)
def test_what_is_not_possible_is_422(empty: Traces, method: str, path: str) -> None:
    answer = empty.http.request(method, path)
    assert (answer.status_code, set(answer.json())) == (422, {"error", "hint", "kind"})


BODIES: list[tuple[bytes, int]] = [
    (b"{", 422),
    (b"\xff", 400),
    (b"[" * 100_000, 400),
    (b"[]", 422),
    (b'{"spans": []}', 422),
    (b'{"spans": [{"input": "a"}]}', 422),
    (b'{"spans": [{"input": "a", "output": "b", "\\ud800": 1}]}', 422),
    (b'{"spans": [{"input": "a", "output": "b", "span_id": "\\ud800"}]}', 422),
    (b'{"spans": [{"input": "a", "output": "b", "attributes": {"a": ' + b"[" * 70 + b"]" * 70 + b"}}]}", 422),
    (b'{"spans": [{"input": "a", "output": "b"}], "\\udfff": 1}', 422),
]


@pytest.mark.parametrize(("body", "status"), BODIES, ids=lambda value: str(value)[:40])
def test_a_body_that_cannot_be_read_is_refused_with_one_sentence(empty: Traces, body: bytes, status: int) -> None:
    answer = empty.http.post("/api/v1/traces", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, set(answer.json())) == (status, {"error", "hint", "kind"}), answer.text
    assert empty.ids() == []


def test_texts_that_no_format_holds_are_kept_without_what_they_cannot(here: Traces) -> None:
    body = rb'{"spans": [{"span_id": "odd", "name": "n\u0000", "input": "a\ud800", "output": [{"role": "u", "content": "\u0000"}], "attributes": {"x": NaN, "big": 1e999, "deep": [[["\udc00"]]]}}]}'  # noqa: E501
    answer = here.http.post("/api/v1/traces", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    span = here.span("odd")
    assert (span["name"], span["input"], span["output"][0]["content"]) == ("n\ufffd", "a\ufffd", "\ufffd")
    assert span["attributes"] == {"x": "NaN", "big": "Infinity", "deep": [[["\ufffd"]]]}


def test_a_token_is_needed(empty: Traces) -> None:
    for method, path in (("POST", "/v1/traces"), ("GET", "/api/v1/spans"), ("DELETE", "/api/v1/traces/a")):
        assert httpx.request(method, empty.url + path, trust_env=False).status_code == 401
        known = httpx.request(method, empty.url + path, headers={"x-api-key": TOKEN}, trust_env=False)
        assert known.status_code != 401


def test_the_description_is_complete(empty: Traces) -> None:
    described = trace_app(empty.ledger).openapi()
    operations = [
        (path, method, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(operations) == 8
    for path, method, operation in operations:
        where = f"{method} {path}"
        assert operation["description"], where
        assert {"200", "401", "413", "422", "503"} <= set(operation["responses"]), where
        assert ("404" in operation["responses"]) == ("{" in path), where
        for status, response in operation["responses"].items():
            assert response["description"], where
            assert all(content["schema"] for content in response["content"].values()), where
            if status != "200":
                reference = response["content"]["application/json"]["schema"]["$ref"]
                assert reference == "#/components/schemas/Problem", where
        assert all(one.get("description") for one in operation.get("parameters", [])), where
    otlp = described["paths"]["/v1/traces"]["post"]
    assert set(otlp["requestBody"]["content"]) == {"application/x-protobuf", "application/json"}
    assert {"400", "415", "507"} <= set(otlp["responses"])
    assert described["components"]["schemas"]["SpansIn"]["examples"]
