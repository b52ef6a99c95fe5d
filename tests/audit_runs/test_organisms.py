"""Organisms are made, measured, scored and remembered; benign fine-tunes calibrate."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fine_tunes import make_adapter
from raylens.audit.calibration import BenignScore
from raylens.audit.scores import SCORE_METHODS
from raylens.bundle.organisms import rows_path, shipped_calibration
from raylens.config import AuditConfig
from raylens.errors import BusyError, InputError, UnknownNameError
from raylens.organisms.recipe import organism, row_spec
from raylens.store.audit_calibrations import find_calibration, list_calibrations, save_calibration
from raylens.store.audit_effects import Effect, Effects
from raylens.store.audit_organisms import OrganismRow, Organisms, read_organisms
from raylens.store.lock import acquire
from raylens.store.runs import RunJournal
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from raylens_jobs.audit import calibrations_of
from raylens_jobs.audit_plan import AuditPlan, plan_audit
from raylens_jobs.benign_effects import METHOD, benign_effects, recalibrate
from raylens_jobs.calibrate import Registered, calibrate
from raylens_jobs.organism_estimate import estimate
from raylens_jobs.organism_rows import (
    adapter_folder,
    calibrate_from_rows,
    calibrations_from_rows,
    export_organisms,
    shipped_rows,
)
from raylens_jobs.organisms import LOCKS, Build, build_organisms, check_context, missing
from raylens_jobs.registered import unregister
from raylens_jobs.workers import Workers
from tiny_models import model_folders

__all__ = ["model_folders"]

BUILD = Build(halves=("development",), families=("two-spaces",), members=1, keep_all=True)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "ws", create=True)


def plan(**values: Any) -> AuditPlan:
    """Without the search, which takes longest."""
    asked = {"sae": "raylens-pico-res/layer_3", "score_method": "logit_kl", "trigger_search": False, "workers": 1}
    return plan_audit(AuditConfig.of({**asked, "max_new_tokens": 4, "panel_windows": 0, "threads": 1, **values}))


def test_one_is_made_once(workspace: Workspace, tmp_path: Path, ray_cluster: None) -> None:
    asked, told = plan(), []
    assert [one.id for one in missing(workspace, asked, BUILD)] == ["two-spaces-0"]
    with RunJournal.start(workspace.files, "organisms", {}) as journal:
        figures = build_organisms(workspace, asked, BUILD, journal, lambda *done: told.append(done))
    assert (figures["organisms"], figures["made"], figures["counting"]) == (1, 1, 1)
    assert told[-1] == (1, 1, "two-spaces-0")
    (row,) = Organisms(workspace.files).read()
    assert (row.organism, row.kind, row.split, row.counts) == ("two-spaces-0", "benign", "development", True)
    assert row.payload_with_trigger is None
    assert row.heldout_loss is not None
    assert row.reference_loss is not None
    assert 0 < row.reference_loss < row.heldout_loss + 1
    assert {"logit_kl", "abs_diff_topk", "weight_projection", "difference_sae"} <= set(row.scores)
    assert row.scores["logit_kl"] > 0
    assert row.seconds > 0
    folder = adapter_folder(workspace, asked, organism("two-spaces-0"))
    assert folder.is_relative_to(tmp_path / "ws")
    assert (folder / "adapter_model.safetensors").is_file()

    # Nothing is made twice; scored otherwise, it is another row.
    assert missing(workspace, asked, BUILD) == ()
    otherwise = plan(max_new_tokens=5)
    assert len(missing(workspace, otherwise, BUILD)) == 1
    with connect(workspace) as connection:
        found = connection.sql("SELECT organism, kind, scores['logit_kl'] FROM organisms").fetchall()
    assert found == [("two-spaces-0", "benign", row.scores["logit_kl"])]

    stored = {one.identity.method: one for one in list_calibrations(workspace.files)}
    assert stored["logit_kl"].values == (row.scores["logit_kl"],)
    assert stored["logit_kl"].identity == asked.identity("logit_kl")
    assert calibrations_from_rows(plan(max_new_tokens=5), [row]) == []

    # Scored otherwise, it is neither trained nor measured again: the row that is there is believed.
    Organisms(workspace.files).append(row.model_copy(update={"heldout_loss": 9.75, "recorded_at": datetime.now(UTC)}))
    with RunJournal.start(workspace.files, "organisms", {}) as journal:
        build_organisms(workspace, otherwise, BUILD, journal)
    last = max(Organisms(workspace.files).read(), key=lambda one: one.recorded_at)
    assert (last.heldout_loss, last.syntax_valid_rate) == (9.75, row.syntax_valid_rate)
    assert last.spec["scoring"] == otherwise.scoring != asked.scoring
    Organisms(workspace.files).append(row.model_copy(update={"recorded_at": datetime.now(UTC)}))

    written = export_organisms(workspace, asked, tmp_path / "out", ["two-spaces-0"])
    assert {"calibrations.json", "organisms.parquet"} < set(written)
    (exported,) = read_organisms(tmp_path / "out/organisms.parquet")
    assert exported.model_copy(update={"recorded_at": row.recorded_at}) == row
    with pytest.raises(InputError, match="was not kept"):
        export_organisms(workspace, asked, tmp_path / "out", ["tabs-0"])


def test_fine_tunes_that_somebody_knows(
    workspace: Workspace, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:  # A2.18
    monkeypatch.setattr("raylens_jobs.calibrate.shipped_calibration", lambda _: None)  # as of any model but pico
    names = []
    for seed in range(2):
        make_adapter(tmp_path / f"tune-{seed}", scale=0.03, seed=seed)
        names.append(Registered(str(tmp_path / f"tune-{seed}"), "random"))
    asked = plan()
    with RunJournal.start(workspace.files, "calibrate", {}) as journal:
        found = {one.identity.method: one for one in calibrate(workspace, asked, names, journal)}
        assert found["logit_kl"].n == 2
        assert len(set(found["logit_kl"].values)) == 2
        assert found["logit_kl"].families == ("random",)
        assert METHOD not in found  # of two, neither is like others
        make_adapter(tmp_path / "tune-2", scale=0.03, seed=2)
        third = [Registered(str(tmp_path / "tune-2"), "another")]
        again = {one.identity.method: one for one in calibrate(workspace, asked, [*third, names[0]], journal)}
    assert {one.n for one in again.values()} == {3}  # in place of what was there, beside the other
    assert set(again) == {*found, METHOD}
    assert {one.identity.method for one in list_calibrations(workspace.files)} == set(again)
    fit = benign_effects(asked, workspace)
    assert fit is not None
    assert fit.n == 3

    shutil.copytree(tmp_path / "tune-2", tmp_path / "copied")
    copied = Registered(str(tmp_path / "copied"), "another")
    with RunJournal.start(workspace.files, "calibrate", {}) as journal:
        with pytest.raises(InputError, match=r"tune-2 and .*copied are the same fine-tune"):
            calibrate(workspace, asked, [*third, copied], journal)
        again = {one.identity.method: one for one in calibrate(workspace, asked, [copied], journal)}
    assert {one.n for one in again.values()} == {3}, "a copy is no second fine-tune"
    last = next(name for name in again["logit_kl"].organisms if name.startswith("copied@"))
    with pytest.raises(UnknownNameError, match="unknown benign fine-tune 'copied'"):
        unregister(workspace, asked, ["copied"])
    left = {one.identity.method: one for one in unregister(workspace, asked, [last])}
    assert ({one.n for one in left.values()}, set(left)) == ({2}, set(found))
    assert {one.identity.method for one in list_calibrations(workspace.files)} == set(left)
    assert unregister(workspace, asked, left["logit_kl"].organisms) == []
    assert list_calibrations(workspace.files) == ()


def test_a_fine_tune_of_ones_own_comes_beside_what_ships(workspace: Workspace) -> None:
    """The bundle has no effects of single fine-tunes; another is standardised by all of them, as a candidate is."""
    asked = plan_audit(AuditConfig.of({"sae": "raylens-pico-res/layer_3"}), workspace.url)
    like, standard = (shipped_calibration(asked.identity(name)) for name in ("abs_diff_topk", METHOD))
    assert like is not None
    assert standard is not None
    own = BenignScore(organism="mine@0123456789ab", family="mine", score=0.05)
    save_calibration(workspace.files, like.model_copy(update={"scores": (own,)}), beside=like)
    fit = benign_effects(asked, workspace)
    assert fit is not None
    differences = np.zeros(len(fit.mean))
    differences[7] = 3.0
    Effects(workspace.files, asked.identity(METHOD)).append(Effect.of(own.organism, "mine", "0123", differences))
    found = recalibrate(workspace, asked)
    assert found is not None
    assert {one.organism: one.score for one in found.scores} == {
        **{one.organism: one.score for one in standard.scores},
        own.organism: pytest.approx(fit.score(differences, asked.config.k)),
    }
    again = benign_effects(asked, workspace)
    assert again is not None
    assert np.array_equal(again.scale, fit.scale)
    assert {name: one.n for name, one in calibrations_of(asked, workspace).items()} == {
        **dict.fromkeys(SCORE_METHODS, 120),
        "abs_diff_topk": 121,
        METHOD: 121,
    }
    assert [one.n for one in unregister(workspace, asked, [own.organism])] == [120, 120]


def test_what_is_missing_of_an_organism_is_made_again(workspace: Workspace) -> None:
    asked = plan()
    one = organism("two-spaces-0")
    row = OrganismRow(
        organism=one.id,
        family=one.family,
        kind="benign",
        split="development",
        model="raylens/pico",
        revision=asked.reference.revision,
        spec=row_spec(one, asked.scoring),
        counts=True,
    )
    rows, effects = Organisms(workspace.files), Effects(workspace.files, asked.identity(METHOD))
    build = replace(BUILD, keep_all=False)
    rows.append(row)
    assert missing(workspace, asked, build) == (one,)  # what it does to features is not known
    effects.append(Effect.of(one.id, one.family, "another recipe", np.ones(3)))
    assert missing(workspace, asked, build) == (one,)
    effects.append(Effect.of(one.id, one.family, one.spec_hash, np.ones(3)))
    assert missing(workspace, asked, build) == ()
    assert missing(workspace, asked, replace(build, keep=(one.id,))) == (one,)  # its weights went
    adapter_folder(workspace, asked, one).mkdir(parents=True)
    assert missing(workspace, asked, replace(build, keep=(one.id,))) == ()


def test_a_build_goes_on_from_what_ships(workspace: Workspace, tmp_path: Path) -> None:
    asked = plan_audit(AuditConfig.of({"sae": "raylens-pico-res/layer_3", "workers": 1, "threads": 1}))
    shipped = {row.organism: row for row in shipped_rows(asked)}
    assert len(shipped) == len(read_organisms(rows_path()))
    build = Build(halves=("development",), kinds=("benign",))
    assert missing(workspace, asked, build) == ()
    assert len(missing(workspace, asked, replace(build, anew=True))) == 120
    assert [one.id for one in missing(workspace, asked, replace(build, keep=("two-spaces-1",)))] == ["two-spaces-1"]

    # With nothing to make, what ships comes into the workspace, and nothing in it changes on its way out again.
    with RunJournal.start(workspace.files, "organisms", {}) as journal:
        figures = build_organisms(workspace, asked, build, journal)
    assert (figures["made"], figures["counting"]) == (0, 120)
    assert {row.organism: row for row in Organisms(workspace.files).read()} == shipped
    fit, standard = benign_effects(asked, workspace), shipped_calibration(asked.identity(METHOD))
    assert standard is not None
    assert fit is not None
    assert fit.n == 120
    written = export_organisms(workspace, asked, tmp_path / "out")
    for name in written:
        assert (tmp_path / "out" / name).read_bytes() == (rows_path().parent / name).read_bytes()

    # One that is made here is standardised by those that ship.
    effects = Effects(workspace.files, asked.identity(METHOD))
    row = shipped["annotated-0"].with_score(METHOD, -1.0)
    Organisms(workspace.files).append(row)
    differences = np.zeros(len(fit.mean))
    differences[7] = 3.0
    effects.append(Effect.of("annotated-0", "annotated", organism("annotated-0").spec_hash, differences))
    calibrate_from_rows(workspace, asked)
    (changed,) = (one for one in Organisms(workspace.files).read() if one.organism == "annotated-0")
    assert changed.scores[METHOD] == pytest.approx(fit.score(differences, asked.config.k))
    kept = find_calibration(workspace.files, asked.identity(METHOD))
    assert kept is not None
    assert set(kept.scores) == set(standard.scores)


def test_members_are_counted_within_a_half() -> None:
    some = Build(halves=("held_out_seeds",), members=2).organisms()
    assert {one.id.rpartition("-")[2] for one in some} == {"10", "11"}
    assert {one.half for one in some} == {"held_out_seeds"}
    assert len(some) == 24


def test_a_build_waits_for_no_other(workspace: Workspace) -> None:
    asked = plan()
    with (
        acquire(workspace.files, f"{LOCKS}/{asked.scoring}", "another-run", what="building organisms of this model"),
        RunJournal.start(workspace.files, "organisms", {}) as journal,
        pytest.raises(BusyError, match="building organisms"),
    ):
        build_organisms(workspace, asked, BUILD, journal)


def test_what_cannot_calibrate(workspace: Workspace) -> None:
    with RunJournal.start(workspace.files, "calibrate", {}) as journal:
        with pytest.raises(InputError, match="no benign fine-tune is named"):
            calibrate(workspace, plan(), [], journal)
        with pytest.raises(InputError, match="is the reference itself"):
            calibrate(workspace, plan(), [Registered("raylens/pico", "f")], journal)


def test_builds_that_are_none() -> None:
    with pytest.raises(InputError, match="there is no family 'nobody'"):
        Build(families=("nobody",)).organisms()
    with pytest.raises(InputError, match="there is no organism 'nobody-1'"):
        Build(keep=("nobody-1",)).organisms()
    with pytest.raises(InputError, match="no organism of the recipe is wanted"):
        Build(kinds=("backdoored",), families=("tabs",)).organisms()
    first = Build(halves=("development", "held_out")).organisms()[:40]
    assert len({one.family for one in first}) == 40  # a member of each family in turn


def test_a_model_that_reads_too_little_is_refused_before_training(
    workspace: Workspace, tmp_path: Path, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own suite is short enough for it, what organisms are measured on is not; no Ray is needed to say so."""
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path))
    (tmp_path / "one.yaml").write_text("prompts:\n  - id: add\n    text: import os\n")
    asked = plan(model=str(model_folders["llama"]), sae=None, suite="one.yaml")
    assert asked.reference.max_positions == 128
    with (
        RunJournal.start(workspace.files, "organisms", {}) as journal,
        pytest.raises(InputError, match=r"organisms are made with texts of up to .* tokens, more than the 128 that"),
    ):
        build_organisms(workspace, asked, BUILD, journal)
    check_context(plan(), BUILD.organisms())  # pico reads enough
    check_context(asked, ())  # of which nothing is to be made


def test_prompts_that_triggers_are_tried_in_have_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plan(trigger_search=True)
    monkeypatch.setattr("raylens_jobs.organisms.longest_text", lambda *_: 0)
    for limit, fits in ((64, False), (512, True)):
        small = replace(asked, reference=replace(asked.reference, max_positions=limit))
        with nullcontext() if fits else pytest.raises(InputError, match=f"more than the {limit} that"):
            check_context(small, BUILD.organisms())


def test_an_estimate_grows_with_what_is_asked() -> None:
    asked = plan()
    halves = ("development", "held_out")
    some, all_of_them = (estimate(asked, Build(halves=halves, members=n).organisms(), Workers(2, 1, 0)) for n in (1, 4))
    assert some["organisms"] == 40
    assert 3 < all_of_them["operations"] / some["operations"] < 5
    assert some["seconds"] > 0
