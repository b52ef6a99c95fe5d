"""An audit asked for by a client, in a process with a Ray of its own; the command line gives the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client

from fine_tunes import make_adapter
from mcp_calls import Answered
from raylens.reports.json_files import FILES
from raylens.store.audit_files import problems
from raylens_app.cli.main import main
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.server import build
from raylens_jobs.audit_workers import AuditWorkers
from small_audits import SAE, here

SMALL = {"suite": "two.yaml", "sae": SAE, "trigger_search": False, "score_method": "logit_kl", "max_new_tokens": 4}
WORDS = ["--suite=two.yaml", f"--sae={SAE}", "--no-trigger-search", "--score-method=logit_kl", "--max-new-tokens=4"]


def test_an_audit_runs_and_is_found_by_the_other_tools(
    desk: Desk, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # A2.07, A2.02
    tuned = place / "base" / "tuned"
    make_adapter(tuned)
    told: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def talk() -> list[Answered]:
        async with Client(build(desk)) as client:

            async def ask(tool: str, **arguments: Any) -> Answered:
                return Answered.of(await client.call_tool(tool, arguments, progress_callback=hear))

            made = await ask("run_audit", candidate="tuned", title="Asked for", **SMALL)
            run = made.document["run"]
            return [made, await ask("get_decision", run=run), await ask("report", run=run, sections=["header"])]

    made, again, report = anyio.run(talk)
    decision = made.document
    assert decision["verdict"] == "inconclusive", "nothing is calibrated for this suite"
    assert decision["aggregate_score"] > 0
    assert decision["run"].startswith("mine/tuned-")
    assert again.document == decision
    assert report.text.startswith("# Asked for\n")
    assert told
    assert told[-1][0] == told[-1][1]
    files = files_of(place / "workspace", decision["run"])
    assert problems({name: data.decode() for name, data in files.items()}) == []
    assert json.loads(files["decision.json"])["session"] == "mine"
    assert [one["tool"] for one in desk.audits.tool_calls("mine")] == ["run_audit", "get_decision", "report"]
    assert (place / "workspace" / "audits" / "mine" / "config_resolved.yaml").is_file()

    monkeypatch.setenv("RAYLENS_BASE_DIR", str(place / "base"))
    monkeypatch.setattr(AuditWorkers, "__call__", lambda _, *given: here(*given))
    words = ["audit", "run", f"--candidate={tuned}", "--session=mine", "--title=Asked for", "--json", *WORDS]
    assert main(["--workspace", str(tmp_path / "other"), *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert f"{printed['session']}/{printed['run']}" == decision["run"]
    commanded = files_of(tmp_path / "other", decision["run"])
    assert {*FILES, "report.md", "report.html", "run.json"} == set(commanded)
    assert {**files, "run.json": b""} == {**commanded, "run.json": b""}, "three ways in lead to the same artefacts"


def files_of(workspace: Path, run: str) -> dict[str, bytes]:
    """Each file of a run."""
    session, name = run.split("/")
    return {one.name: one.read_bytes() for one in (workspace / "audits" / session / "runs" / name).iterdir()}
