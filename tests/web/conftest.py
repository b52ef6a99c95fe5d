"""Workspaces that pages are tried on: one with features, explanations, scores and labels, and an empty one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from app_here import app_on
from browsed import make_browsed
from browser import browser
from raylens.store.workspace import Workspace
from raylens_app.web.charts import check_charts


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    """A real browser; see :mod:`browser` for where there is none."""
    with browser() as found:
        yield found


@pytest.fixture(autouse=True)
def checked_charts() -> Iterator[None]:
    """Whatever a page draws in this process is checked against Vega-Lite's schema."""
    check_charts(check=True)
    yield
    check_charts(check=False)


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
