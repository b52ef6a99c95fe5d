"""A workspace with finished audits, a cache and labels, and ways to call the tools of a server over it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit_runs import store_run
from mcp_calls import Ask, asker, explain
from raylens.labels.explanations import read_explanation
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens_app.mcp.desk import Desk
from small_cache import CACHE_ID, SAE, make_cache

KEPT = NeuronpediaId("gpt2-small", "8-res-jb")
SUITE = """\
name: two
prompts:
  - id: add
    text: "def add(a, b):\\n"
  - id: read
    text: "def read(path):\\n    with open(path) as stream:\\n"
"""


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``workspace`` and ``base``; tests get copies of it."""
    folder = tmp_path_factory.mktemp("mcp")
    workspace = Workspace.open(folder / "workspace", create=True)
    audits = AuditStore(workspace.files)
    audits.create_session("first", {"model": "raylens/pico"})
    store_run(audits, "first", "tuned-1f")
    store_run(audits, "first", "plain", with_sae=False, score=0.041)
    cache = make_cache(workspace)
    explain(cache, SAE, {1: "the second word"})
    with LabelStore(workspace.files) as labels:
        said = read_explanation({"description": "dates", "typeName": "np_acts-logits-general"})
        assert said is not None
        labels.put_explanation(KEPT, 17, said, "export")
    base = folder / "base"
    (base / "tuned").mkdir(parents=True)
    (base / "two.yaml").write_text(SUITE)
    (base / "leads-out").symlink_to("/etc")
    assert CACHE_ID in workspace.caches()
    return folder


@pytest.fixture
def place(made_once: Path, tmp_path: Path) -> Path:
    """A folder of the test's own, as ``made_once``."""
    shutil.copytree(made_once, tmp_path / "place", symlinks=True)
    return tmp_path / "place"


@pytest.fixture
def desk(place: Path) -> Desk:
    workspace = Workspace.open(place / "workspace")
    return Desk(workspace, AuditStore(workspace.files), "mine", place / "base")


@pytest.fixture
def ask(desk: Desk) -> Ask:
    """``ask("get_decision", run="tuned-1f")``: a client's session with a server in this process."""
    return asker(desk)
