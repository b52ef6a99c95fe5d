"""The services as people run them: processes that are killed, a real exporter, the way down."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from live_services import TOKEN, Live, free_port, raylens
from raylens.api.reading import EncodeRequest
from raylens.errors import RaylensError
from raylens.store.standing import PATH

SENT = {"Authorization": f"Bearer {TOKEN}"}


def poll(found: Callable[[], object], what: str, within_s: float = 90.0) -> None:
    until = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < until, f"{what} did not happen within {within_s:g} s"
        time.sleep(0.1)


# A4.02
def test_model_sae_and_explainer_answer_over_http(live: Live) -> None:
    assert httpx.get(f"{live.url}/healthz").json() == {"status": "ok"}
    for path in ("/readyz", "/openapi.json", "/api/v1/sae/supported-models", "/v1/models"):
        assert httpx.get(live.url + path).status_code == 401
        assert httpx.get(live.url + path, headers=SENT).status_code == 200
    with live.client() as client:
        ready = client.readiness()
        assert ready is not None
        assert ready.ready
        assert set(ready.parts) == {"ledger", "encoder", "explainer"}
        read = client.sae.encode(EncodeRequest(text="def area(radius):\n    return", next_tokens=3))
        assert [len(one.peaks) > 0 for one in read.saes] == [True] * 3
        assert len(read.next_tokens) == 3
    body = {"model": "pico", "prompt": "import ", "max_tokens": 4, "temperature": 0}
    models = httpx.get(f"{live.url}/v1/models", headers=SENT).json()["data"]
    answer = httpx.post(f"{live.url}/v1/completions", headers=SENT, json={**body, "model": models[0]["id"]}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"]


def test_the_description_over_http_is_the_committed_one(live: Live) -> None:
    committed = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
    assert httpx.get(f"{live.url}/openapi.json", headers=SENT).json() == committed


def test_real_services_say_what_they_do(live: Live) -> None:
    """Nothing is on stdout: see ``live_services``."""
    lines = live.said.splitlines()
    expected = ["starting the services of", "starting Ray", "starting Ray Serve on", "starting Ledger, Encoder, Expl"]
    assert [line.startswith(begins) for line, begins in zip(lines, expected, strict=False)] == [True] * len(expected)
    assert lines[4].startswith("loading ")
    assert lines[-1] == f"ready at {live.url}; raylens serve down ends the services"
    assert live.said.count("ready at") == 1


def test_status_says_where_they_are_and_a_second_start_is_refused(live: Live) -> None:
    said = json.loads(live.raylens("serve", "status", "--json").stdout)
    assert said["up"] is said["ready"] is True
    assert said["url"] == live.url
    again = live.raylens("serve", "up", "--port", str(free_port()), check=False)
    assert again.returncode == 2
    assert live.url in again.stderr
    assert "raylens serve down" in again.stderr


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path, live: Live) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = raylens(tmp_path / "w", ["serve", "up", "--port", str(port)], live.environment, check=False)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert not (tmp_path / "w" / PATH).exists()


def test_the_sample_is_sent_read_and_shown_by_the_command_line(live: Live) -> None:
    ids = json.loads(live.raylens("traces", "send", "--sample", "--json").stdout)["span_ids"]
    listed = json.loads(live.raylens("traces", "list", "--json").stdout)
    assert listed["total"] >= 2
    shown = live.raylens("traces", "show", listed["traces"][0]["trace_id"]).stdout
    assert "llm" in shown
    read = [json.loads(live.raylens("traces", "extract", one, "--json").stdout) for one in ids[:1]]
    assert all("reason" in one for one in read)
    assert live.raylens("traces", "extract", "no-such-span", check=False).returncode == 2


@pytest.mark.parametrize("part", ["Gateway", "Encoder", "Ledger"])
def test_a_killed_replica_loses_no_write_that_was_accepted(live: Live, part: str) -> None:
    accepted: list[str] = []
    ended = threading.Event()

    def write() -> None:
        with live.client() as client:
            while not ended.is_set():
                spans = [
                    {"model": "raylens/pico", "input": f"value = {len(accepted)}", "output": "\n"} for _ in range(3)
                ]
                try:
                    made = client.traces.add(spans)
                    accepted.extend(made)
                    client.sae.extract(made[0], 5)
                except RaylensError:
                    ended.wait(0.05)  # it is told to try again

    writers = [threading.Thread(target=write) for _ in range(3)]
    for one in writers:
        one.start()
    try:
        poll(lambda: len(accepted) > 30, "writing")
        (replica,) = live.replicas(part)
        replica.kill()
        replica.wait(30)
        before = len(accepted)
        poll(lambda: len(accepted) > before + 30, f"answering again after the {part} was killed")
    finally:
        ended.set()
        for one in writers:
            one.join(60)
    with live.client() as client:
        missing = [one for one in accepted if client.traces.span(one).span_id != one]
        assert missing == []
        assert client.sae.extract(accepted[-1], 5).features


# The last one, for the services that all others use end with it: starting them takes longer than all that is tested.
def test_killed_started_again_and_ended(live: Live) -> None:
    with live.client() as client:
        (span,) = client.traces.add([{"model": "raylens/pico", "input": "import os", "output": "\n"}])
    total = json.loads(live.raylens("traces", "list", "--json").stdout)["total"]
    pid = json.loads((live.workspace / PATH).read_text())["process"]["pid"]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    poll(lambda: not live.replicas("Ledger") and not live.replicas("Gateway"), "the end of the replicas")
    status = live.raylens("serve", "status", check=False)
    assert (status.returncode, "no services are up" in status.stderr) == (1, True)

    port = str(free_port())
    again = live.raylens("serve", "up", "--detach", "--port", port, "--json", check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(live.raylens("traces", "list", "--json").stdout)["total"] == total
    done = live.raylens("serve", "down", "--json")
    assert json.loads(done.stdout)["up"] is False
    assert not (live.workspace / PATH).exists()
    assert live.replicas("Ledger") == []
    assert live.raylens("serve", "down", check=False).returncode == 2
    rows = live.raylens("sql", "SELECT span_id FROM spans", "--format", "csv").stdout
    assert span in rows
    assert "cannot be reached" in live.raylens("traces", "list", check=False).stderr
