"""Every question once: what was answered before is read, and what is being asked already is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from raylens.chat import Reply
from raylens.errors import RaylensError
from raylens.llm.errors import BudgetReached
from raylens.llm.replies import ReplyCache

P = ParamSpec("P")
R = TypeVar("R")


class Count(Protocol):
    """Where questions that ended without a new answer are counted."""

    def __call__(self, *, cached: int = 0, failed: int = 0) -> None: ...


@dataclass
class _Flight:
    """A question under way, and how many wait for its answer."""

    task: asyncio.Task[Reply]
    waiting: int = 0


class Once:
    """Stands between those who ask and the model.

    Args:
        cache: Where answers are kept; without one, each question is asked, and this only counts.
        count: Told of each question answered from the cache or another's answer, and of each that failed.
    """

    def __init__(self, cache: ReplyCache | None, count: Count) -> None:
        self._cache = cache
        self._count = count
        self._flights: dict[str, _Flight] = {}
        # asyncio's own pool has a few threads a core, which waiting for a disk or bucket would use up.
        self._threads: ThreadPoolExecutor | None = None

    def open(self, threads: int) -> None:
        """Get ready to read and write with so many threads."""
        self._threads = ThreadPoolExecutor(min(64, threads), "raylens-replies")

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown)
        self._threads = None

    async def answer(self, key: str, ask: Callable[[], Awaitable[Reply]], worth: Callable[[Reply], bool]) -> Reply:
        """The answer to the question of that key.

        Args:
            key: Of :mod:`raylens.llm.replies`: the same for the same question alone.
            ask: Asks the model; not called where there is an answer, or where it was called for this key already.
            worth: Whether an answer is kept.
        """
        if self._cache is None:
            return await self._counted(ask())
        flight = self._flights.get(key)
        first = flight is None
        if flight is None:
            flight = _Flight(asyncio.create_task(self._counted(self._through(self._cache, key, ask, worth))))
            self._flights[key] = flight
            flight.task.add_done_callback(partial(self._landed, key, flight))
        flight.waiting += 1
        try:
            # Shielded: whoever asked first may give up, and others still want the answer.
            reply = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._flights.pop(key, None)  # at once: nobody may join a question that is given up
                flight.task.cancel()
        if first:
            return reply
        self._count(cached=1)
        return replace(reply, cost_usd=0.0, from_cache=True)

    async def forget(self, key: str) -> None:
        """Drop the stored answer, so that the question is asked again."""
        if self._cache is not None:
            await self._on_a_thread(self._cache.forget, key)

    async def _on_a_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _landed(self, key: str, flight: _Flight, task: asyncio.Task[Reply]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it where nobody waits any more

    async def _counted(self, answer: Awaitable[Reply]) -> Reply:
        try:
            return await answer
        except BudgetReached:
            raise
        except RaylensError:
            self._count(failed=1)
            raise

    async def _through(
        self, cache: ReplyCache, key: str, ask: Callable[[], Awaitable[Reply]], worth: Callable[[Reply], bool]
    ) -> Reply:
        if found := await self._on_a_thread(cache.get, key):
            self._count(cached=1)
            return found
        reply = await ask()
        if worth(reply):
            # What answered is free again by now: a slow disk does not slow it.
            await self._on_a_thread(cache.put, key, reply)
        return reply
