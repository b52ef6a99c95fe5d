"""Routes of features over a workspace of two SAEs, one of them served."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from browsed import Ask, asking, encoder_here, make_browsed
from raylens.catalog.lookup import built_in
from raylens.store.workspace import Workspace
from raylens_serve.routes.features import feature_routes


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_browsed(tmp_path_factory.mktemp("browsed") / "workspace").url)


@pytest.fixture(scope="module")
def workspace(made_once: Path) -> Workspace:
    """That nobody changes."""
    return Workspace.open(made_once)


@pytest.fixture(scope="module")
def ask(workspace: Workspace) -> Iterator[Ask]:
    with asking(feature_routes(workspace, built_in(), encoder_here(workspace)), "/api/v1") as found:
        yield found


@pytest.fixture
def own(made_once: Path, tmp_path: Path) -> Workspace:
    """One of the test's own."""
    shutil.copytree(made_once, tmp_path / "own")
    return Workspace.open(tmp_path / "own")


@pytest.fixture
def asking_of() -> Iterator[Callable[[Workspace], Ask]]:
    """Routes without an encoder."""
    with ExitStack() as stack:
        yield lambda workspace: stack.enter_context(asking(feature_routes(workspace, built_in(), None), "/api/v1"))
