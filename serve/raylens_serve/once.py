"""What is worked out once, however many ask for it at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Once(Generic[K, T]):
    """Values by key. A failure is told to all who waited for it, and not kept: the next one tries again."""

    def __init__(self) -> None:
        self._known: dict[K, T] = {}
        self._under_way: dict[K, asyncio.Task[T]] = {}

    async def of(self, key: K, work: Callable[[], Awaitable[T]]) -> T:
        """The value of a key, worked out by ``work`` where nobody did so yet; raises what that raises."""
        if key in self._known:
            return self._known[key]
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.ensure_future(_awaited(work))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._settle(key, done))
        # Shielded: that one who asked has gone does not end what others wait for.
        return await asyncio.shield(task)

    def _settle(self, key: K, task: asyncio.Task[T]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled() and task.exception() is None:
            self._known[key] = task.result()


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
