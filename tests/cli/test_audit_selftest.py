"""``raylens audit selftest``: it passes, and it fails where something is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_runs import artefacts, store_run, texts_of
from raylens.bundle.paths import list_saes
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.store.audit_runs import write_run
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens_app.cli.audit_selftest import SESSION, _archived
from raylens_app.cli.selftest_parts import (
    SOURCE_MODEL,
    Check,
    Labelled,
    checks_of,
    environment,
    forget_labels,
    labelled_sae,
)

Raylens = Callable[..., Any]


def labelled(**explained: Any) -> Labelled:
    return Labelled(Path("none"), Path("none"), NeuronpediaId(SOURCE_MODEL, "3-x"), 12, word="w", **explained)


def wrong(checks: list[Check]) -> dict[str, str]:
    return {one.what: one.wrong for one in checks if not one.ok}


def test_one_audit_passes_every_check(
    raylens: Raylens, own_workspace: Workspace, ray_cluster: None
) -> None:  # A2.07, A2.20
    store = AuditStore(own_workspace.files)
    store_run(store, SESSION, "older")
    done = raylens(own_workspace.url, "audit", "selftest", "-n", "1", "--no-trigger-search", "--json")
    assert done.code == 0, done.err
    found = done.document
    assert found["ok"] is True
    assert {row["check"] for row in found["checks"]} >= {
        "1 older runs are archived",
        "files are there, of their types, and agree",
        "files are valid by their JSON Schemas",
        "reports are made anew byte for byte",
        "coverage is of the label server's labels",
    }
    (run,) = found["runs"]
    assert [str(one.place) for one in store.runs(SESSION)] == [run]
    assert [name for _, name in store.archived(SESSION)] == ["older"]
    evidence = store.artefacts(*run.split("/")).interp_evidence
    assert evidence is not None
    assert evidence.coverage.n_direct == evidence.coverage.n_features > 0  # A2.05
    assert all(row.explanation and row.explanation.startswith("selftest ") for row in evidence.features)
    assert LabelStore(own_workspace.files).sources() == []  # nothing of it is left among the user's labels
    assert os.environ.get("NEURONPEDIA_EXPLANATIONS_MODE") is None


def test_older_runs_are_archived_or_not_as_asked(own_workspace: Workspace) -> None:  # A2.20
    store = AuditStore(own_workspace.files)
    assert _archived(store, keep=False) == Check("session", "there are no older runs")
    store_run(store, SESSION, "one")
    store_run(store, "another", "two")
    write_run(store.files, store.runs(SESSION)[0].place.__class__(SESSION, "begun"), "x").__exit__(None, None, None)
    assert _archived(store, keep=True).what == "1 older runs are left where they are"
    assert store.archived(SESSION) == ()
    assert _archived(store, keep=False) == Check("session", "1 older runs are archived")
    assert [name for _, name in store.archived(SESSION)] == ["one"]
    assert [one.place.run for one in store.runs("another")] == ["two"]


def test_labels_of_others_fail_the_check(own_workspace: Workspace) -> None:
    store = AuditStore(own_workspace.files)
    store_run(store, "s", "r")
    found = wrong(checks_of(store, "s", "r", labelled(), identical=False))
    assert list(found) == ["coverage is of the label server's labels"]
    assert "feature 1093 is not explained as the server explains it" in found.popitem()[1]
    made = artefacts("s", "r").interp_evidence
    assert made is not None
    identical = wrong(checks_of(store, "s", "r", labelled(), identical=True))
    assert "flagged, p = 0.00" in identical["the reference differs in nothing from itself"]


@pytest.mark.parametrize(
    ("file", "change", "check"),
    [
        ("score.json", lambda text: text.replace('"score_method"', '"scoremethod"', 1), "JSON Schemas"),
        ("decision.json", lambda text: text.replace("flagged", "perhaps"), "JSON Schemas"),
        ("report.md", lambda text: text + "more\n", "byte for byte"),
        ("report.html", lambda text: text.replace("</body>", " </body>"), "byte for byte"),
    ],
)
def test_damage_fails_a_check(own_workspace: Workspace, file: str, change: Callable[[str], str], check: str) -> None:
    store = AuditStore(own_workspace.files)
    store_run(store, "s", "r")
    path = Path(own_workspace.files.native(f"audits/s/runs/r/{file}"))
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    found = wrong(checks_of(store, "s", "r", labelled(), identical=False))
    assert any(check in what for what in found)
    assert "files are there, of their types, and agree" in found  # it was changed since


def test_a_run_without_features_fails(own_workspace: Workspace) -> None:
    store = AuditStore(own_workspace.files)
    store_run(store, "s", "r", with_sae=False)
    assert set(texts_of("s", "r", with_sae=False)) & {"interp_evidence.json"} == set()
    found = wrong(checks_of(store, "s", "r", labelled(), identical=False))
    assert found == {"coverage is of the label server's labels": "there is no evidence from features"}


def test_a_failed_check_is_exit_code_1(
    raylens: Raylens, own_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raylens_app.cli import audit_selftest

    def fails(*words: Any) -> list[Any]:
        words[-1].add(Check("a", "holds"), Check("b", "does not hold", "because"))
        return []

    monkeypatch.setattr(audit_selftest, "_run", fails)
    done = raylens(own_workspace.url, "audit", "selftest")
    assert done.code == 1
    assert done.out.splitlines() == ["ok    a: holds", "FAIL  b: does not hold: because"]
    assert "1 of 2 checks failed, the first of b: does not hold: because" in done.err
    as_json = raylens(own_workspace.url, "audit", "selftest", "--json")
    assert as_json.code == 1
    assert json.loads(as_json.out)["ok"] is False


def test_the_sae_of_a_selftest_is_the_embedded_one_with_a_source(tmp_path: Path) -> None:
    made = labelled_sae(tmp_path / "new")
    assert made.d_sae == list_saes()[1].width
    config = json.loads((made.folder / "cfg.json").read_text())
    assert config["metadata"]["neuronpedia_id"] == str(made.source)
    assert made.label(3) == f"selftest {made.word}: feature 3"


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_A", "before")
    monkeypatch.delenv("RAYLENS_B", raising=False)
    with environment({"RAYLENS_A": "1", "RAYLENS_B": "2"}):
        assert (os.environ["RAYLENS_A"], os.environ["RAYLENS_B"]) == ("1", "2")
    assert os.environ["RAYLENS_A"] == "before"
    assert "RAYLENS_B" not in os.environ


def test_only_its_own_labels_are_forgotten(own_workspace: Workspace) -> None:
    from raylens.labels.explanations import read_explanation

    said = read_explanation({"description": "x"})
    assert said is not None
    mine, users = NeuronpediaId(SOURCE_MODEL, "3-selftest"), NeuronpediaId("gpt2-small", "8-res-jb")
    with LabelStore(own_workspace.files) as store:
        for source in (mine, users):
            store.put_explanation(source, 1, said, "export")
    forget_labels(own_workspace)
    assert LabelStore(own_workspace.files).sources() == [users]
