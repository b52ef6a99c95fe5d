"""One set of real services for all tests of this folder; it ends with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from live_services import Live, live_services
from raylens.bundle.paths import model_path


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Real services: pico with its SAEs, and pico as the explainer."""
    pico = model_path("raylens/pico")
    config = {"explainer": {"model": str(pico), "threads": 1}}
    with live_services(tmp_path_factory.mktemp("services"), config) as services:
        yield services


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace that is not there yet."""
    return tmp_path / "workspace"
