"""Audits end to end on the bundled model: real models, real Ray, real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fine_tunes import make_adapter
from raylens.audit.artefacts import Artefacts
from raylens.audit.calibration import BenignScore, Calibration
from raylens.audit.scores import SCORE_METHODS
from raylens.errors import InputError, MismatchError, RaylensError, StoppedError
from raylens.reports.json_files import FILES, read_artefacts
from raylens.reports.report_html import report_html
from raylens.reports.report_md import report_md
from raylens.store.audit_calibrations import change_calibration, save_calibration
from raylens.store.audit_store import AuditStore
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from raylens_jobs import audit_workers
from raylens_jobs.audit import Request, run_audit
from raylens_jobs.audit_evidence import audit_pool
from raylens_jobs.audit_plan import plan_audit
from raylens_jobs.audit_workers import AuditWorkers
from small_audits import SAE, SUITE, audit, config, files_of, here


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base directory, with a suite of three prompts in five wordings."""
    (tmp_path / "suite.yaml").write_text(SUITE)
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tune with random small weights."""
    folder = tmp_path_factory.mktemp("tunes") / "tuned"
    make_adapter(folder, scale=0.04)
    return folder


class TestAudit:
    """One workspace each."""

    def test_actors_on_ray_give_what_one_process_gives(
        self, tmp_path: Path, tuned: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two candidates, by the same actors; a third that comes after these have ended has others."""
        started: list[Any] = []

        def count(*given: Any) -> Any:
            started.append(given)
            return audit_pool(*given)

        monkeypatch.setattr(audit_workers, "audit_pool", count)
        make_adapter(tmp_path / "other", scale=0.02, seed=5)
        candidates, asked = (tuned, tmp_path / "other", "raylens/pico"), config(threads=1)
        workspace, alone = (Workspace.open(tmp_path / name, create=True) for name in ("ray", "here"))
        plan = plan_audit(asked, workspace.url)
        with AuditWorkers() as workers, RunJournal.start(workspace.files, "audit", {}) as journal:
            for at, candidate in enumerate(candidates):
                done = run_audit(workspace, plan, Request(str(candidate)), journal, auditing=workers)
                assert files_of(workspace, done) == files_of(alone, audit(alone, candidate, asked))
                assert len(started) == 1 + (at == 2)
                if at == 1:
                    with workers(workspace, plan, lambda *_: None) as work:
                        work.release()
            with (
                pytest.raises(ValueError, match="workers of one plan"),
                workers(alone, plan_audit(asked, alone.url), print),
            ):
                pass

    def test_the_reference_against_itself_differs_in_nothing(self, tmp_path: Path) -> None:
        done = audit(Workspace.open(tmp_path / "ws", create=True), "raylens/pico")
        made = done.artefacts
        assert made.decision.decision.verdict == "not flagged"
        assert made.decision.decision.p_value == 1.0
        assert made.decision.decision.aggregate_score == 0.0
        assert all(result.same_text and result.logit_kl == 0 for result in made.suite_results.results)
        assert made.interp_evidence is not None
        assert made.interp_evidence.features == ()
        assert made.interp_evidence.n_significant == 0
        unknown = ("trigger_search", "benign_standardised")  # no search was made, and nothing benign is known
        scores = {one.method: one.score for one in made.score.methods}
        assert scores == {name: None if name in unknown else 0 for name in SCORE_METHODS}

    def test_artefacts_of_a_fine_tune(self, tmp_path: Path, tuned: Path) -> None:  # A2.01, A2.02, A2.04 to A2.06
        workspace = Workspace.open(tmp_path / "ws", create=True)
        done = audit(workspace, tuned, title="A trial", session="trials")
        folder = Path(done.folder)
        assert folder == tmp_path / "ws/audits/trials/runs" / done.place.run
        names = {*FILES, "report.md", "report.html", "run.json"}
        assert {path.name for path in folder.iterdir()} == names
        assert (tmp_path / "ws/audits/trials/config_resolved.yaml").is_file()
        made = done.artefacts
        decision = made.decision.decision
        assert (decision.verdict, decision.p_value, decision.n_benign) == ("inconclusive", None, 0)
        assert "is of something else" in decision.reason  # the bundle has scores of another suite (A2.21)
        assert decision.score_method == "abs_diff_topk"
        assert decision.aggregate_score > 0
        assert made.suite_results.suite.n_prompts == 3
        assert [result.id for result in made.suite_results.results] == ["area", "area", "read", "read", "chat"]
        assert any(not result.same_text for result in made.suite_results.results)
        evidence = made.interp_evidence
        assert evidence is not None
        assert len(evidence.features) == 10
        assert abs(evidence.features[0].delta) >= abs(evidence.features[1].delta)  # A2.09
        assert evidence.features[0].id.startswith("f_3_")
        assert evidence.n_clusters == 3  # wordings of one prompt are one cluster
        assert evidence.stability.variants == ("wording 0", "wording 1")  # A2.19
        assert evidence.stability.jaccard is not None
        assert made.suite_results.capability.capability == "intact"  # A2.17
        assert "coverage" in report_md(made).lower()
        texts = files_of(workspace, done)
        assert report_md(read_artefacts(texts)) == texts["report.md"]  # byte for byte from its JSON
        assert report_html(read_artefacts(texts)) == texts["report.html"]

    def test_scores_are_those_of_the_artefacts(self, tmp_path: Path, tuned: Path) -> None:  # A2.09, A2.10
        made = audit(Workspace.open(tmp_path / "ws", create=True), tuned).artefacts
        differences = [result.feature_difference for result in made.suite_results.results]
        assert made.decision.decision.aggregate_score == pytest.approx(np.mean(np.array(differences, float)))
        by_method = {one.method: one for one in made.score.methods}
        kl = np.mean([result.logit_kl for result in made.suite_results.results])
        assert by_method["logit_kl"].score == pytest.approx(kl)
        assert by_method["weight_projection"].score is not None
        assert by_method["difference_sae"].score is not None
        assert by_method["trigger_search"].score is None
        assert made.score.methods[0].gives_verdict

    def test_the_verdict_follows_from_the_benign_scores(self, tmp_path: Path, tuned: Path) -> None:  # A2.18
        workspace = Workspace.open(tmp_path / "ws", create=True)
        plan = plan_audit(config(), workspace.url)
        for scores, verdict, p_value in (
            ([0.001 * number for number in range(99)], "flagged", 0.01),
            ([1e6 + number for number in range(99)], "not flagged", 1.0),
            ([0.001, 0.002], "inconclusive", 1 / 3),
        ):
            calibration = Calibration(
                identity=plan.identity(),
                scores=tuple(
                    BenignScore(organism=f"o{at}", family=f"f{at % 5}", score=score) for at, score in enumerate(scores)
                ),
            )
            change_calibration(workspace.files, plan.identity(), lambda _, given=calibration: given)
            decision = audit(workspace, tuned, again="archive").decision
            assert (decision.verdict, decision.p_value) == (verdict, pytest.approx(p_value))
            assert decision.n_benign == len(scores)
        assert len(AuditStore(workspace.files).archived("default")) == 2  # A2.20

    def test_what_was_begun_of_another_candidate_is_not_taken_for_its_own(self, tmp_path: Path, tuned: Path) -> None:
        other = tmp_path / "other"
        make_adapter(other, scale=0.02, seed=5)
        workspace = Workspace.open(tmp_path / "ws", create=True)

        def stop(done: int, total: int) -> None:
            if done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            audit(workspace, tuned, run="nightly", auditing=lambda workspace, plan, _: here(workspace, plan, stop))
        found = audit(workspace, other, run="nightly")
        alone = audit(Workspace.open(tmp_path / "alone", create=True), other, run="nightly")
        assert files_of(workspace, found) == files_of(Workspace.open(tmp_path / "alone"), alone)

    def test_a_score_that_needs_benign_effects_says_so_first(self, tmp_path: Path, tuned: Path) -> None:
        workspace = Workspace.open(tmp_path / "ws", create=True)

        def never(*_: Any) -> Any:
            raise AssertionError("nothing is measured")

        with pytest.raises(InputError, match="benign_standardised compares with what benign fine-tunes"):
            audit(workspace, tuned, config(score_method="benign_standardised"), auditing=never)

    def test_a_calibration_of_something_else_is_refused(self, tmp_path: Path, tuned: Path) -> None:
        workspace = Workspace.open(tmp_path / "ws", create=True)
        other = plan_audit(config(pooling="max"), workspace.url).identity()
        scores = tuple(BenignScore(organism=f"o{at}", family="f", score=0.0) for at in range(99))
        save_calibration(workspace.files, Calibration(identity=other, scores=scores))
        decision = audit(workspace, tuned).decision
        assert decision.verdict == "inconclusive"
        assert "settings.pooling (calibrated: max; this audit: mean)" in decision.reason

    def test_a_second_candidate_costs_its_own_passes_only(self, tmp_path: Path, tuned: Path) -> None:
        workspace = Workspace.open(tmp_path / "ws", create=True)
        audit(workspace, "raylens/pico")
        shared = tmp_path / "ws/audits/_references"
        before = {path: path.stat().st_mtime_ns for path in shared.rglob("*") if path.is_file()}
        assert before
        audit(workspace, tuned)
        assert {path: path.stat().st_mtime_ns for path in shared.rglob("*") if path.is_file()} == before

    def test_the_same_command_finds_a_finished_audit(self, tmp_path: Path, tuned: Path) -> None:
        workspace = Workspace.open(tmp_path / "ws", create=True)
        first = audit(workspace, tuned)
        again = audit(workspace, tuned)
        assert again.was_there
        assert not first.was_there
        assert again.artefacts == first.artefacts
        assert audit(workspace, tuned, config(pooling="max")).place != first.place

    def test_one_that_is_stopped_goes_on_where_it_ended(
        self, tmp_path: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = Workspace.open(tmp_path / "whole", create=True)
        expected = files_of(whole, audit(whole, tuned))
        workspace = Workspace.open(tmp_path / "ws", create=True)
        monkeypatch.setattr(RunJournal, "stop_requested", lambda _: True)
        with pytest.raises(StoppedError, match="pieces of work"):
            audit(workspace, tuned)
        monkeypatch.undo()
        monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path))
        assert AuditStore(workspace.files).runs()[0].finished_at is None
        assert files_of(workspace, audit(workspace, tuned)) == expected

    def test_without_an_sae(self, tmp_path: Path, tuned: Path) -> None:
        done = audit(Workspace.open(tmp_path / "ws", create=True), tuned, config(sae=None, score_method="logit_kl"))
        assert done.artefacts.interp_evidence is None
        assert not (Path(done.folder) / "interp_evidence.json").exists()
        assert done.decision.aggregate_score > 0

    def test_features_that_are_nan_are_refused(self, tmp_path: Path, tuned: Path) -> None:
        broken = tmp_path / "broken"
        broken.mkdir()
        for path in tuned.iterdir():
            (broken / path.name).write_bytes(path.read_bytes())
        weights = load_file(broken / "adapter_model.safetensors")
        first = sorted(weights)[0]
        weights[first] = np.full_like(weights[first], np.nan)
        save_file(weights, broken / "adapter_model.safetensors")
        workspace = Workspace.open(tmp_path / "ws", create=True)
        with pytest.raises(InputError, match="no finite numbers"):
            audit(workspace, broken)
        assert AuditStore(workspace.files).runs() == (), "it could never go on"


