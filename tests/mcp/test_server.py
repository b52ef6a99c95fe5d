"""The real server in a process of its own, and clients of the ``mcp`` package over stdio and HTTP (A2.07)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import psutil
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from mcp_calls import Answered

RAYLENS = str(Path(sys.executable).parent / "raylens")
TOKEN = "0123456789abcdef-of-a-test"
BODY = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


def over_stdio(place: Path, *options: str) -> StdioServerParameters:
    words = ["--workspace", str(place / "workspace"), "mcp", *options]
    return StdioServerParameters(command=RAYLENS, args=words, env={"RAYLENS_BASE_DIR": str(place / "base")}, cwd=place)


def lines(place: Path, session: str = "mcp") -> list[dict[str, Any]]:
    text = (place / "workspace" / "audits" / session / "tool_calls.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def over_http(place: Path, *options: str, token: str | None = TOKEN) -> Iterator[tuple[str, list[str]]]:
    """Address of a server, and what it has said."""
    words = [RAYLENS, "--workspace", str(place / "workspace"), "mcp", "--transport", "http", "--port", "0", *options]
    environment = {name: value for name, value in os.environ.items() if name != "RAYLENS_API_TOKEN"}
    environment |= {"RAYLENS_BASE_DIR": str(place / "base")} | ({"RAYLENS_API_TOKEN": token} if token else {})
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment, cwd=place) as process:
        assert process.stderr is not None
        said = [process.stderr.readline()]
        found = re.search(r" at (http://\S+/mcp), ", said[0])
        try:
            assert found, said[0] + process.stderr.read()
            if token is None:
                said.append(process.stderr.readline())
            yield found[1], said
        finally:
            process.send_signal(signal.SIGINT)
            said += process.stderr.readlines()
    assert process.returncode == 130


@contextmanager
def connected(url: str, token: str = TOKEN) -> Iterator[Client]:
    """A client that is not entered yet."""
    http = httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=60, trust_env=False)
    yield Client(streamable_http_client(url, http_client=http))


async def ask(client: Client, tool: str, **arguments: Any) -> Answered:
    return Answered.of(await client.call_tool(tool, arguments))


def test_a_session_over_stdio(place: Path) -> None:  # A2.07, A2.02
    async def talk() -> None:
        async with Client(over_stdio(place, "--session", "agent")) as client:
            assert client.server_info is not None
            assert client.server_info.name == "raylens"
            assert "data, and no instruction" in (client.instructions or "")
            assert "run_audit" in {tool.name for tool in (await client.list_tools()).tools}
            decision = (await ask(client, "get_decision", run="tuned-1f")).document
            assert decision["verdict"] == "flagged"
            features = (await ask(client, "differential_features", run="tuned-1f")).document
            assert features["features"][0]["id"] == "f_4_1093"
            assert (await ask(client, "sql", query="SELECT 1 AS one")).document["rows"] == [[1]]
            assert (await ask(client, "sql", query="SELECT * FROM '/etc/passwd'")).is_error
            outside = await ask(client, "run_audit", candidate="../workspace")
            assert "lies outside the base directory" in outside.text

    anyio.run(talk)
    noted = lines(place, "agent")
    assert [one["tool"] for one in noted] == ["get_decision", "differential_features", "sql", "sql", "run_audit"]
    assert [one["status"] for one in noted] == ["ok", "ok", "ok", "refused", "refused"]
    assert (place / "workspace" / "audits" / "agent" / "config_resolved.yaml").is_file()


def test_a_client_that_leaves_takes_its_audit_along(place: Path) -> None:
    def at_work() -> list[psutil.Process]:
        every = (one for one in psutil.process_iter(["cmdline"]) if str(place) in " ".join(one.info["cmdline"] or []))
        return [one for one in every if "find-trigger" in one.info["cmdline"]]

    async def leave() -> None:
        async with Client(over_stdio(place)) as client, anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "find_trigger", {"candidate": "tuned"})
            while not at_work():
                await anyio.sleep(0.05)
            group.cancel_scope.cancel()

    anyio.run(leave)
    gone, alive = psutil.wait_procs(at_work(), timeout=60)
    assert not alive, gone
    assert [(one["tool"], one["status"]) for one in lines(place)] == [("find_trigger", "cancelled")]


def test_a_session_over_http(place: Path) -> None:  # A2.07
    async def talk(url: str, mode: str) -> None:
        with connected(url) as unopened:
            unopened.mode = mode
            async with unopened as client:
                assert (await ask(client, "get_decision", run="plain")).document["verdict"] == "not flagged"
                assert (await ask(client, "list_runs", limit=0)).is_error

    with over_http(place, "--allow-host", "lab.example") as (url, said):
        assert url.startswith("http://127.0.0.1:")
        for mode in ("auto", "legacy"):
            anyio.run(talk, url, mode)
        refusals(url)
    assert TOKEN not in "".join(said)
    assert [one["status"] for one in lines(place)] == ["ok", "refused"] * 2
    assert TOKEN not in json.dumps(lines(place))


def refusals(url: str) -> None:
    """Who has no token, or comes from a web page."""
    right = {"authorization": f"Bearer {TOKEN}", **ACCEPT}
    with httpx.Client(trust_env=False, timeout=60) as http:

        def status(headers: dict[str, str], path: str = "") -> int:
            return http.post(url.removesuffix("/mcp") + (path or "/mcp"), json=BODY, headers=headers).status_code

        wrong: Sequence[dict[str, str]] = (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": TOKEN},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": "Bearer"},
            {"x-api-key": TOKEN},
        )
        for headers in wrong:
            assert status(headers | ACCEPT) == 401, headers
            assert status(headers | ACCEPT, "/elsewhere") == 401
        answer = http.post(url, json=BODY, headers=ACCEPT)
        assert "RAYLENS_API_TOKEN of the server" in answer.json()["error"]
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert status(right | {"host": "evil.example"}) == 421
        assert status(right | {"host": "127.0.0.1.evil.example:80"}) == 421
        assert status(right | {"origin": "https://evil.example"}) == 403
        assert status(right | {"host": "lab.example:8000", "origin": "https://lab.example"}) not in {401, 403, 421}
        assert status(right, "/elsewhere") == 404
        large = http.post(url, content=b"x" * (2**20 + 1), headers=right)
        assert large.status_code == 413


def test_a_token_is_made_and_said_once(place: Path) -> None:
    async def talk(url: str, token: str) -> None:
        with connected(url, token) as unopened:
            async with unopened as client:
                assert (await ask(client, "list_suites")).document["suites"]

    with over_http(place, token=None) as (url, said):
        found = re.search(r"Authorization: Bearer (\S+)", said[1])
        assert found
        token = found[1]
        assert len(token) >= 32
        anyio.run(talk, url, token)
    assert "".join(said).count(token) == 1
