"""Features of an audit that nothing is said of, explained on demand: real caches, real Ray, real endpoints."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cache_runs import Made
from fake_llm import Answer, FakeLlm
from fine_tunes import make_adapter
from raylens.audit.artefacts import InterpEvidence
from raylens.config import ExplainConfig
from raylens.errors import InputError, StoppedError
from raylens.ids import FeatureId, SaeId
from raylens.llm.settings import EndpointSettings
from raylens.reports.report_md import report_md
from raylens.store.audit_store import AuditStore
from raylens.store.findings import passes
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from raylens_jobs import audit_explain
from raylens_jobs.audit import AuditRun
from raylens_jobs.audit_explain import OnDemand
from raylens_jobs.audit_workers import AuditWorkers, on_ray
from small_audits import SAE, SUITE, audit, base_with, config, files_of, here

FEW = {"min_examples": 20, "n_examples_train": 10, "n_non_activating": 12}
LEXICAL = OnDemand(ExplainConfig.of(FEW))
NEVER = OnDemand(ExplainConfig(min_examples=10**6))
"""Says of every feature that it fires too seldom."""


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The base directory, with the suite."""
    with base_with(tmp_path_factory, SUITE) as (folder, _):
        yield folder


@pytest.fixture(scope="module")
def tuned(base: Path) -> Path:
    """A fine-tune with random small weights."""
    make_adapter(base / "tuned", scale=0.04)
    return base / "tuned"


@dataclass(frozen=True)
class Whole:
    """An audit that nothing happened to, with its workspace."""

    workspace: Workspace
    done: AuditRun
    files: dict[str, str]

    @property
    def evidence(self) -> InterpEvidence:
        return evidence_of(self.done)


