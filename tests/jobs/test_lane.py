"""Batches on their way through a language model: how many at a time, and how they come to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raylens.chat import Message, Reply, Request
from raylens.errors import RunError
from raylens.llm.errors import BudgetReached, EndpointUnavailableError
from raylens.llm.spend import Usage
from raylens_jobs.lane import Closed, Gone, Patient, ahead, all_of, in_own_loop, run_lane
from raylens_jobs.passes import batches


class Slow:
    """An asker that takes a moment; ``fails`` are the questions that end in an error."""

    def __init__(self, fails: dict[str, Exception] | None = None) -> None:
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.most = 0
        self._busy = 0
        self._fails = fails or {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def ask(self, request: Request) -> Reply:
        text = request.messages[0].content
        self.asked.append(text)
        self._busy += 1
        self.most = max(self.most, self._busy)
        await asyncio.sleep(0.002)
        self._busy -= 1
        if text in self._fails:
            raise self._fails[text]
        self.answered.append(text)
        return Reply(text)

    async def forget(self, request: Request) -> None: ...

    async def losses(self, context: str, text: str) -> NDArray[np.float64]:
        return np.zeros(len(text))

    @property
    def usage(self) -> Usage:
        return Usage(calls=len(self.asked))


def question(feature: int) -> Request:
    return Request((Message("user", str(feature)),))


class Run:
    """One run over features ``0 … n - 1`` that remembers what was kept."""

    def __init__(self, asker: Slow, concurrency: int = 4, stop_after: int | None = None) -> None:
        self.patient = Patient(asker, concurrency)
        self.kept: list[int] = []
        self.told: list[int] = []
        self._stop_after = stop_after

    async def _ask(self, batch: Sequence[int]) -> list[Reply]:
        return await all_of(self.patient.ask(question(feature)) for feature in batch)

    async def _keep(self, batch: Sequence[int], replies: list[Reply]) -> int:
        assert [reply.text for reply in replies] == [str(feature) for feature in batch]
        await asyncio.sleep(0.001)
        self.kept += batch
        return len(batch)

    def _watch(self, settled: int) -> bool:
        self.told.append(settled)
        return self._stop_after is not None and settled >= self._stop_after

    def over(self, n: int, size: int = 3, open_at_once: int = 4) -> None:
        work = run_lane(batches(range(n), size), self._ask, self._keep, self._watch, self.patient, open_at_once)
        asyncio.run(work)


@given(st.integers(0, 40), st.integers(1, 7), st.integers(1, 5), st.integers(1, 5))
def test_every_feature_is_asked_about_once_and_kept(n: int, size: int, open_at_once: int, concurrency: int) -> None:
    asker = Slow()
    run = Run(asker, concurrency)
    run.over(n, size, open_at_once)
    assert sorted(run.kept) == list(range(n))
    assert sorted(map(int, asker.asked)) == list(range(n))
    assert asker.most <= min(2 * concurrency, open_at_once * size)
    assert run.told[-1] == n
    assert run.told == sorted(run.told)


def test_a_stop_sends_nothing_more_and_counts_what_is_kept() -> None:
    asker = Slow()
    run = Run(asker, concurrency=2, stop_after=6)
    run.over(300)
    assert 6 <= len(run.kept) < 60
    assert run.told[-1] == len(run.kept)
    assert sorted(asker.answered) == sorted(asker.asked), "what was under way was answered"


def test_an_error_that_concerns_all_ends_the_run_once_the_rest_has_ended() -> None:
    asker = Slow({"7": BudgetReached("spent.", hint="more")})
    run = Run(asker, concurrency=1)
    with pytest.raises(BudgetReached):
        run.over(200)
    assert len(asker.asked) < 30
    assert set(asker.asked) - set(asker.answered) == {"7"}
    assert isinstance(run.patient.why, BudgetReached)
    with pytest.raises(Closed):
        asyncio.run(run.patient.ask(question(1)))


def test_what_keeping_raises_is_raised() -> None:
    run = Run(Slow())

    async def full(batch: Sequence[int], replies: list[Reply]) -> int:
        raise RunError("the disk is full.", hint="make room")

    run._keep = full  # type: ignore[method-assign]
    with pytest.raises(RunError, match="disk is full"):
        run.over(30)


def test_single_losses_are_the_askers_and_twelve_in_a_row_are_the_end() -> None:
    lost = EndpointUnavailableError("it did not answer.", hint="wait")

    async def asks(patient: Patient, texts: Sequence[int]) -> list[object]:
        return list(await asyncio.gather(*(patient.ask(question(t)) for t in texts), return_exceptions=True))

    every_other = Patient(Slow({str(i): lost for i in range(0, 100, 2)}), 1)
    found = [one for i in range(100) for one in asyncio.run(asks(every_other, [i]))]
    assert sum(isinstance(one, EndpointUnavailableError) for one in found) == 50
    assert every_other.why is None

    gone = Slow({str(i): lost for i in range(100)})
    patient = Patient(gone, 1)
    found = [one for i in range(30) for one in asyncio.run(asks(patient, [i]))]
    assert len(gone.asked) == 12
    assert isinstance(patient.why, Gone)
    assert all(isinstance(one, Closed) for one in found[12:])


def test_it_runs_inside_another_loop() -> None:
    async def notebook() -> str:
        return in_own_loop(asyncio.sleep(0, "done"))

    assert asyncio.run(notebook()) == "done"


def test_enough_batches_are_open_for_the_endpoint_never_to_wait() -> None:
    for questions in (1, 8, 100, 5000):
        for concurrency in (1, 32, 256):
            assert (ahead(questions, concurrency) - 2) * questions >= 2 * concurrency
    assert ahead(5000, 32) == 3, "and no more than that"
