"""A build of organisms on several workers: it is stopped between two, goes on from there, and makes nothing twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from raylens.config import AuditConfig
from raylens.errors import StoppedError
from raylens.organisms.recipe import Organism, row_spec
from raylens.store.audit_organisms import OrganismRow, Organisms
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import AuditPlan, plan_audit
from raylens_jobs.organism_estimate import estimate
from raylens_jobs.organisms import Build, build_organisms, missing
from raylens_jobs.workers import Workers, choose_workers, workers_here

BUILD = Build(kinds=("benign",), halves=("held_out",), families=("tabs", "header"), members=3)


class Maker:
    """Answers as :class:`raylens_jobs.organism_actor.OrganismActor` does, at once, and writes down what it made."""

    def __init__(self, setting: tuple[str, str, str | None], shared: object) -> None:
        folder, self._scoring, self._revision = setting
        self._log = Path(folder) / f"made-by-{os.getpid()}"
        self._log.parent.mkdir(parents=True, exist_ok=True)

    def make(self, one: Organism, known: OrganismRow | None = None) -> dict[str, Any]:
        with self._log.open("a") as log:
            log.write(f"{one.id}\n")
        return {
            "organism": one.id,
            "family": one.family,
            "kind": one.kind,
            "split": one.half,
            "model": "raylens/pico",
            "revision": self._revision,
            "spec": row_spec(one, self._scoring),
            "counts": True,
            "scores": {"logit_kl": 1.0},
            "effect": None,
        }


def setting(workspace: Workspace, plan: AuditPlan, *_: object) -> tuple[str, str, str | None]:
    """All that a :class:`Maker` needs: what actors are given else takes them long to import."""
    return str(workspace.files.native("organisms")), plan.scoring, plan.reference.revision


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "ws", create=True)


@pytest.fixture(scope="module", autouse=True)
def sent_whole() -> Iterator[None]:
    """Actors get :class:`Maker` itself, and need not import this module for it."""
    here = sys.modules[Maker.__module__]
    cloudpickle.register_pickle_by_value(here)
    yield
    cloudpickle.unregister_pickle_by_value(here)


@pytest.fixture(autouse=True)
def makers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylens_jobs.organisms.OrganismActor", Maker)
    monkeypatch.setattr("raylens_jobs.organisms._setting", setting)


@pytest.fixture(scope="module")
def plan() -> AuditPlan:
    """Without an SAE, whose effects would be kept beside each row."""
    asked = {"score_method": "logit_kl", "trigger_search": False, "panel_windows": 0, "workers": 2, "threads": 1}
    return plan_audit(AuditConfig.of(asked))


def made_by(workspace: Workspace) -> dict[str, list[str]]:
    """What each worker made, so far."""
    logs = Path(workspace.files.native("organisms")).glob("made-by-*")
    return {path.name: path.read_text().split() for path in logs}


def test_two_workers_stop_and_go_on(
    workspace: Workspace, plan: AuditPlan, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, str]] = []
    wanted = [one.id for one in missing(workspace, plan, BUILD)]
    assert len(wanted) == 6
    with RunJournal.start(workspace.files, "organisms", {}) as journal:
        # Asked to stop while the first is made; the next heartbeat, which would say so, is seconds away.
        monkeypatch.setattr(journal, "stop_requested", lambda: True)
        with pytest.raises(StoppedError, match="stopped after 1 of 6 organisms"):
            build_organisms(workspace, plan, BUILD, journal, lambda *done: told.append(done))
    (kept,) = Organisms(workspace.files).read()
    assert told == [(0, 6, ""), (1, 6, kept.organism)]
    assert kept.organism in wanted[:2]  # each worker had one
    stopped = made_by(workspace)

    left = [one for one in wanted if one != kept.organism]
    assert [one.id for one in missing(workspace, plan, BUILD)] == left
    with RunJournal.start(workspace.files, "organisms", {}) as journal:
        figures = build_organisms(workspace, plan, BUILD, journal)
        assert dict(journal.record.progress) == {"done": 6, "total": 6}
    assert (figures["organisms"], figures["made"], figures["counting"]) == (6, 5, 6)
    rows = Organisms(workspace.files).read()
    assert sorted(row.organism for row in rows) == sorted(wanted)
    assert kept in rows  # as it was
    made = {name: ids for name, ids in made_by(workspace).items() if name not in stopped}
    assert sorted(one for ids in made.values() for one in ids) == sorted(left)
    assert len(made) == 2  # both worked

    with RunJournal.start(workspace.files, "organisms", {}) as journal:
        assert build_organisms(workspace, plan, BUILD, journal)["made"] == 0


@pytest.mark.parametrize("values", [{}, {"workers": 1}, {"workers": 9}, {"threads": 1}, {"threads": 9, "workers": 1}])
def test_workers_are_foretold(values: dict[str, int], ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylens_jobs.workers.available_cpus", lambda: 2)
    config = AuditConfig.of({**values, "num_gpus": 0})
    assert workers_here(config) == choose_workers(config)


def test_no_more_workers_are_reckoned_with_than_there_are_organisms(plan: AuditPlan) -> None:
    one, two = (estimate(plan, BUILD.organisms()[:n], Workers(8, 1, 0)) for n in (1, 2))
    assert 0.3 < two["seconds"] / one["seconds"] < 3  # each by a worker of its own
    assert two["operations"] > 1.3 * one["operations"]