@pytest.fixture(scope="module")
def whole(undisturbed: Made, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole") / "ws"
    shutil.copytree(undisturbed.workspace.files.native(""), folder)
    workspace = Workspace.open(folder)
    done = audit(workspace, tuned, explain=LEXICAL)
    return Whole(workspace, done, files_of(workspace, done))


@pytest.fixture
def fresh(whole: Whole, copy: Workspace) -> Workspace:
    """The undisturbed cache, of which nothing is explained, and what audits read of the reference."""
    kept = "audits/_references"
    shutil.copytree(whole.workspace.files.native(kept), copy.files.native(kept))
    return copy


def evidence_of(done: AuditRun) -> InterpEvidence:
    found = done.artefacts.interp_evidence
    assert found is not None
    return found


def explained_in(workspace: Workspace) -> dict[str, Any]:
    """Rows of the only pass over the SAE, by their id."""
    (cache_id,) = workspace.caches()
    (only,) = passes(workspace.cache(cache_id), SaeId.parse(SAE), "explanations")
    return {row["explanation_id"]: row for row in only.read().to_pylist()}


def test_listed_features_are_explained_and_counted(whole: Whole) -> None:
    own, rows = whole.evidence.own_explanations, whole.evidence.features
    assert own is not None
    assert (own.explainer, own.model, own.n_wanted) == ("lexical", None, 10)
    explained = [row for row in rows if row.explanation is not None]
    assert [row.index for row in explained] == [one.feature for one in own.explained]
    assert len(explained) >= 3
    assert whole.evidence.coverage.n_direct == len(explained)
    kept = explained_in(whole.workspace)
    for row, one in zip(explained, own.explained, strict=True):
        found = kept[one.explanation_id]
        assert (found["feature"], found["explanation"], found["status"]) == (row.index, row.explanation, "ok")
        assert row.explanation_type == "raylens_lexical"
        assert row.proxy_explanation is None
    assert {row["feature"] for row in kept.values()} <= {row.index for row in rows}, "only what is listed"
    assert sum(one.n for one in own.unexplained) == 10 - len(explained)
    assert own.line.startswith(f"{len(explained)}/10 that nothing else is said of, by lexical")
    appendix = report_md(whole.done.artefacts)
    assert f"Own explanations: {len(explained)}/10 that nothing else is said of" in appendix
    assert "direct (raylens" in appendix
    assert "<strong>Own explanations: </strong>" in whole.files["report.html"]


def test_what_was_explained_is_not_explained_again(
    whole: Whole, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole.workspace.files.native(""), tmp_path / "ws")
    workspace = Workspace.open(tmp_path / "ws")

    def never(*_: Any) -> None:
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(audit_explain, "run_explain", never)
    again = audit(workspace, tuned, explain=LEXICAL, again="replace")
    assert files_of(workspace, again) == whole.files
    without = evidence_of(audit(workspace, tuned, explain=None, again="replace"))
    assert without.own_explanations is None
    assert without.features == whole.evidence.features, "what others look up is what the workspace holds"


def test_it_does_not_wait_for_the_cores_that_the_audit_held(whole: Whole, fresh: Workspace, tuned: Path) -> None:
    """Two actors hold both cores of this Ray, and a task of the explain job wants a whole one."""
    done = audit(fresh, tuned, auditing=on_ray, explain=LEXICAL)
    assert files_of(fresh, done) == whole.files


def test_killed_in_the_midst_then_resumed_gives_the_same_bytes(
    whole: Whole, fresh: Workspace, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(asked: ExplainConfig, *others: Any, run: Any = audit_explain.run_explain) -> None:
        assert asked.features is not None
        run(asked.model_copy(update={"features": asked.features[::2]}), *others)
        raise KeyboardInterrupt

    monkeypatch.setattr(audit_explain, "run_explain", half)
    with pytest.raises(KeyboardInterrupt):
        audit(fresh, tuned, explain=LEXICAL)
    kept = len(explained_in(fresh))
    monkeypatch.undo()
    assert files_of(fresh, audit(fresh, tuned, explain=LEXICAL)) == whole.files
    assert 0 < kept <= len(explained_in(fresh))


def test_one_that_is_asked_to_stop_stops(
    whole: Whole, fresh: Workspace, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise StoppedError("run x was stopped after 0 of 10 features.", hint="go on.")

    monkeypatch.setattr(audit_explain, "run_explain", stop)
    with pytest.raises(StoppedError):
        audit(fresh, tuned, explain=LEXICAL)
    monkeypatch.undo()
    assert files_of(fresh, audit(fresh, tuned, explain=LEXICAL)) == whole.files


def test_without_a_cache_it_says_why_and_goes_on(tmp_path: Path, tuned: Path) -> None:
    own = evidence_of(audit(Workspace.open(tmp_path / "ws", create=True), tuned)).own_explanations
    assert own is not None
    assert (own.n_wanted, own.explained, own.cache_id, own.pass_id) == (10, (), None, None)
    assert own.line.endswith("; without: 10 (no cache of this SAE in the workspace, raylens cache makes one)")


@pytest.mark.parametrize("what", ["model", "weights"])
def test_a_cache_of_something_else_is_none(fresh: Workspace, tuned: Path, what: str) -> None:
    cache, sae = fresh.cache(fresh.caches()[0]), SaeId.parse(SAE)
    if what == "model":
        cache.write_info({**cache.info(), "revision": "0" * 64})
    else:
        known = cache.saes()[sae]
        cache.write_sae(sae, {**known, "spec": {**known["spec"], "fingerprint": "0" * 64}})
    own = evidence_of(audit(fresh, tuned, explain=LEXICAL)).own_explanations
    assert own is not None
    assert own.line.endswith("10 (this SAE's caches in the workspace are of another model, or of other weights)")


def test_of_several_caches_that_of_the_reference_counts(whole: Whole, fresh: Workspace, tuned: Path) -> None:
    """The one merged last is of another model, and is where single features are looked up otherwise."""
    (mine,) = fresh.caches()
    other = "f" * 16
    shutil.copytree(fresh.files.native(f"caches/{mine}"), fresh.files.native(f"caches/{other}"))
    for path in Path(fresh.files.native(f"caches/{other}")).rglob("*.json"):
        path.write_text(path.read_text().replace(mine, other))
    cache = fresh.cache(other)
    cache.write_info({**cache.info(), "revision": "0" * 64})
    assert files_of(fresh, audit(fresh, tuned, explain=LEXICAL)) == whole.files


def test_a_damaged_cache_leaves_a_note_without_its_place(fresh: Workspace, tuned: Path) -> None:
    manifest = fresh.cache(fresh.caches()[0]).manifest()
    assert manifest is not None
    for entry in manifest.of("activations", SaeId.parse(SAE)):
        fresh.files.commit(entry.path, b"no Parquet")
    own = evidence_of(audit(fresh, tuned, explain=LEXICAL)).own_explanations
    assert own is not None
    assert own.line.endswith("without: 10 (the cache is damaged, raylens explain says where)")


def _asking(llm: FakeLlm, **limits: Any) -> OnDemand:
    asked = EndpointSettings.of({"base_url": llm.base_url, "model": "fake", "max_attempts": 1, **limits})
    return OnDemand(ExplainConfig.of({**FEW, "explainer": "default"}), asked)


def test_a_language_model_explains_where_one_is_named(fresh: Workspace, tuned: Path) -> None:
    with FakeLlm(lambda asked: f"[EXPLANATION]: phrase {asked.index}") as llm:
        done = audit(fresh, tuned, config(k=4), explain=_asking(llm, max_concurrency=1, max_calls=2))
        own = evidence_of(done).own_explanations
        assert own is not None
        assert (own.explainer, own.model, own.explained) == ("default", "fake", ())
        assert len(llm.asked) == 2, "the budget"
        assert "0/4 that nothing else is said of, by default asking fake; without: 4 (" in own.line
        assert "2 calls" in own.line
        rest = evidence_of(audit(fresh, tuned, config(k=4), explain=_asking(llm), again="replace"))
        assert rest.own_explanations is not None
        assert (len(rest.own_explanations.explained), rest.coverage.n_direct) == (4, 4)
        assert len(llm.asked) == 4, "only what was missing"
    assert {row.explanation_type for row in rest.features} == {"raylens_default"}
    assert {row.explanation_model for row in rest.features} == {"fake"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer.error(500, "out of order"), "500"),
        (Answer.error(401, "bad key"), "401"),
        (Answer("I would rather not say."), "the answer could not be read"),
    ],
)
def test_what_fails_leaves_proxies_and_a_note(
    whole: Whole, fresh: Workspace, tuned: Path, answer: Answer, reason: str
) -> None:
    listed = {row.index for row in whole.evidence.features}
    other = next(feature for feature in range(2048) if feature not in listed)
    Labels(fresh).say(FeatureId(SaeId.parse(SAE), other), "ann", label="what Ann says")
    with FakeLlm(lambda _: answer) as llm:
        found = evidence_of(audit(fresh, tuned, config(k=4), explain=_asking(llm)))
    own = found.own_explanations
    assert own is not None
    assert (own.explained, own.n_wanted) == ((), 4)
    (why,) = own.unexplained
    assert why.n == 4
    assert reason in why.reason
    assert all(row.explanation is None for row in found.features)
    assert {row.neighbours[0].explanation for row in found.features} == {"what Ann says"}
    assert (found.coverage.n_direct, found.coverage.n_proxy) == (0, 4)


def test_features_that_fire_too_seldom_are_counted(whole: Whole, fresh: Workspace, tuned: Path) -> None:
    Labels(fresh).say(FeatureId(SaeId.parse(SAE), whole.evidence.features[0].index), "ann", label="what Ann says")
    found = evidence_of(audit(fresh, tuned, explain=NEVER))
    own = found.own_explanations
    assert own is not None
    assert own.n_wanted == 9, "something is said of one"
    assert found.features[0].explanation == "what Ann says"
    reasons = Counter({one.reason: one.n for one in own.unexplained})
    assert reasons.total() == 9
    assert reasons["fire in fewer than 1000000 excerpts of the cache"] >= 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--explainer", "default"], "asks a language model, and none is named"),
        (["--explainer-model", "m", "--base-url", "http://127.0.0.1:1/v1"], "the lexical explainer asks nobody"),
        (["--no-explain", "--explainer", "cot"], "--explainer says how to explain, and --no-explain not to"),
        (["--max-calls", "3"], "--max-calls is about a language model, and none is named"),
        (["--min-examples", "0"], "greater than or equal to 1"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["--workspace", str(tmp_path / "ws"), "audit", "run", "-c", "raylens/pico", *words]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "ws/audits").exists()


def says_what_its_files_say(printed: dict[str, Any]) -> None:
    """What ``audit run --json`` prints of a verdict is that of ``decision.json`` and ``score.json``."""
    decision, score = (
        json.loads((Path(printed["folder"]) / f"{name}.json").read_text()) for name in ("decision", "score")
    )
    given = score["methods"][0]
    assert given["gives_verdict"]
    for key in ("verdict", "p_value", "n_benign", "aggregate_score", "score_method"):
        assert printed[key] == decision["decision"][key], key
    for key in ("aggregate_score", "score_method"):
        assert printed[key] == score[key], key
    assert (printed["p_value"], printed["n_benign"]) == (given["p_value"], given["n_benign"])


def test_the_command_line_passes_it_on(
    fresh: Workspace, tuned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AuditWorkers, "__call__", lambda _, *given: here(*given))
    words = ["-c", str(tuned), "--suite", "suite.yaml", "--score-method", "abs_diff_topk", "-s", SAE, "--top-k", "10",
             "--no-trigger-search", "--max-new-tokens", "6", "--min-examples", "20", "--json"]  # fmt: skip
    assert main(["--workspace", fresh.url, "audit", "run", *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    says_what_its_files_say(printed)
    assert "/10 that nothing else is said of, by lexical" in printed["own_explanations"]
    assert main(["--workspace", fresh.url, "audit", "show", printed["run"]]) == 0
    assert "own explanations: " in capsys.readouterr().out


def test_near_silent_excerpts_of_a_whole_cache_are_refused() -> None:
    with pytest.raises(InputError, match="does not embed a whole cache"):
        OnDemand(ExplainConfig(non_activating_source="faiss"))


def test_what_is_explained_names_the_run_of_the_audit(whole: Whole) -> None:
    runs = {one.run_id for one in whole.workspace.runs() if one.kind == "audit"}
    assert {row["run_id"] for row in explained_in(whole.workspace).values()} <= runs


def test_several_candidates_get_an_audit_each(
    fresh: Workspace, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AuditWorkers, "__call__", lambda _, *given: here(*given))
    words = ["--suite", "suite.yaml", "--score-method", "abs_diff_topk", "-s", SAE, "--top-k", "10", "--no-explain",
             "--no-trigger-search", "--max-new-tokens", "6"]  # fmt: skip
    both = ["--workspace", fresh.url, "audit", "run", "-c", str(tuned), "-c", "raylens/pico", *words]

    assert main([*both, "--title", "A trial"]) == 2
    assert "--title names one audit, and 2 candidates are given" in " ".join(capsys.readouterr().err.split())
    assert main([*both, "-c", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    assert not AuditStore(fresh.files).sessions(), "all are looked at before any work"

    assert main([*both, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["candidate"], second["candidate"]) == (tuned.name, "raylens/pico")
    assert (first["verdict"], second["verdict"]) == ("inconclusive", "not flagged")
    assert (first["p_value"], second["p_value"]) == (None, 1)
    says_what_its_files_say(first)
    says_what_its_files_say(second)
    assert main(both) == 0
    said = capsys.readouterr()
    assert said.err.count("is finished already") == 2
    assert f"{tuned}:\ninconclusive: " in said.out
    assert "raylens/pico:\nnot flagged: " in said.out
