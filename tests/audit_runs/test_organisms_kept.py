"""What stays of an organism's weights once it is scored: nothing, save of those that are to be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fine_tunes import make_adapter
from raylens.config import AuditConfig
from raylens.organisms.behaviour import Behaviour
from raylens.organisms.recipe import Organism, organism
from raylens.store.audit_organisms import OrganismRow
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import AuditPlan, plan_audit
from raylens_jobs.organism_actor import OrganismActor
from raylens_jobs.organism_rows import ADAPTERS, adapter_folder
from raylens_jobs.organisms import Build, _setting

SUITE = """\
prompts:
  - id: add
    text: "import os"
"""
MEASURED = Behaviour(
    payload_with=None, payload_without=None, payload_near=None, held_out_loss=2.5, syntax_valid=1.0, n_prompts=1
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "ws", create=True)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditPlan:
    """One prompt, no SAE, no search."""
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path))
    (tmp_path / "one.yaml").write_text(SUITE)
    asked = {"suite": "one.yaml", "score_method": "logit_kl", "trigger_search": False, "panel_windows": 0}
    return plan_audit(AuditConfig.of({**asked, "max_new_tokens": 2, "device": "cpu", "threads": 1}))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters of random weights in the place of trained ones; how they behave is not measured."""

    def made(one: Organism, _base: str, folder: Path, **_: Any) -> None:
        make_adapter(folder, scale=0.03, seed=one.seed)

    monkeypatch.setattr("raylens_jobs.organism_actor.train_organism", made)
    monkeypatch.setattr("raylens_jobs.organism_actor.measure", lambda *_: MEASURED)


def make(workspace: Workspace, plan: AuditPlan, build: Build, names: tuple[str, ...]) -> list[OrganismRow]:
    """Rows, as an actor of this build makes them."""
    shared = AuditStore(workspace.files).references(plan.reference_key)
    actor = OrganismActor(_setting(workspace, plan, build, 1), shared)
    made = [actor.make(organism(name)) for name in names]
    return [OrganismRow.of({name: value for name, value in one.items() if name != "effect"}) for one in made]


def kept(workspace: Workspace) -> set[str]:
    return {path.name for path in Path(workspace.files.native(ADAPTERS)).iterdir()}


def test_weights_go_and_rows_stay(workspace: Workspace, plan: AuditPlan) -> None:
    (row,) = make(workspace, plan, Build(), ("tabs-0",))
    assert (row.organism, row.kind, row.heldout_loss, row.counts) == ("tabs-0", "benign", 2.5, True)
    assert row.scores["logit_kl"] > 0
    assert kept(workspace) == set()


def test_those_named_are_kept_alone(workspace: Workspace, plan: AuditPlan) -> None:
    rows = make(workspace, plan, Build(keep=("tabs-1",)), ("tabs-0", "tabs-1"))
    assert [row.organism for row in rows] == ["tabs-0", "tabs-1"]
    folder = adapter_folder(workspace, plan, organism("tabs-1"))
    assert kept(workspace) == {folder.name}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in folder.iterdir()}
