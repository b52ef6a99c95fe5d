"""``raylens audit list|show|report|archive|validate``: what a person and a program read of audits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_runs import artefacts, files_of, store_run
from raylens.store.audit_organisms import OrganismRow, Organisms
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace

Raylens = Callable[..., Any]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def store(own_workspace: Workspace) -> AuditStore:
    """Two sessions: a flagged run and one that is not, a run without an SAE, one that is unfinished."""
    store = AuditStore(own_workspace.files)
    for session in ("first", "second"):
        store.create_session(session, {})
    store_run(store, "first", "tuned-1f")
    store_run(store, "first", "plain", with_sae=False, score=0.041)
    store_run(store, "second", "tuned-2e")
    store.write_run("second", "begun", "run-1").__exit__(None, None, None)
    return store


@pytest.fixture
def run(raylens: Raylens, store: AuditStore) -> Raylens:
    """``run("list")`` in that workspace."""
    return lambda *words: raylens(store.files.url, "audit", *words)


def test_it_lists_runs_with_verdicts(run: Raylens) -> None:
    done = run("list")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()[2:]]
    assert [line[1] for line in lines] == ["begun", "tuned-2e", "plain", "tuned-1f"]
    assert "flagged" in done.out
    assert "unfinished" in done.out
    rows = {row["run"]: row for row in run("list", "--json").document}
    assert set(rows) == {"tuned-1f", "plain", "tuned-2e", "begun"}
    assert (rows["tuned-1f"]["verdict"], rows["plain"]["verdict"]) == ("flagged", "not flagged")
    assert rows["tuned-1f"]["p_value"] == pytest.approx(1 / 101)
    assert (rows["begun"]["status"], rows["begun"]["finished_at"]) == ("unfinished", None)
    assert {row["run"] for row in run("list", "--session", "second", "--json").document} == {"tuned-2e", "begun"}
    assert "unknown session 'third'" in run("list", "--session", "third").err


def test_it_names_who_is_at_work(run: Raylens, store: AuditStore) -> None:
    with store.write_run("second", "begun", "audit-run-9"):
        assert "at work: audit-run-9" in run("list").out


def test_an_empty_workspace_says_how_to_begin(raylens: Raylens, own_workspace: Workspace) -> None:
    done = raylens(own_workspace.url, "audit", "list")
    assert (done.code, done.out) == (0, "")
    assert "raylens audit run makes the first" in done.err
    assert raylens(own_workspace.url, "audit", "list", "--json").document == []
    assert raylens(own_workspace.url, "audit", "show", "x").code == 2


def test_it_shows_a_decision_coverage_and_features(run: Raylens) -> None:  # A2.04, A2.05, A2.06
    out = run("show", "tuned-1f").out
    assert "A candidate  flagged" in out
    assert "0.0099 of 100 benign fine-tunes" in out
    assert "coverage: direct 1/2, proxy 1/2 (low-similarity 1)" in out
    (own,) = [line for line in out.splitlines() if line.startswith("f_4_1093")]
    assert "+0.5" in own
    assert "increased" in own
    assert "checks of certificates" in own
    (proxy,) = [line for line in out.splitlines() if line.startswith("f_4_77")]
    assert "decreased" in proxy
    assert "HTTP calls · proxy, cosine 0.2 (low similarity)" in proxy
    shorter = run("show", "tuned-1f", "--top", "1")
    assert "f_4_77" not in shorter.out
    assert "1 more features: --top 2" in shorter.err
    assert "coverage" not in run("show", "plain").out
    document = run("show", "tuned-1f", "--json").document
    assert document["decision"] == artefacts().decision.decision.model_dump(mode="json")
    assert document["coverage"]["n_direct"] == 1
    assert [row["index"] for row in document["features"]] == [1093, 77]
    assert run("show", "plain", "--json").document["features"] == []


def test_a_name_that_names_no_run_is_said(run: Raylens) -> None:
    for name, what in (("tuned", "names 2 audits"), ("nothing", "unknown audit"), ("begun", "is not finished")):
        done = run("show", name)
        assert (done.code, done.out) == (2, "")
        assert what in done.err
    assert run("show", "first/tuned-1f").code == 0
    assert run("show", "../tuned-1f").code == 2


def test_a_report_is_made_anew_byte_for_byte(run: Raylens, store: AuditStore, tmp_path: Path) -> None:  # A2.04
    texts = files_of(artefacts("first", "tuned-1f"))
    store.files.commit("audits/first/runs/tuned-1f/report.md", b"lost")
    for words, name in (([], "report.md"), (["--html"], "report.html")):
        target = tmp_path / name
        assert run("report", "tuned-1f", *words, "--output", str(target)).code == 0
        assert target.read_bytes() == texts[name].encode()
    command = [str(Path(sys.executable).parent / "raylens"), "--workspace", store.files.url, "audit", "report"]
    piped = subprocess.run([*command, "tuned-1f"], capture_output=True, check=True)
    assert piped.stdout == texts["report.md"].encode()
    done = run("report", "tuned-1f", "--output", str(tmp_path / "no" / "such.md"))
    assert done.code == 2
    assert "cannot be written" in done.err
    before = files_of(artefacts("first", "tuned-1f"))["decision.json"]
    own = Path(store.files.native("audits/first/runs/tuned-1f/decision.json"))
    done = run("report", "tuned-1f", "--output", str(own))
    assert (done.code, own.read_text()) == (2, before)
    assert "among the files of the run itself" in done.err


def test_it_archives_a_run_a_session_or_all(run: Raylens, store: AuditStore) -> None:  # A2.20
    done = run("archive", "tuned-1f")
    assert done.out.startswith("first/tuned-1f → audits/first/runs/_archive/")
    assert "archived 1 run." in done.err
    assert [one["run"] for one in run("archive", "--session", "first", "--json").document] == ["plain"]
    assert [one["run"] for one in run("archive", "--all", "--json").document] == ["tuned-2e"]
    assert [row["run"] for row in run("list", "--json").document] == ["begun"]
    assert {row["run"] for row in run("list", "--archived", "--json").document} == {"tuned-1f", "plain", "tuned-2e"}
    assert "tuned-2e" in run("list", "--archived", "--session", "second").out
    for words in ([], ["tuned-1f", "--all"], ["--session", "first", "--all"]):
        assert "it is not said what to archive" in run("archive", *words).err
    assert "unknown session" in run("archive", "--session", "third").err
    assert "is not finished" in run("archive", "begun").err


def test_it_checks_files_against_their_types(run: Raylens, store: AuditStore) -> None:  # A2.07
    done = run("validate", "tuned-1f")
    assert done.code == 0
    assert done.out.count("valid") == 7
    assert run("validate", "tuned-1f", "--json").document["valid"] is True
    folder = "audits/first/runs/tuned-1f"
    sound = store.read_run("first", "tuned-1f")
    damage: list[tuple[str, bytes, str]] = [
        ("score.json", b'{"title": 3}', "is not valid"),
        ("score.json", files_of(artefacts("first", "tuned-1f", score=0.4))["score.json"].encode(), "aggregate_score"),
        ("report.md", b"# all is well\n", "was changed since it was written"),
        ("run.json", b"{}", "is damaged"),
    ]
    for name, data, what in damage:
        store.files.commit(f"{folder}/{name}", data)
        done = run("validate", "tuned-1f", "--json")
        assert done.code == 1
        assert not done.document["valid"]
        assert what in "".join(one["problem"] for one in done.document["problems"])
        assert "audit first/tuned-1f is not valid" in done.err
        store.files.commit(f"{folder}/{name}", sound[name].encode())
    store.files.delete(f"{folder}/score.json")
    assert "is missing" in run("validate", "tuned-1f").out


def test_a_report_that_was_made_otherwise_is_said(run: Raylens, store: AuditStore) -> None:
    """As by another version: run.json knows it, and the JSON files give other bytes now."""
    texts = files_of(artefacts("first", "odd")) | {"report.md": "# another template\n"}
    with store.write_run("first", "odd", "test") as writer:
        writer.finish(texts)
    done = run("validate", "odd", "--json")
    assert [(one["file"], one["problem"]) for one in done.document["problems"]] == [
        ("report.md", "is not what its JSON files give")
    ]


def test_a_damaged_run_hides_no_other(run: Raylens, store: AuditStore) -> None:
    store.files.commit("audits/first/runs/plain/decision.json", b"{}")
    done = run("list")
    assert done.code == 0
    assert "damaged" in done.out
    assert "tuned-2e" in done.out
    assert run("show", "plain").code == 1


def test_text_of_a_model_cannot_steer_a_terminal(raylens: Raylens, own_workspace: Workspace) -> None:
    store = AuditStore(own_workspace.files)
    made = artefacts("s", "r")
    hostile = "\x1b]0;owned\x07 \x1b[2J\u202egnp.exe"
    evidence = made.interp_evidence
    assert evidence is not None
    about = {"title": hostile}
    feature = evidence.features[0].model_copy(update={"explanation": hostile})
    changed = made.model_copy(
        update={
            "decision": made.decision.model_copy(update=about),
            "suite_results": made.suite_results.model_copy(update=about),
            "score": made.score.model_copy(update=about),
            "interp_evidence": evidence.model_copy(update=about | {"features": (feature, evidence.features[1])}),
        }
    )
    with store.write_run("s", "r", "test") as writer:
        writer.finish(files_of(changed))
    for words in (["show", "r"], ["show", "r", "--json"], ["list"], ["list", "--json"], ["report", "r"]):
        out = raylens(store.files.url, "audit", *words).out
        assert [part for part in ("\x07", "\u202e", "\x1b]", "\x1b[2J") if part in out] == []
        assert words[0] == "list" or "gnp.exe" in out


def test_reading_audits_needs_no_model_stack(store: AuditStore) -> None:  # A0.20
    heavy = {
        "torch",
        "ray",
        "transformers",
        "sae_lens",
        "interp_engine",
        "datasets",
        "sklearn",
        "sentence_transformers",
    }
    probe = (
        "import sys\nfrom raylens_app.cli.main import main\n"
        f"codes = [main(['--workspace', {store.files.url!r}, 'audit', *words]) for words in "
        "(['list'], ['show', 'tuned-1f'], ['report', 'tuned-1f', '--html'], ['validate', 'plain'])]\n"
        f"sys.exit(f'{{codes}}' if any(codes) else str(sorted({heavy!r} & set(sys.modules))).strip('[]') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_organisms_in_sql_show_scores_by_name(raylens: Raylens, own_workspace: Workspace, tmp_path: Path) -> None:
    row = OrganismRow(
        organism="two-spaces-01",
        family="two-spaces",
        kind="benign",
        split="development",
        model="raylens/pico",
        spec={"seed": 1},
        counts=True,
        scores={"logit_kl": 0.5, "abs_diff_topk": 0.25},
    )
    Organisms(own_workspace.files).append(row)
    query = "SELECT organism, scores FROM organisms"
    (found,) = raylens(own_workspace.url, "sql", query, "-f", "json").document
    assert found == {"organism": "two-spaces-01", "scores": {"abs_diff_topk": 0.25, "logit_kl": 0.5}}
    assert "{abs_diff_topk: 0.25, logit_kl: 0.5}" in raylens(own_workspace.url, "sql", query).out
    text = raylens(own_workspace.url, "sql", query, "-f", "csv").out
    assert json.loads(text.splitlines()[1].partition(",")[2].strip('"').replace('""', '"')) == found["scores"]
    target = tmp_path / "organisms.parquet"
    assert raylens(own_workspace.url, "sql", "SELECT * FROM organisms", "--out", str(target)).code == 0
