"""Fixtures every room shares: one local Ray for the whole session, no network, one thread a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

import side_by_side
from shared_ray import SHARED

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    NO_COLOR="1",
)
# What a command prints into a pipe is not cut; pytest-xdist sets this for its workers.
os.environ.pop("COLUMNS", None)

# A busy machine is no failure: examples have no deadline, the whole test has.
settings.register_profile("raylens", deadline=None)
settings.load_profile("raylens")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    side_by_side.refuse_twins(items)
    items.sort(key=lambda one: side_by_side.turn(one.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return side_by_side.scheduler(config, log)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real local Ray with two CPUs, started once."""
    SHARED.start()
    yield
    SHARED.stop()


@pytest.fixture(scope="module", autouse=True)
def ray_as_new(request: pytest.FixtureRequest) -> Iterator[None]:
    """No module pays for what another left running."""
    yield
    SHARED.recover(request.node.nodeid)
