"""Look-ups of labels: memory, then the workspace, then Neuronpedia where that is allowed (A2.12).

::

    with LabelClient(LabelStore(workspace.files), LabelSettings.from_environment()) as client:
        found = client.labels(NeuronpediaId.parse("gemma-2-2b/20-gemmascope-res-16k"), [17, 4109])

``cache_only`` opens no connection at all. With ``remote_fallback`` what is missing is asked for once and kept, that
there is no such feature included. What no answer came for is forgotten after a minute; a server that does not answer
several times in a row is left alone for as long. After a limit that lasts longer than a run can wait, or a refused
key, the run asks no more. In none of these cases is there a label: :attr:`Looked.why` says what happened.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from raylens.errors import InputError
from raylens.labels.best import best
from raylens.labels.explanations import Explanation
from raylens.labels.label_store import LabelStore
from raylens.labels.merging import Status
from raylens.labels.names import NeuronpediaId
from raylens.labels.patience import Patience
from raylens.labels.remote import Answer, Remote
from raylens.labels.settings import ApiKey, LabelSettings
from raylens.net.clock import Clock, SystemClock

_log = logging.getLogger(__name__)
_AT_A_TIME: Final = 1024
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of looking one feature up.

    Attributes:
        index: Which.
        status: ``ok``, ``missing`` (it does not exist there), or ``unknown``.
        explanations: In a fixed order; an ``ok`` feature may have none.
        why: Of ``unknown``: why nothing is known.
    """

    index: int
    status: Status
    explanations: tuple[Explanation, ...] = ()
    why: str = ""

    @property
    def best(self) -> Explanation | None:
        """The explanation to show (:mod:`raylens.labels.best`)."""
        return best(self.explanations)


