"""Candidates, SAEs and services that are not as an audit would have them: one clear sentence, or a whole audit."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import odd_candidates
from fine_tunes import make_adapter
from raylens.errors import InputError, MismatchError, RunError
from raylens.labels.settings import BASE_URL_VARIABLE, MODE_VARIABLE
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from raylens_app.cli.selftest_parts import labelled_sae
from raylens_jobs.audit_plan import plan_audit
from raylens_jobs.audit_workers import AuditWorkers
from small_audits import SAE, SUITE, audit, base_with, config, here

Make = Callable[[Path], None]

GPT2_SAE = "gpt2-small-res-jb/blocks.3.hook_resid_pre"


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The base directory, with a suite of three prompts in five wordings."""
    with base_with(tmp_path_factory, SUITE) as (folder, patch):
        patch.setattr(AuditWorkers, "__call__", lambda _, *given: here(*given))
        yield folder


@pytest.fixture(scope="module")
def silent(base: Path) -> Path:
    """A checkpoint that writes nothing, whatever the suite asks."""
    odd_candidates.make_silent(base / "silent", [form.ids for form in plan_audit(config()).task.forms])
    return base / "silent"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "ws", create=True)


def words(workspace: Workspace, candidate: str | Path, *more: str) -> list[str]:
    """The same audit as a command."""
    return ["--workspace", workspace.url, "audit", "run", "-c", str(candidate), "--suite", "suite.yaml",
            "--score-method", "abs_diff_topk", "--no-trigger-search", "--max-new-tokens", "6", *more]  # fmt: skip


def test_activations_that_overflow_are_one_error_and_a_rerun_goes_on(
    base: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    over, whole = base / "over", base / "whole"
    odd_candidates.make_overflowing(over)
    said = "over at resid_post.3 are not all finite numbers."
    with pytest.raises(RunError, match=said) as caught:
        audit(workspace, over, run="nightly")
    assert caught.value.exit_code == 1
    assert main(words(workspace, over, "--run", "nightly", "-s", SAE)) == 1
    told = capsys.readouterr().err
    assert told.count("error: ") == 1
    assert said in " ".join(told.split())
    assert "Traceback" not in told
    store = AuditStore(workspace.files)
    (run,) = store.runs()
    assert run.finished_at is None
    assert not store.is_finished(run.place.session, run.place.run)
    # It is trained again, and audited under the same name.
    make_adapter(whole, scale=0.02)
    assert audit(workspace, whole, run="nightly").place == run.place
    assert store.is_finished(run.place.session, run.place.run)


@pytest.mark.parametrize("pooling", ["mean", "answer"])
def test_a_candidate_that_writes_nothing_is_audited_and_called_broken(
    workspace: Workspace, silent: Path, pooling: str
) -> None:
    done = audit(workspace, silent, config(pooling=pooling))
    results = done.artefacts.suite_results
    assert [one.candidate.text for one in results.results] == [""] * 5
    assert all(one.candidate.stopped and one.candidate.n_tokens == 1 for one in results.results)
    assert all(one.reference.text for one in results.results)
    assert results.capability.capability == done.decision.capability == "broken"
    assert done.decision.aggregate_score > 0
    empty = next(row for row in results.checks if row.check == "non_empty")
    assert (empty.passed_reference, empty.passed_candidate) == (2, 0)
    report = (Path(done.folder) / "report.md").read_text()
    assert report.count("Candidate (1 token, ended by itself): it wrote nothing.") == 5
    assert "Capability is broken" in report


@pytest.mark.parametrize(
    ("make", "values", "kind", "says"),
    [
        (odd_candidates.make_gpt2, {}, MismatchError, "raylens/pico has architecture LlamaForCausalLM, and .*/made"),
        (odd_candidates.make_narrow, {}, MismatchError, "raylens/pico has width 128, and .*/made width 32"),
        (
            odd_candidates.make_with_swapped_tokens,
            {},
            MismatchError,
            r"tokenizers of raylens/pico and .*/made differ: '.+' is token 40 and token 41",
        ),
        (
            odd_candidates.make_with_more_tokens,
            {},
            MismatchError,
            "raylens/pico has a vocabulary of 4,096, and .*/made a vocabulary of 4,101",
        ),
        (odd_candidates.make_pickled, {}, InputError, "made holds no .*, but only the pickle adapter_model.bin"),
        (
            odd_candidates.make_of_another_base,
            {},
            MismatchError,
            "made is an adapter for someone/other-model, and the reference is raylens/pico",
        ),
        (make_adapter, {"sae": GPT2_SAE}, MismatchError, f"SAE {GPT2_SAE} was trained on another model: .*gpt2, not"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    tmp_path: Path,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    make: Make,
    values: dict[str, Any],
    kind: type[InputError],
    says: str,
) -> None:  # A2.15
    made = tmp_path / "made"
    make(made)
    with pytest.raises(kind, match=says):
        audit(workspace, made, config(**values), auditing=never)
    assert main(words(workspace, made, "-s", values.get("sae", SAE))) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("error: ") == 1
    assert "made" in told or GPT2_SAE in told
    assert not (tmp_path / "ws/audits").exists()
    assert not (made / "was-unpickled").exists()


def never(*_: Any) -> Any:
    raise AssertionError("nothing is measured")


def test_weights_that_are_refused_leave_no_run_that_could_go_on(
    tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    odd_candidates.make_beside_its_scope(tmp_path / "made")
    assert main(words(workspace, tmp_path / "made", "-s", SAE)) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "its adapter_config.json says that this module is not changed" in told
    store = AuditStore(workspace.files)
    assert store.runs() == ()
    # What was begun before stays, whatever is wrong with the next attempt.
    stop = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        audit(workspace, "raylens/pico", run="r", auditing=lambda workspace, plan, _: here(workspace, plan, stop))
    with pytest.raises(InputError, match="says that this module is not changed"):
        audit(workspace, tmp_path / "made", run="r")
    assert [one.place.run for one in store.runs()] == ["r"]


def test_labels_that_nobody_serves_leave_features_unexplained(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    labelled = labelled_sae(tmp_path / "labelled")
    with socket.socket() as taken:  # bound and not listening: whoever asks is turned away at once
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(BASE_URL_VARIABLE, f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv(MODE_VARIABLE, "remote_fallback")
        make_adapter(tmp_path / "tuned")
        asked = config(sae=str(labelled.folder), catalog_file=str(labelled.catalog))
        with caplog.at_level(logging.WARNING, "raylens.labels"):
            done = audit(workspace, tmp_path / "tuned", asked)
    assert "what it did not answer for is asked for again" in caplog.text
    evidence = done.artefacts.interp_evidence
    assert evidence is not None
    assert len(evidence.features) == 10
    assert all(row.explanation is None and row.proxy_explanation is None for row in evidence.features)
    assert (evidence.coverage.n_direct, evidence.coverage.n_proxy, evidence.coverage.n_unanswered) == (0, 0, 10)
    assert evidence.coverage.line.endswith(", not answered for 10/10")
    assert done.decision.verdict == "inconclusive"
    assert evidence.coverage.line in (Path(done.folder) / "report.md").read_text()
