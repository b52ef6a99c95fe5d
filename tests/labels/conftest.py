"""An environment without keys and proxies, a server a test, and an empty workspace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_llm import FakeLlm
from neuronpedia import HandClock, Remote
from raylens.labels.label_store import LabelStore
from raylens.store.workspace import Workspace

_OWN = ("RAYLENS_API_TOKEN", "RAYLENS_NEURONPEDIA_ENABLED")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("NEURONPEDIA_") or name in _OWN:
            monkeypatch.delenv(name)


@pytest.fixture
def remote() -> Iterator[Remote]:
    with FakeLlm() as server:
        found = Remote(server)
        server.respond = found.respond
        yield found


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace", create=True)


@pytest.fixture
def store(workspace: Workspace) -> Iterator[LabelStore]:
    with LabelStore(workspace.files) as opened:
        yield opened
