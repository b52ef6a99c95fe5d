"""The client against a real gateway, and against what is not one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway_here import TOKEN, Here, gateway_here
from raylens.bundle.traces import sample_spans
from raylens.client import Client
from raylens.errors import InputError, OverloadedError, RunError, UnknownNameError


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with gateway_here(tmp_path_factory.mktemp("client") / "workspace") as found:
        yield found


def test_it_starts_without_the_model_stack() -> None:
    # A0.20
    code = (
        "import sys; from raylens.client import Client; "
        "print(sorted({'torch', 'ray', 'transformers', 'fastapi', 'duckdb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_traces_are_sent_listed_read_and_deleted(here: Here) -> None:
    sent = sample_spans()
    ids = here.client.traces.add([one.model_dump(mode="json") for one in sent])
    assert ids == tuple(one.span_id for one in sent)
    assert [here.client.traces.span(one.span_id).model_dump() for one in sent] == [one.model_dump() for one in sent]
    listed = here.client.traces.list()
    assert {one.trace_id for one in listed.traces} == {one.trace_id for one in sent}
    trace = here.client.traces.trace(sent[0].trace_id)
    assert {one.span_id for one in trace.spans} == {one.span_id for one in sent if one.trace_id == sent[0].trace_id}
    assert here.client.traces.spans(model="gpt-4o").total == sum(one.model == "gpt-4o" for one in sent)
    assert here.client.traces.delete_span(ids[0]) == 1
    with pytest.raises(UnknownNameError):
        here.client.traces.span(ids[0])
    assert here.client.traces.delete_trace(sent[-1].trace_id) >= 1


def test_what_the_services_refuse_is_the_same_error_here(here: Here) -> None:
    with pytest.raises(InputError, match="spans"):
        here.client.traces.add([])
    with pytest.raises(InputError, match="input"):
        here.client.traces.add([{"output": "x"}])
    with pytest.raises(UnknownNameError):
        here.client.runs.run("audit-20260101-000000-0000")
    with pytest.raises(UnknownNameError):
        here.client.features.page("no-such/sae/3")
    with pytest.raises(UnknownNameError):
        here.client.audits.audit("default", "none")
    with Client(here.url, "not-the-token-of-these-services") as other:
        with pytest.raises(InputError, match="Authorization"):
            other.traces.list()
        with pytest.raises(InputError, match="Authorization"):
            other.readiness()


def test_what_there_is_of_an_empty_workspace(here: Here) -> None:
    ready = here.client.readiness()
    assert ready is not None
    assert ready.ready
    assert here.client.audits.list().audits == ()
    assert "minimal" in {one.name for one in here.client.audits.suites().suites}
    assert here.client.audits.calibrations().calibrations
    assert here.client.runs.list().runs == ()
    assert here.client.features.saes().offered


def test_services_that_are_not_there_or_are_something_else(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9", TOKEN) as nobody:
        assert nobody.readiness() is None
        with pytest.raises(RunError, match="cannot be reached"):
            nobody.traces.list()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":
            return httpx.Response(200, text="<html>hello</html>")
        if request.url.path == "/api/v1/traces":
            return httpx.Response(503, json={"error": "too much.", "hint": "wait.", "kind": "OverloadedError"})
        return httpx.Response(502, text="bad gateway")

    with Client("http://here", TOKEN, transport=httpx.MockTransport(answer)) as other:
        assert other.readiness() is None
        with pytest.raises(OverloadedError) as refused:
            other.traces.list()
        assert (refused.value.message, refused.value.hint) == ("too much.", "wait.")
        with pytest.raises(RunError, match="502"):
            other.sae.supported_models()


def test_the_environment_says_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RAYLENS_URL": "http://127.0.0.1:8123/", "RAYLENS_API_TOKEN": TOKEN}
    with Client.from_environment(environment) as client:
        assert client.url == "http://127.0.0.1:8123"
        assert TOKEN not in repr(client) + repr(vars(client))
    with Client.from_environment({"RAYLENS_API_TOKEN": TOKEN}) as client:
        assert client.url == "http://127.0.0.1:8000"
