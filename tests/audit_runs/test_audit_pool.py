"""Actors that audits share a cluster with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError

from raylens_jobs.audit_pool import InProcess, Nowhere, Piece, RayPool
from raylens_jobs.processes import this_process

N = 12


class Worker:
    """Answers as :class:`raylens_jobs.audit_actor.AuditActor` does."""

    def process(self) -> str:
        return this_process()

    def square(self, n: int) -> int:
        return n * n

    def total(self, *numbers: int) -> int:
        return sum(numbers) + 1


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
        pool.run([Piece.of(kept, str(n), "square", n) for n in range(N)], lambda: told.append(name))
        assert [kept.get_part(str(n)) for n in range(N)] == [str(n * n).encode() for n in range(N)]
        assert pool.ask("square", 5) == 25
        pool.release()

    with ThreadPoolExecutor(2) as drivers:
        for ended in [drivers.submit(drive, "a", [first, second]), drivers.submit(drive, "b", [third, fourth])]:
            ended.result(timeout=110)
    assert sorted(told) == ["a"] * N + ["b"] * N


def sums(needs: Sequence[set[int]], kept: Nowhere) -> list[Piece]:
    """Piece ``n`` is one more than the sum of those before it that ``needs[n]`` names."""
    made: list[Piece] = []
    for n, those in enumerate(needs):
        before = tuple(made[at] for at in sorted(those))
        made.append(Piece(kept, str(n), "total", lambda before=before: tuple(map(number, before)), before))
    return made


def number(piece: Piece) -> int:
    assert piece.answer is not None, "what it needs is done first"
    return json.loads(piece.answer)


def expected(needs: Sequence[set[int]]) -> list[int]:
    found: list[int] = []
    for those in needs:
        found.append(1 + sum(found[at] for at in those))
    return found


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[set[int]], list[int]]:
    """Which pieces each needs, of those before it, and an order in which they are handed over."""
    n = draw(st.integers(1, 10))
    needs = [draw(st.sets(st.integers(0, at - 1), max_size=3)) if at else set[int]() for at in range(n)]
    return needs, draw(st.permutations(range(n)))


@given(graphs())
def test_a_piece_waits_for_those_it_needs(graph: tuple[list[set[int]], list[int]]) -> None:
    needs, order = graph
    pieces, worker, told = sums(needs, Nowhere()), Worker(), list[int]()
    InProcess(cast(Any, worker)).run([pieces[at] for at in order], lambda: told.append(1))
    assert [number(piece) for piece in pieces] == expected(needs)
    assert len(told) == len(pieces)


@pytest.mark.timeout(120)
def test_actors_wait_for_what_a_piece_needs(ray_cluster: None) -> None:
    """What others need is handed over last, and one was done before."""
    needs = [set[int](), {0}, {0}, {1, 2}, {3}, set[int](), {4, 5}, {2, 6}]
    pieces, pool = sums(needs, Nowhere()), RayPool(actors(Worker, 2))
    pool.run(pieces[:1], lambda: None)
    pool.run(pieces[:0:-1], lambda: None)
    assert [number(piece) for piece in pieces] == expected(needs)
    pool.release()


@pytest.mark.timeout(120)
def test_one_that_does_not_come_up_says_why(ray_cluster: None) -> None:
    pool = RayPool(actors(Broken, 1))
    with pytest.raises(RayActorError, match="no weights"):
        pool.run([Piece.of(Nowhere(), "1", "square", 1)], lambda: None)