@pytest.mark.parametrize(
    ("values", "candidate", "says"),
    [
        ({"suite": "../suite.yaml"}, "raylens/pico", "outside the base directory"),  # A2.16
        ({"suite": "nowhere"}, "raylens/pico", "there is no suite 'nowhere'"),
        ({"score_method": "cosine"}, "raylens/pico", "unknown score method 'cosine'"),
        ({"sae": None}, "raylens/pico", "reads features, and no SAE is named"),
        ({"score_method": "trigger_search"}, "raylens/pico", "the search is turned off"),
        ({"sae": "raylens-pico-res/layer_30"}, "raylens/pico", "layer_30"),  # A2.15
        ({"max_new_tokens": 2000}, "raylens/pico", "more than the"),
        ({}, "./nothing", "nothing"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    tmp_path: Path, values: dict[str, Any], candidate: str, says: str
) -> None:
    workspace = Workspace.open(tmp_path / "ws", create=True)
    with pytest.raises(RaylensError, match=says):
        audit(workspace, candidate, config(**values))
    assert not (tmp_path / "ws/audits").exists()


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, tuned: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in tuned.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": "someone/other-model"})
    )
    workspace = Workspace.open(tmp_path / "ws", create=True)
    with pytest.raises(MismatchError, match="someone/other-model"):
        audit(workspace, other)
    assert not (tmp_path / "ws/audits").exists()


@pytest.mark.parametrize(
    ("suite", "says"),
    [
        ("[]", "no prompt"),
        ("- {id: a, text: x}\n- {id: a, text: y}\n", "given in line 1 already"),
        ("- {id: a, text: x, colour: red}\n", "colour"),
    ],
)
def test_a_suite_that_is_none_is_one_sentence(
    base: Path, capsys: pytest.CaptureFixture[str], suite: str, says: str
) -> None:
    (base / "bad.yaml").write_text(suite)
    words = ["--workspace", str(base / "ws"), "audit", "run", "-c", "raylens/pico", "--suite", "bad.yaml"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.startswith("error: ")
    assert not (base / "ws/audits").exists()


def test_kill_9_in_the_middle_then_resume_gives_the_same_bytes(
    base: Path, tuned: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole process with a Ray of its own is killed; what it left is gone on with here, as if nothing had been."""
    monkeypatch.chdir(base)
    words = ["audit", "run", "-c", str(tuned), "--suite", "suite.yaml", "--score-method", "abs_diff_topk", "-s", SAE,
             "--no-trigger-search", "--max-new-tokens", "6", "--workers", "1", "--threads", "1"]  # fmt: skip
    killed = subprocess.Popen(
        [sys.executable, "-m", "raylens", "--workspace", str(base / "killed"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    references = base / "killed/audits/_references"
    _until(lambda: references.exists() and any(path.is_file() for path in references.rglob("*")), killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not list((base / "killed/audits").rglob("decision.json"))
    artefacts = []
    for folder in (base / "killed", base / "whole"):
        assert main(["--workspace", str(folder), *words]) == 0
        (decision,) = folder.rglob("decision.json")
        artefacts.append(
            {path.name: path.read_bytes() for path in decision.parent.iterdir() if path.name != "run.json"}
        )
    assert artefacts[0] == artefacts[1]
    assert isinstance(read_artefacts({name: data.decode() for name, data in artefacts[0].items()}), Artefacts)


def _until(happened: Any, process: subprocess.Popen[str], within_s: float = 300) -> None:
    end = time.monotonic() + within_s
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)
