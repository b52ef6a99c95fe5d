"""Requests that come at about the same time are read in one pass, and no request waits for others without a reason.

While a pass runs, what comes waits, and goes into the next pass together: under load, batches form by themselves.
Only where the last pass served several does the next one wait a moment (``wait_s``) before it starts, as those who
were answered may well ask again; a client alone is read at once.

This is not ``serve.batch``, for what that does otherwise: it waits for a full batch or its time-out even where the
model is idle, refuses a request that is larger than a batch, fails all requests of a batch with one of them, and
runs in a replica alone, while the same class here is used in process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from raylens.errors import RaylensError

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True, eq=False)
class _Asked(Generic[Q, A]):
    request: Q
    answer: asyncio.Future[A]


class PassQueue(Generic[Q, A]):
    """Requests that wait for their pass.

    Args:
        run: Answers several requests, in order; it runs in ``thread``.
        thread: Where; one thing at a time.
        size: Of a request, in tokens.
        most: Tokens of requests that are answered together; a larger request goes alone.
        wait_s: See the module.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Q]], Sequence[A]],
        thread: Executor,
        *,
        size: Callable[[Q], int],
        most: int,
        wait_s: float,
    ) -> None:
        self._run, self._thread = run, thread
        self._size, self._most, self._wait_s = size, most, wait_s
        self._waiting: deque[_Asked[Q, A]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._last = 0

    async def ask(self, request: Q) -> A:
        """The answer to one request.

        Raises:
            RaylensError: What ``run`` raises of this request, be it alone.
        """
        asked: _Asked[Q, A] = _Asked(request, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await asked.answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._last > 1 and self._wait_s and sum(map(self._size_of, self._waiting)) < self._most:
                    await asyncio.sleep(self._wait_s)
                batch = self._next()
                self._last = len(batch)
                await self._answer(batch)
        finally:
            self._worker = None

    def _size_of(self, asked: _Asked[Q, A]) -> int:
        return self._size(asked.request)

    def _next(self) -> list[_Asked[Q, A]]:
        batch: list[_Asked[Q, A]] = []
        size = 0
        while self._waiting:
            asked = self._waiting[0]
            if asked.answer.done():  # whoever asked has gone
                self._waiting.popleft()
                continue
            size += self._size_of(asked)
            if batch and size > self._most:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _answer(self, batch: Sequence[_Asked[Q, A]]) -> None:
        """Answer a batch; where it fails, each half by itself, so that only what is at fault fails."""
        if not batch:
            return
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._thread, self._run, [asked.request for asked in batch])
        except RaylensError as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
            else:
                self._fail(batch, error)
        except Exception as error:  # a fault of ours: those who wait are told, and the next are answered
            self._fail(batch, error)
        else:
            for asked, answer in zip(batch, answers, strict=True):
                if not asked.answer.done():
                    asked.answer.set_result(answer)

    def _fail(self, batch: Sequence[_Asked[Q, A]], error: Exception) -> None:
        for asked in batch:
            if not asked.answer.done():
                asked.answer.set_exception(error)
