"""Workspaces that pages are tried on: one with features, explanations, scores and labels, and an empty one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app_here import app_on
from browsed import make_browsed
from raylens.store.workspace import Workspace


@pytest.fixture
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = make_browsed(tmp_path_factory.mktemp("browsed"))
    with app_on(workspace.url):
        yield workspace


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = Workspace.open(tmp_path_factory.mktemp("empty"), create=True)
    with app_on(workspace.url):
        yield workspace
