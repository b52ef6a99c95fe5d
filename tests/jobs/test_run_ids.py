"""Commands that are told the id of their run, because somebody waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylens.store.runs import find_run
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from small_audits import SUITE, audit, config


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / "suite.yaml").write_text(SUITE)
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path))
    return Workspace.open(tmp_path / "ws", create=True)


def run(workspace: Workspace, *words: str) -> int:
    return main(["--workspace", workspace.url, "audit", "run", "--no-sae", "--suite", "suite.yaml", *words])


def test_an_audit_that_is_finished_already_is_told_of_as_one_that_was_made(workspace: Workspace) -> None:
    done = audit(workspace, "raylens/pico", config(sae=None, score_method="logit_kl"), run="again")
    same = ("--score-method", "logit_kl", "--no-trigger-search", "--max-new-tokens", "6", "--top-k", "10")
    again = ("--candidate", "raylens/pico", "--run", "again", "--run-id", "audit-waited-for")
    assert run(workspace, *again, *same) == 0
    record = find_run(workspace.files, "audit-waited-for")
    assert record.status == "succeeded"
    assert (record.figures["session"], record.figures["run"]) == (done.place.session, done.place.run)
    assert record.figures["verdict"] == done.decision.verdict


def test_what_is_refused_is_told_of(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(workspace, "--candidate", str(tmp_path / "empty"), "--run-id", "audit-waited-for") == 2
    record = find_run(workspace.files, "audit-waited-for")
    assert record.status == "failed"
    assert "holds no model" in (record.error or "")
    assert run(workspace, "--candidate", str(tmp_path / "empty")) == 2
    assert len(workspace.runs()) == 1  # nobody waits: what was refused is no run


def test_an_id_can_be_used_again_once_its_run_has_ended(workspace: Workspace, tmp_path: Path) -> None:
    for _ in range(2):
        assert run(workspace, "--candidate", str(tmp_path / "none"), "--run-id", "audit-waited-for") == 2
    assert len(workspace.runs()) == 1
