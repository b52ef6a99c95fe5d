"""Actors that audits share a cluster with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from raylens_jobs.audit_pool import Nowhere, Piece, RayPool
from raylens_jobs.workers import this_process

N = 12


class Worker:
    """Answers as :class:`raylens_jobs.audit_actor.AuditActor` does."""

    def process(self) -> str:
        return this_process()

    def square(self, n: int) -> int:
        return n * n


class Broken(Worker):
    def __init__(self) -> None:
        raise ValueError("no weights")


def actors(kind: type, n: int) -> list[Any]:
    remote: Any = ray.remote(kind)
    return [remote.options(num_cpus=1).remote() for _ in range(n)]


@pytest.mark.timeout(120)
def test_two_drivers_that_want_every_core_both_end(ray_cluster: None) -> None:
    """Each has an actor on one of two cores, and one that waits for the other's core.

    Were a piece given to the one that waits, each driver would wait for the end of the other.
    """
    first, third, second, fourth = actors(Worker, 4)
    told: list[str] = []

    def drive(name: str, mine: list[Any]) -> None:
        pool, kept = RayPool(mine), Nowhere()
        pool.run([Piece(kept, str(n), "square", (n,)) for n in range(N)], lambda: told.append(name))
        assert [kept.get_part(str(n)) for n in range(N)] == [str(n * n).encode() for n in range(N)]
        assert pool.ask("square", 5) == 25
        pool.release()

    with ThreadPoolExecutor(2) as drivers:
        for ended in [drivers.submit(drive, "a", [first, second]), drivers.submit(drive, "b", [third, fourth])]:
            ended.result(timeout=110)
    assert sorted(told) == ["a"] * N + ["b"] * N


@pytest.mark.timeout(120)
def test_one_that_does_not_come_up_says_why(ray_cluster: None) -> None:
    pool = RayPool(actors(Broken, 1))
    with pytest.raises(RayActorError, match="no weights"):
        pool.run([Piece(Nowhere(), "1", "square", (1,))], lambda: None)
