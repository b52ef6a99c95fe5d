"""Batches of features on their way through a language model: asked about side by side, and kept one by one.

The driver asks, in one event loop; what is to be asked is made ready, and what was answered is worked
out, on Ray workers meanwhile. Only a few batches are open at a time, so that memory does not grow with
the number of features.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from raylens.chat import Reply, Request
from raylens.errors import InputError, RaylensError
from raylens.llm.asker import Asker
from raylens.llm.errors import BudgetReached, EndpointRefusedError, EndpointUnavailableError

T = TypeVar("T")

_OUTAGE: Final = 12
"""Questions lost in a row, after which the endpoint counts as gone: the run stops, and a rerun asks again."""


class Closed(Exception):  # noqa: N818  (nothing went wrong with this question)
    """Not asked any more, since the run is ending."""


class Gone(EndpointUnavailableError):  # noqa: N818  (a state that it is in)
    """The endpoint lost :data:`_OUTAGE` questions in a row."""


class Patient:
    """Asks until the run ends, and tells a lost answer from an endpoint that is gone.

    Once it is closed, by the run or by an error that no further question could escape, questions under
    way are answered, and paid for, and kept; those that wait are not sent.

    Args:
        asker: Who is asked.
        concurrency: How many it is asked at a time.

    Attributes:
        why: The error that closed it.
    """

    def __init__(self, asker: Asker, concurrency: int) -> None:
        self._asker = asker
        # Twice as many: while one answer is put on the disk, the next question is on its way.
        self._slots = asyncio.Semaphore(2 * concurrency)
        self._lost_in_a_row = 0
        self._closed = False
        self.why: RaylensError | None = None

    def close(self) -> None:
        """Send no further question."""
        self._closed = True

    async def ask(self, request: Request) -> Reply:
        """As :meth:`Asker.ask`.

        Raises:
            Closed: It was not sent.
            Gone: So many in a row were lost that no further one is worth asking.
        """
        return await self._counted(lambda: self._asker.ask(request))

    async def losses(self, context: str, text: str) -> NDArray[np.float64]:
        """As :meth:`Asker.losses`, and as :meth:`ask`."""
        return await self._counted(lambda: self._asker.losses(context, text))

    async def forget(self, request: Request) -> None:
        """As :meth:`Asker.forget`; nothing is sent for it, so that it goes on after :meth:`close`."""
        await self._asker.forget(request)

    def _end(self, error: RaylensError) -> None:
        self.close()
        self.why = self.why or error

    async def _counted(self, ask: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            if self._closed:
                raise Closed
            try:
                found = await ask()
            except (EndpointRefusedError, BudgetReached, InputError) as error:
                self._end(error)
                raise
            except EndpointUnavailableError as error:
                self._lost_in_a_row += 1
                if self._lost_in_a_row >= _OUTAGE:
                    gone = Gone(error.message, hint="what was answered is kept: run the same command again.")
                    self._end(gone)
                    raise gone from error
                raise
        self._lost_in_a_row = 0
        return found


async def all_of(work: Iterable[Awaitable[T]]) -> list[T]:
    """What all of it gives, once all of it has ended; an error of one is raised only then."""
    found = await asyncio.gather(*work, return_exceptions=True)
    errors = [one for one in found if isinstance(one, BaseException)]
    for error in sorted(errors, key=lambda one: isinstance(one, Closed)):
        raise error
    return [one for one in found if not isinstance(one, BaseException)]


def ahead(questions_a_batch: float, concurrency: int) -> int:
    """How many batches are open, so that ``concurrency`` questions are always waiting while others are made ready."""
    return 2 + math.ceil(2 * concurrency / max(1.0, questions_a_batch))


async def run_lane(
    batches: Sequence[Sequence[int]],
    ask: Callable[[Sequence[int]], Awaitable[T]],
    keep: Callable[[Sequence[int], T], Awaitable[int]],
    watch: Callable[[int], bool],
    patient: Patient,
    open_at_once: int,
) -> None:
    """Take every batch through ``ask`` and then ``keep``.

    Args:
        batches: Feature numbers.
        ask: Asks ``patient``.
        keep: Stores what came of it, and says how many features that settled.
        watch: Told about once a second how many features are settled; True where the run should stop.
        patient: Closed where the run ends before its batches do.
        open_at_once: Batches under way at a time.

    What ``ask`` or ``keep`` raises is raised, after all other open batches have come to an end.
    """
    left, running, settled = deque(batches), set[asyncio.Task[int]](), 0

    async def one(batch: Sequence[int]) -> int:
        return await keep(batch, await ask(batch))

    try:
        while running or left:
            while left and len(running) < open_at_once:
                running.add(asyncio.create_task(one(left.popleft())))
            ended, running = await asyncio.wait(running, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            settled += sum(task.result() for task in ended if task.exception() is None)
            await all_of(ended)
            if watch(settled):
                break
    except Closed:  # a batch that had to wait ended before the one that met the error
        assert patient.why is not None
        raise patient.why from None
    except asyncio.CancelledError:  # Ctrl-C: at once
        for task in running:
            task.cancel()
        raise
    finally:
        patient.close()
        ends = await asyncio.gather(*running, return_exceptions=True)
        watch(settled + sum(end for end in ends if isinstance(end, int)))


def in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end, also where a loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(loop.run_until_complete, task)
        try:
            return running.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)
            raise
        finally:
            running.add_done_callback(lambda _: loop.close())


async def result_of(reference: Any) -> Any:
    """What a Ray task returns."""
    return await asyncio.wrap_future(reference.future())
