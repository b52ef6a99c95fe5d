"""An audit asked for by a client, in a process with a Ray of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
from mcp.client.client import Client

from mcp_calls import Answered
from raylens.store.audit_files import problems
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.server import build

SMALL = {"suite": "two.yaml", "no_sae": True, "trigger_search": False, "score_method": "logit_kl", "max_new_tokens": 4}


def test_an_audit_runs_and_is_found_by_the_other_tools(desk: Desk, place: Path) -> None:  # A2.07, A2.02
    told: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def talk() -> list[Answered]:
        async with Client(build(desk)) as client:

            async def ask(tool: str, **arguments: Any) -> Answered:
                return Answered.of(await client.call_tool(tool, arguments, progress_callback=hear))

            made = await ask("run_audit", candidate="raylens/pico", title="Asked for", **SMALL)
            run = made.document["run"]
            return [made, await ask("get_decision", run=run), await ask("report", run=run, sections=["header"])]

    made, again, report = anyio.run(talk)
    decision = made.document
    # The reference against itself differs in nothing.
    assert (decision["verdict"], decision["p_value"], decision["aggregate_score"]) == ("not flagged", 1, 0)
    assert decision["run"].startswith("mine/pico-")
    assert again.document == decision
    assert report.text.startswith("# Asked for\n")
    assert told
    assert told[-1][0] == told[-1][1]
    session, run = decision["run"].split("/")
    folder = place / "workspace" / "audits" / session / "runs" / run
    texts = {one.name: one.read_text() for one in folder.iterdir()}
    assert problems(texts) == []
    assert json.loads(texts["decision.json"])["session"] == "mine"
    assert [one["tool"] for one in desk.audits.tool_calls("mine")] == ["run_audit", "get_decision", "report"]
    assert (place / "workspace" / "audits" / "mine" / "config_resolved.yaml").is_file()
