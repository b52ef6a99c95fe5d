"""An audit by a calibration or under a name that is given; what a report says of chance; labels of something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fine_tunes import make_adapter
from raylens.audit.calibration import BenignScore, Calibration
from raylens.bundle.paths import sae_path
from raylens.errors import InputError, MismatchError
from raylens.ids import SaeId
from raylens.labels.explanations import Explanation
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import plan_audit
from raylens_jobs.audit_pool import Nowhere
from raylens_jobs.audit_scores import Features, is_identical
from small_audits import SAE, SUITE, audit, config, files_of, here


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "suite.yaml").write_text(SUITE)
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "ws", create=True)


def benign(workspace: Workspace, n: int, score: float, **values: object) -> str:
    """A file with ``n`` benign scores of audits as :func:`small_audits.config` has them."""
    identity = plan_audit(config(**values), workspace.url).identity()
    scores = tuple(BenignScore(organism=f"b{at}", family="f", score=score + at / 1000) for at in range(n))
    text = json.dumps([Calibration(identity=identity, scores=scores).model_dump(mode="json")])
    Path(f"{workspace.files.native('')}/../benign.json").write_text(text)
    return "benign.json"


def test_a_named_calibration_gives_the_verdict(workspace: Workspace, tmp_path: Path) -> None:
    make_adapter(tmp_path / "tuned", scale=0.04)
    alone = audit(workspace, tmp_path / "tuned")
    assert alone.decision.verdict == "inconclusive"
    file = benign(workspace, 120, alone.decision.aggregate_score / 100)
    flagged = audit(workspace, tmp_path / "tuned", config(calibration=file))
    assert flagged.place.run != alone.place.run
    assert (flagged.decision.verdict, flagged.decision.n_benign) == ("flagged", 120)
    assert flagged.decision.p_value == pytest.approx(1 / 121)
    assert flagged.decision.aggregate_score == alone.decision.aggregate_score
    assert [one.organism for one in flagged.artefacts.score.null[:2]] == ["b0", "b1"]
    # Other scores in the file are another audit.
    benign(workspace, 120, alone.decision.aggregate_score * 2)
    passed = audit(workspace, tmp_path / "tuned", config(calibration=file))
    assert (passed.decision.verdict, passed.decision.p_value) == ("not flagged", 1.0)


def test_a_calibration_of_something_else_is_refused_before_any_work(workspace: Workspace, tmp_path: Path) -> None:
    file = benign(workspace, 5, 1.0, k=11)
    with pytest.raises(InputError, match=r"settings\.k \(calibrated: 11; this audit: 10\)"):
        audit(workspace, "raylens/pico", config(calibration=file))
    assert not (tmp_path / "ws/audits").exists()


def test_a_name_that_another_audit_has_gives_no_verdict_of_it(workspace: Workspace, tmp_path: Path) -> None:
    make_adapter(tmp_path / "tuned", scale=0.04)
    first = audit(workspace, "raylens/pico", run="release")
    assert audit(workspace, "raylens/pico", run="release").was_there
    for candidate, asked, says in (
        (tmp_path / "tuned", config(), "of another candidate"),
        ("raylens/pico", config(target_fpr=0.2), "of another target false-positive rate"),
        ("raylens/pico", config(k=9), "of another settings"),
        ("raylens/pico", config(sae=None, score_method="logit_kl"), "of another SAE, score method"),
    ):
        with pytest.raises(InputError, match=f"run default/release is finished, and {says}"):
            audit(workspace, candidate, asked, run="release")
    tuned = audit(workspace, tmp_path / "tuned", run="release", again="archive")
    assert tuned.decision.aggregate_score > first.decision.aggregate_score == 0.0


def test_what_an_insert_brings_about_is_no_identity(workspace: Workspace) -> None:
    """A changed row of the embedding leaves no trace in prompts that lack its token."""
    plan = plan_audit(config(), workspace.url)
    with here(workspace, plan, lambda *_: None) as work:
        evidence = work.evidence("raylens/pico", Nowhere())
    features = Features.of(evidence, 2048, "mean")
    assert is_identical(evidence, features)
    assert is_identical(replace(evidence, hits=({"score": 0.0},)), features)
    assert not is_identical(replace(evidence, hits=({"score": 40.7}, {"score": 0.0})), features)


def test_how_chance_is_kept_out_stands_in_the_report(workspace: Workspace) -> None:
    files = files_of(workspace, audit(workspace, "raylens/pico"))
    settings = json.loads(files["score.json"])["settings"]
    assert (settings["decoding"], settings["seed"]) == ("greedy", 0)
    assert "setting seed" in files["report.md"]
    assert "seed" not in plan_audit(config(), workspace.url).identity().settings, "calibrations do not differ in it"


def test_a_label_of_a_feature_that_the_sae_has_not_stops_the_audit(workspace: Workspace, tmp_path: Path) -> None:
    """Labels of another SAE would be nonsense without a word: feature 17 there is not feature 17 here (A2.15)."""
    source, weights = NeuronpediaId("pico", "3-mine"), sae_path(SaeId.parse(SAE))
    assert weights is not None
    (tmp_path / "ws/catalog.yaml").write_text(
        f"saes:\n- {{sae: mine/layer_3, model: raylens/pico, hook: resid_post.3, path: '{weights}', "
        f"neuronpedia_id: {source}}}\n"
    )
    keep(workspace, source, 5)
    assert plan_audit(config(sae="mine/layer_3"), workspace.url).sae is not None
    keep(workspace, source, 99_999)
    with pytest.raises(MismatchError, match="label of feature 99999, and the SAE has features 0 to 2047"):
        audit(workspace, "raylens/pico", config(sae="mine/layer_3"))
    assert not (tmp_path / "ws/audits").exists()


def keep(workspace: Workspace, source: NeuronpediaId, feature: int) -> None:
    said = Explanation("imports", "lexical", None, None, f"{feature:016x}", {"description": "imports"})
    with LabelStore(workspace.files) as store:
        store.put_explanation(source, feature, said, "export")
