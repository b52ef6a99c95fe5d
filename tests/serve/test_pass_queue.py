"""Requests that come together are answered together, each with its own answer, and a failure is its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from raylens.errors import OutOfMemoryError
from raylens_serve.once import Once
from raylens_serve.pass_queue import PassQueue


class Passes:
    """Notes what was answered together; can be held up, and can fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.bad: set[int] = set()
        self.fault: Exception | None = None
        self.at_once = 0

    def __call__(self, requests: Sequence[int]) -> list[str]:
        self.at_once += 1
        assert self.at_once == 1
        assert self.may_go.wait(20)
        self.batches.append(list(requests))
        self.at_once -= 1
        if self.fault is not None:
            raise self.fault
        if self.bad & set(requests):
            raise OutOfMemoryError(f"too much of {sorted(self.bad)}.", hint="ask for less.")
        return [f"answer {one}" for one in requests]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def queue(passes: Passes, thread: ThreadPoolExecutor, most: int = 100, wait_s: float = 0.0) -> PassQueue[int, str]:
    return PassQueue(passes, thread, size=lambda one: one, most=most, wait_s=wait_s)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def asked(own: PassQueue[int, str], *requests: int) -> list[Any]:
    return await asyncio.gather(*(own.ask(one) for one in requests), return_exceptions=True)


async def soon(is_so: Any) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


def test_what_comes_while_a_pass_runs_goes_into_the_next(thread: ThreadPoolExecutor) -> None:
    passes = Passes()
    own = queue(passes, thread)

    async def work() -> None:
        passes.may_go.clear()
        first = asyncio.create_task(own.ask(1))
        await soon(lambda: passes.at_once)
        others = asyncio.create_task(asked(own, 2, 3, 4))
        await asyncio.sleep(0)
        passes.may_go.set()
        assert await first == "answer 1"
        assert await others == ["answer 2", "answer 3", "answer 4"]
        assert passes.batches == [[1], [2, 3, 4]]

    run(work())


def test_a_pass_takes_so_many_tokens_and_a_larger_request_goes_alone(thread: ThreadPoolExecutor) -> None:
    passes = Passes()
    own = queue(passes, thread)

    async def work() -> None:
        sizes = [60, 40, 1, 250, 30, 30]
        assert await asked(own, *sizes) == [f"answer {size}" for size in sizes]
        assert passes.batches == [[60, 40], [1], [250], [30, 30]]

    run(work())


def test_after_a_full_pass_it_waits_for_those_who_ask_again(thread: ThreadPoolExecutor) -> None:
    passes = Passes()
    own = queue(passes, thread, wait_s=0.2)

    async def one(request: int) -> None:
        for _ in range(3):
            await own.ask(request)
            await asyncio.sleep(0.001 * request)

    async def work() -> None:
        await asyncio.gather(*map(one, (1, 2, 3)))
        assert [sorted(batch) for batch in passes.batches] == [[1, 2, 3]] * 3

    run(work())


def test_only_what_is_at_fault_fails(thread: ThreadPoolExecutor) -> None:
    passes = Passes()
    own = queue(passes, thread)

    async def work() -> None:
        passes.bad = {5}
        found = await asked(own, 1, 2, 5, 3)
        assert [type(one) for one in found] == [str, str, OutOfMemoryError, str]
        assert await own.ask(7) == "answer 7"
        passes.fault = ZeroDivisionError()
        assert [type(one) for one in await asked(own, 1, 2)] == [ZeroDivisionError] * 2
        passes.fault = None
        assert await own.ask(7) == "answer 7"

    run(work())


def test_who_has_gone_is_not_read_for(thread: ThreadPoolExecutor) -> None:
    passes = Passes()
    own = queue(passes, thread)

    async def work() -> None:
        passes.may_go.clear()
        first = asyncio.create_task(own.ask(1))
        await soon(lambda: passes.at_once)
        gone, stays = (asyncio.create_task(own.ask(one)) for one in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()
        await asyncio.wait([gone, first])
        passes.may_go.set()
        assert await stays == "answer 3"
        assert passes.batches == [[1], [3]]

    run(work())


def test_a_queue_serves_one_event_loop_after_another(thread: ThreadPoolExecutor) -> None:
    passes = Passes()
    own = queue(passes, thread)
    for _ in range(3):
        assert asyncio.run(asked(own, 1, 2)) == ["answer 1", "answer 2"]


def test_once_is_once_and_a_failure_is_not_kept() -> None:
    once: Once[str, int] = Once()
    tried: list[int] = []

    async def value() -> int:
        tried.append(1)
        await asyncio.sleep(0)
        if len(tried) == 1:
            raise OutOfMemoryError("no room.", hint="wait.")
        return len(tried)

    async def work() -> None:
        found = await asyncio.gather(*(once.of("a", value) for _ in range(5)), return_exceptions=True)
        assert {type(one) for one in found} == {OutOfMemoryError}
        leaves = asyncio.create_task(once.of("a", value))
        await asyncio.sleep(0)
        leaves.cancel()
        assert await asyncio.gather(*(once.of("a", value) for _ in range(5))) == [2] * 5
        assert await once.of("a", value) == 2
        assert len(tried) == 2

    run(work())
