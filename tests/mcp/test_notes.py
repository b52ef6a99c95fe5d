"""``tool_calls.jsonl``: a line a call, whatever became of it, and no secret in it (A2.02)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult

from mcp_calls import Ask, asker
from raylens_app.mcp.answers import Document
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.server import ALL_TOOLS, build
from raylens_app.mcp.tool import Arguments, reading

TOKEN = "a-token-that-is-written-nowhere"


def lines(desk: Desk) -> list[dict[str, Any]]:
    text = desk.workspace.files.read_bytes("audits/mine/tool_calls.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


def test_each_call_is_a_line(ask: Ask, desk: Desk) -> None:  # A2.02
    answered = ask("get_decision", run="tuned-1f")
    ask("get_decision", run="none")
    ask("list_runs", limit=0)
    ask("no_such_tool", x=[1])
    first, *refused = lines(desk)
    assert first["number"] == 1
    assert (first["tool"], first["arguments"], first["status"]) == ("get_decision", {"run": "tuned-1f"}, "ok")
    assert (first["bytes"], first["error"]) == (len(answered.text.encode()), None)
    assert first["seconds"] >= 0
    assert first["at"] > "2020"
    assert [(one["tool"], one["status"]) for one in refused] == [
        ("get_decision", "refused"),
        ("list_runs", "refused"),
        ("no_such_tool", "refused"),
    ]
    assert "unknown audit 'none'" in refused[0]["error"]
    assert refused[2]["arguments"] == {"x": [1]}


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_what_is_no_call_is_noted_too(desk: Desk) -> None:
    async def talk() -> None:
        async with Client(build(desk)) as client:
            params = CallToolRequestParams.model_construct(name="sql", arguments=["no", "object"])
            with pytest.raises((MCPError, ValueError)):
                await client.session.send_request(CallToolRequest(params=params), CallToolResult)

    anyio.run(talk)
    (one,) = lines(desk)
    assert (one["tool"], one["arguments"], one["status"]) == ("sql", ["no", "object"], "refused")


def test_secrets_are_left_out(desk: Desk) -> None:
    key = "hf_" + "x" * 34
    ask = asker(desk, secret=TOKEN)
    ask("label_lookup", sae=f"{key}/a", features=[1], api_key="sk-" + "y" * 30)
    ask("sql", query=f"SELECT '{TOKEN}'")
    text = desk.workspace.files.read_bytes("audits/mine/tool_calls.jsonl").decode()
    assert "***/a" in text
    assert not any(secret in text for secret in (key, "y" * 30, TOKEN))


def test_large_arguments_are_clipped(ask: Ask, desk: Desk) -> None:
    ask("sql", query="SELECT 1 --" + "x" * 50_000)
    ask("label_lookup", sae="a/b", features=list(range(5000)))
    ask("sql", query={"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}})
    assert max(len(json.dumps(one)) for one in lines(desk)) < 6000


def test_a_cancelled_call_is_noted(desk: Desk) -> None:
    began, go_on = threading.Event(), threading.Event()

    def waits(_: Desk, __: Arguments) -> Document:
        began.set()
        go_on.wait(60)
        return Document("too late")

    async def talk() -> None:
        server = build(desk, tools=[reading("waits", "Waits.", Arguments, waits)])
        async with Client(server) as client, anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "waits")
            await anyio.to_thread.run_sync(began.wait)
            group.cancel_scope.cancel()

    try:
        anyio.run(talk)
    finally:
        go_on.set()
    assert [(one["tool"], one["status"]) for one in lines(desk)] == [("waits", "cancelled")]


def test_calls_at_once_are_all_noted(desk: Desk) -> None:
    async def talk() -> None:
        async with Client(build(desk)) as client, anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(client.call_tool, "list_runs")

    anyio.run(talk)
    assert [one["number"] for one in lines(desk)] == list(range(1, 13))


def test_a_full_disk_hides_no_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> Callable[..., None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(desk.workspace.files), "commit_if_absent", full)
    assert asker(desk)("list_runs").document["answer"] == "2 audits."
    assert "could not be noted" in caplog.text


def test_sessions_do_not_mix(desk: Desk) -> None:
    asker(replace(desk, session="other"))("list_suites")
    assert desk.audits.tool_calls("mine") == []
    assert [one["tool"] for one in desk.audits.tool_calls("other")] == ["list_suites"]
    assert len({tool.name for tool in ALL_TOOLS}) == len(ALL_TOOLS)
