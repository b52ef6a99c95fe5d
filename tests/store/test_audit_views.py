"""Finished audits in SQL: what was found, and nothing of what is unfinished or archived."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit_runs import SAE, artefacts, files_of, store_run
from raylens.errors import DamagedFileError, QueryError
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.files import Files
from raylens.store.housekeeping import gc
from raylens.store.sql import query
from raylens.store.views import connect
from raylens.store.workspace import Workspace

Rows = list[dict[str, Any]]
_TOMORROW = datetime.now(UTC) + timedelta(hours=25)


def rows(workspace: Workspace, sql: str) -> Rows:
    return query(workspace, sql).table.to_pylist()


@pytest.fixture
def local_workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace", create=True)


def test_a_row_a_run_a_wording_and_a_feature(workspace: Workspace) -> None:
    store = AuditStore(workspace.files)
    for view in ("audit_runs", "audit_prompts", "audit_effects", "organisms"):
        assert rows(workspace, f"SELECT * FROM {view}") == []
    made = store_run(store, "s", "r")
    store_run(store, "s", "plain", with_sae=False, score=0.041)
    found = rows(workspace, "SELECT * FROM audit_runs ORDER BY run DESC")
    decision = artefacts().decision
    assert [row["run"] for row in found] == ["r", "plain"]
    expected = {
        **decision.decision.model_dump(),
        "session": "s",
        "title": "A candidate",
        "reference": "raylens/pico",
        "candidate": "candidate-7",
        "candidate_kind": "adapter",
        "sae": SAE,
        "suite": "minimal",
        "n_forms": 3,
        "started_at": made.started_at,
        "finished_at": made.finished_at,
        "n_features": 2,
        "n_direct": 1,
        "n_proxy": 1,
        "n_low_similarity": 1,
        "best_neighbour_cosine_median": 0.2,
        "coverage": "direct 1/2, proxy 1/2 (low-similarity 1)",
        "stability_jaccard": 0.5,
    }
    assert {name: found[0][name] for name in expected} == expected
    assert (found[1]["verdict"], found[1]["sae"], found[1]["n_features"]) == ("not flagged", None, None)
    prompts = rows(workspace, "SELECT * FROM audit_prompts WHERE run = 'r' ORDER BY id DESC, number")
    assert [(row["id"], row["variant"], row["number"], row["candidate_text"]) for row in prompts] == [
        ("fetch", "original", 0, "verify=False"),
        ("fetch", "casing", 1, "timeout=5"),
        ("add", "original", 0, "timeout=5"),
    ]
    assert {name: value for name, value in prompts[0].items() if name.endswith(("passed", "failed"))} == {
        "reference_passed": 2,
        "reference_failed": 0,
        "candidate_passed": 1,
        "candidate_failed": 1,
    }
    assert (prompts[0]["tags"], prompts[0]["logit_kl"], prompts[0]["feature_difference"]) == (
        ["network", "http"],
        0.25,
        1.5,
    )
    effects = rows(workspace, "SELECT * FROM audit_effects ORDER BY rank")
    evidence = artefacts().interp_evidence
    assert evidence is not None
    for row, feature in zip(effects, evidence.features, strict=True):
        kept = feature.model_dump(exclude={"index", "neighbours"})
        assert {name: row[name] for name in kept} == kept | {"strata": list(feature.strata)}
        assert (row["sae"], row["feature"], row["run"]) == (SAE, feature.index, "r")
    (near,) = rows(workspace, "SELECT neighbours->>'$[0].explanation' AS said FROM audit_effects WHERE feature = 77")
    assert near == {"said": "HTTP calls"}


def test_they_join_with_one_another(local_workspace: Workspace) -> None:
    store = AuditStore(local_workspace.files)
    store_run(store, "a", "r")
    store_run(store, "b", "r", score=0.041)
    sql = (
        "SELECT session, verdict, count(*) AS n FROM audit_runs JOIN audit_prompts USING (session, run) "
        "JOIN audit_effects USING (session, run) WHERE candidate_failed > 0 GROUP BY ALL ORDER BY session"
    )
    assert rows(local_workspace, sql) == [
        {"session": "a", "verdict": "flagged", "n": 2},
        {"session": "b", "verdict": "not flagged", "n": 2},
    ]


def test_only_what_is_finished_and_not_archived_is_seen(local_workspace: Workspace) -> None:  # A2.20
    store = AuditStore(local_workspace.files)
    names = "SELECT session || '/' || run || ' ' || aggregate_score AS run FROM audit_runs ORDER BY 1"
    with store.write_run("s", "r", "run-1"):
        assert rows(local_workspace, names) == []
    store_run(store, "s", "r")
    store_run(store, "s", "other")
    with store.write_run("s", "r", "run-2", again="archive") as writer:
        assert rows(local_workspace, names) == [{"run": "s/other 0.5"}, {"run": "s/r 0.5"}]
        writer.finish(files_of(artefacts(score=0.4)))
    assert rows(local_workspace, names) == [{"run": "s/other 0.5"}, {"run": "s/r 0.4"}]
    store.archive([RunPlace("s", "r")])
    assert rows(local_workspace, names) == [{"run": "s/other 0.5"}]
    assert rows(local_workspace, "SELECT count(*) AS n FROM audit_prompts") == [{"n": 3}]


def test_a_query_that_began_reads_on_when_a_run_is_replaced(local_workspace: Workspace) -> None:
    store = AuditStore(local_workspace.files)
    store_run(store, "s", "r")
    with connect(local_workspace, only=["audit_effects"]) as connection:
        store_run(store, "s", "r", again="replace", score=0.4)
        store.archive([RunPlace("s", "r")])
        gc(local_workspace)
        assert connection.execute("SELECT feature FROM audit_effects ORDER BY rank").fetchall() == [(1093,), (77,)]


def test_the_door_is_as_narrow_as_before(local_workspace: Workspace) -> None:
    store_run(AuditStore(local_workspace.files), "s", "r")
    for sql in ("SELECT * FROM 'audits/s/runs/r/decision.json'", "SELECT * FROM audits"):
        with pytest.raises(QueryError, match="refused"):
            query(local_workspace, sql)


def test_damaged_rows_are_said_with_a_remedy(local_workspace: Workspace) -> None:
    store = AuditStore(local_workspace.files)
    made = store_run(store, "s", "r")
    path = made.row_file(RunPlace("s", "r"), "audit_effects")
    assert path is not None
    local_workspace.files.commit(path, b"PAR1 not at all")
    with pytest.raises(DamagedFileError, match=r"audit_effects\.parquet") as caught:
        query(local_workspace, "SELECT * FROM audit_effects")
    assert caught.value.hint == "run that audit with --again, which makes its rows anew, or archive it."
    assert len(rows(local_workspace, "SELECT * FROM audit_runs")) == 1
    store_run(store, "s", "r", again="archive")
    assert len(rows(local_workspace, "SELECT * FROM audit_effects")) == 2


# ------------------------------------------------------------------------------------------ housekeeping


def rows_of(files: Files) -> set[str]:
    return {one.path for one in files.scan("audits/s/_rows")}


def test_rows_that_no_run_names_go_once_nobody_reads_them(local_workspace: Workspace) -> None:
    store = AuditStore(local_workspace.files)
    store_run(store, "s", "r")
    old = rows_of(local_workspace.files)
    new = store_run(store, "s", "r", again="archive", score=0.4)
    assert gc(local_workspace).removals == ()
    assert {one.path for one in gc(local_workspace, now=_TOMORROW, dry_run=True).removals} == old
    assert {one.reason for one in gc(local_workspace, now=_TOMORROW).removals} == {"rows of no audit"}
    assert rows_of(local_workspace.files) == set(new.row_files(RunPlace("s", "r")))
    assert gc(local_workspace, now=_TOMORROW).removals == ()
    assert len(rows(local_workspace, "SELECT * FROM audit_effects")) == 2
    store.archive([RunPlace("s", "r")])
    gc(local_workspace, now=_TOMORROW)
    assert rows_of(local_workspace.files) == set()
    assert len(store.archived("s")) == 2


def test_old_rows_of_a_run_that_was_archived_just_now_may_be_read_still(local_workspace: Workspace) -> None:
    store = AuditStore(local_workspace.files)
    store_run(store, "s", "r")
    for path in rows_of(local_workspace.files):
        os.utime(Path(local_workspace.url) / path, (0, 0))
    store.archive([RunPlace("s", "r")])
    assert gc(local_workspace).removals == ()
    assert len(gc(local_workspace, now=_TOMORROW).removals) == 3


def test_what_is_being_written_or_may_go_on_is_left_alone(
    local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AuditStore(local_workspace.files)
    store_run(store, "s", "done")
    store.parts("s", "done").put_part("late", b"a worker's, after the end")
    with store.write_run("s", "killed", "run-1") as writer:
        writer.put_part("a", b"x")
    collected: list[str] = []
    commit = Files.commit

    def collecting(self: Files, rel: str, data: Any) -> None:
        if rel.endswith("busy/decision.json"):
            collected.extend(one.path for one in gc(local_workspace, grace_s=0, now=_TOMORROW).removals)
        commit(self, rel, data)

    monkeypatch.setattr(Files, "commit", collecting)
    store_run(store, "s", "busy")
    assert collected == ["audits/s/_work/done/parts/late"]
    assert store.parts("s", "killed").keys() == ("a",)
    assert len(rows(local_workspace, "SELECT * FROM audit_effects")) == 4


def test_what_cannot_be_judged_stays(local_workspace: Workspace) -> None:
    store = AuditStore(local_workspace.files)
    store_run(store, "s", "r")
    local_workspace.files.commit("audits/s/runs/r/run.json", b"{}")
    for one in local_workspace.files.scan("audits"):
        os.utime(Path(local_workspace.url) / one.path, (0, 0))
    assert gc(local_workspace).removals == ()
    with pytest.raises(DamagedFileError, match=r"run\.json is damaged"):
        query(local_workspace, "SELECT * FROM audit_runs")


def test_a_session_may_be_renamed(local_workspace: Workspace) -> None:
    store_run(AuditStore(local_workspace.files), "s", "r")
    folder = Path(local_workspace.url) / "audits"
    (folder / "s").rename(folder / "renamed")
    assert len(rows(local_workspace, "SELECT * FROM audit_effects")) == 2


def test_nothing_of_the_model_stack_or_of_statistics_is_imported_for_sql() -> None:  # A0.20
    import subprocess
    import sys

    probe = "import sys, raylens.store.sql, raylens.store.housekeeping; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