class LabelClient:
    """Looks features up; a context manager. Safe to use from several threads, and from within an event loop's.

    Args:
        store: What is kept; what is fetched goes there. Closed with the client.
        settings: Address, mode and limits.
        key: By default that of the environment, read when a first request is made.
        clock: Time, for tests.
        say: Gets each warning once; by default the log.
    """

    def __init__(
        self,
        store: LabelStore,
        settings: LabelSettings,
        *,
        key: ApiKey | None = None,
        clock: Clock | None = None,
        say: Callable[[str], None] = _log.warning,
    ) -> None:
        self.store, self.settings = store, settings
        self.warnings: Counter[str] = Counter()
        """What went wrong, and how often."""
        self.n_asked = 0
        """Requests sent."""
        self._key, self._say = key, say
        self._clock = clock or SystemClock()
        self._patience = Patience(settings, self._clock)
        self._memory: OrderedDict[tuple[NeuronpediaId, int], Looked] = OrderedDict()
        self._turn = threading.RLock()
        self._line: _Line | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a LabelClient is not pickled: send its settings, and open one where it is used")

    @property
    def stopped(self) -> str | None:
        """Why this run asks no more; None while it does."""
        return self._patience.stopped

    def label(self, source: NeuronpediaId, index: int) -> Looked:
        """:meth:`labels` of one feature."""
        return self.labels(source, [index])[index]

    def labels(self, source: NeuronpediaId, indices: Iterable[int]) -> dict[int, Looked]:
        """What is known of features, each of them in the answer, in order of index.

        Raises:
            InputError: An index is negative, or the key in the environment is none.
            DamagedFileError: A stored file is missing, truncated, or fails a checksum.
            DiskFullError: What was fetched could not be kept.
        """
        wanted = sorted({_checked(index) for index in indices})
        found: dict[int, Looked] = {}
        rest = iter(wanted)
        while part := list(islice(rest, _AT_A_TIME)):
            found |= self.known(source, part)
            if missing := [index for index in part if index not in found]:
                found |= self._fetched(source, missing)
        return {index: found[index] for index in wanted}

    def page(self, source: NeuronpediaId, index: int) -> dict[str, Any] | None:
        """All that is known of a feature, as Neuronpedia's API gives it; None where nothing is; raises as above.

        Where only explanations were imported, the rest is asked for, if that is allowed.
        """
        if self.store.look(source, [_checked(index)])[index].page == "unknown":
            self._fetched(source, [index])
        return self.store.page(source, index)

    def close(self) -> None:
        """Keep what was fetched, and close the connection."""
        with self._turn:
            line, self._line = self._line, None
        try:
            if line is not None:
                line.close()
        finally:
            self.store.close()

    # ------------------------------------------------------------------ what is known

    def refresh(self) -> None:
        """See what others have fetched or imported since."""
        if self.store.refresh():
            with self._turn:
                self._memory.clear()

    def known(self, source: NeuronpediaId, indices: Iterable[int]) -> dict[int, Looked]:
        """Those of ``indices`` that memory or the workspace knows; nobody is asked. Raises as :meth:`labels`."""
        indices = list(indices)
        found: dict[int, Looked] = {}
        with self._turn:
            for index in indices:
                if one := self._memory.get((source, index)):
                    self._memory.move_to_end((source, index))
                    found[index] = one
        rest = [index for index in indices if index not in found]
        for index, known in (self.store.look(source, rest) if rest else {}).items():
            if known.status != "unknown":
                found[index] = self._remembered(source, Looked(index, known.status, known.explanations))
        return found

    def _remembered(self, source: NeuronpediaId, one: Looked) -> Looked:
        with self._turn:
            self._memory[source, one.index] = one
            self._memory.move_to_end((source, one.index))
            while len(self._memory) > self.settings.lru_size:
                self._memory.popitem(last=False)
        return one

    # ------------------------------------------------------------------ asking

    def _fetched(self, source: NeuronpediaId, indices: Sequence[int]) -> Mapping[int, Looked]:
        if self.settings.mode == "cache_only":
            return {index: Looked(index, "unknown", why="not among the labels kept (cache_only)") for index in indices}
        with self._turn:
            if self._line is None:
                self._line = _Line(self.settings, self._key or ApiKey.from_environment(self.settings), self._clock)
            line = self._line
        return line.run(self._ask_all(line.remote, source, indices))

    async def _ask_all(self, remote: Remote, source: NeuronpediaId, indices: Sequence[int]) -> dict[int, Looked]:
        waiting, found = iter(indices), dict[int, Looked]()

        async def worker() -> None:
            for index in waiting:  # shared: each index is taken by one worker
                found[index] = await self._ask(remote, source, index)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.settings.max_concurrency, len(indices))):
                group.create_task(worker())
        return found

    async def _ask(self, remote: Remote, source: NeuronpediaId, index: int) -> Looked:
        key = source, index
        while True:
            await self._patience.wait()
            if why := self._patience.silence(key):
                return Looked(index, "unknown", why=why)
            turn = self._patience.turn
            self.n_asked += 1
            answer = await remote.get(source, index)
            if answer.kind == "limited" and self._patience.may_wait(answer.wait_s, turn):
                continue
            return self._taken(source, index, answer)

    def _taken(self, source: NeuronpediaId, index: int, answer: Answer) -> Looked:
        """What an answer comes to; a good one is kept."""
        if answer.page is not None:
            self._patience.answered()
            self.store.put_page(source, index, answer.page, "remote")
            known = self.store.look(source, [index])[index]
            return self._remembered(source, Looked(index, known.status, known.explanations))
        if answer.kind == "missing":
            self._patience.answered()
            self.store.put_missing(source, index, "remote")
            known = self.store.look(source, [index])[index]  # an import may have an explanation of it
            return self._remembered(source, Looked(index, known.status, known.explanations))
        why = f"{self.settings.base_url} {answer.said}"
        if answer.kind == "malformed":
            self._patience.answered()
            self._patience.remember((source, index), why)
            self._warn(f"{why}; no label was taken from it.")
        elif answer.kind == "unreachable":
            self._patience.failed((source, index), why)
            self._warn(f"{why}; what it did not answer for is asked for again after a minute.")
        else:
            self._patience.stop(why)
            self._warn(f"{why}; this run asks for no more labels.")
        return Looked(index, "unknown", why=why)

    def _warn(self, text: str) -> None:
        self.warnings[text] += 1
        if self.warnings[text] == 1:
            self._say(text)


class _Line:
    """A connection and the event loop it lives in, on a thread of its own: callers may be in a loop themselves."""

    def __init__(self, settings: LabelSettings, key: ApiKey, clock: Clock) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="labels", daemon=True)
        self._thread.start()
        self._open = AsyncExitStack()
        try:
            self.remote = self.run(self._opened(settings, key, clock))
        except BaseException:
            self._end()
            raise

    async def _opened(self, settings: LabelSettings, key: ApiKey, clock: Clock) -> Remote:
        return await self._open.enter_async_context(Remote(settings, key, clock))

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do ``work`` there and wait for it; Ctrl-C here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the connection and end the thread; who still waits for an answer gets none."""
        try:
            self.run(self._closed())
        finally:
            self._end()

    async def _closed(self) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._open.aclose()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _checked(index: int) -> int:
    if index < 0:
        raise InputError(f"{index} is no index of a feature.", hint="features count from 0.")
    return int(index)
