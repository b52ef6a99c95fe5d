"""Calls that come at about the same time, sent as one: between processes a call costs more than what it carries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from raylens.errors import RaylensError

MOST: Final = 64
"""Of one call."""

K = TypeVar("K", bound=Hashable)
Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(slots=True, eq=False)
class _Gathering(Generic[Q, A]):
    requests: list[Q] = field(default_factory=list[Q])
    answers: list[asyncio.Future[A]] = field(default_factory=list[asyncio.Future[A]])
    due: asyncio.TimerHandle | None = None


class Together(Generic[K, Q, A]):
    """Requests that go together, by what they have in common; for one event loop.

    Args:
        send: Answers several of one key, in order, with an error in the place of one that fails alone; what it raises
            itself is told to all of them.
        wait_s: How long the first one waits for others: as long as that is little beside what it waits for anyway.
        most: So many are sent at once.
    """

    def __init__(
        self,
        send: Callable[[K, Sequence[Q]], Awaitable[Sequence[A | RaylensError]]],
        wait_s: Callable[[], float],
        most: int = MOST,
    ) -> None:
        self._send, self._wait_s, self._most = send, wait_s, most
        self._gathering: dict[K, _Gathering[Q, A]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def ask(self, key: K, request: Q) -> A:
        """The answer to one request; raises the error that is its answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        gathering = self._gathering.setdefault(key, _Gathering())
        gathering.requests.append(request)
        gathering.answers.append(answer)
        if len(gathering.requests) >= self._most:
            self._start(key, gathering)
        elif gathering.due is None:
            gathering.due = loop.call_later(self._wait_s(), self._start, key, gathering)
        return await answer

    def _start(self, key: K, gathering: _Gathering[Q, A]) -> None:
        if gathering.due is not None:
            gathering.due.cancel()
        del self._gathering[key]
        task = asyncio.get_running_loop().create_task(self._answer(key, gathering))
        self._sending.add(task)  # the loop itself holds tasks by weak references alone
        task.add_done_callback(self._sending.discard)

    async def _answer(self, key: K, gathering: _Gathering[Q, A]) -> None:
        try:
            found = await self._send(key, gathering.requests)
            for answer, one in zip(gathering.answers, found, strict=True):
                if answer.done():  # whoever asked has gone
                    continue
                if isinstance(one, RaylensError):
                    answer.set_exception(one)
                else:
                    answer.set_result(one)
        except Exception as error:
            for answer in gathering.answers:
                if not answer.done():
                    answer.set_exception(error)
        finally:  # where this is cancelled, at the end, nobody waits for ever
            for answer in gathering.answers:
                answer.cancel()
