"""Models and SAEs that are held loaded, within a bound of bytes: what was not used for longest makes room.

Who needs something takes a lease of all of it at once, and nobody waits while holding one: so there is no deadlock.
What is leased is never dropped. Where only leased things could make room, one waits for them, first come, first
served; others who come later wait as well, even where theirs is loaded, or the first might wait for ever. When the
first has got what it needs, all who wait for what is loaded then go with it.

Bytes are reserved by an estimate before a load begins, so that loads side by side do not exceed the bound together;
a load itself keeps nobody waiting who needs something else. All of this runs on an event loop, without locks.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from raylens.errors import OutOfMemoryError

ADVICE: Final = (
    "send fewer or shorter texts at a time, lower encoder.batch_tokens, name fewer SAEs, take dtype: bfloat16 or "
    "quantization: bnb-4bit for the model, or a larger device (in 16 bits gemma-2-2b needs about 8 GB, Llama-3.1-8B "
    "about 16 GB)."
)
"""What to lower (A0.23), in the words of the services' config file."""


@dataclass(frozen=True, slots=True)
class Need:
    """Something that has to be loaded.

    Attributes:
        name: What it is.
        group: What goes when it goes: the model that an SAE reads. A model is its own group.
        size: Bytes that it takes, estimated.
        working: Bytes that using it takes besides; only one thing is used at a time.
        load: Loads it.
        measure: Bytes that it takes once it is loaded.
    """

    name: str
    group: str
    size: int
    working: int
    load: Callable[[], Awaitable[Any]]
    measure: Callable[[Any], int]


@dataclass(slots=True, eq=False)
class _Item:
    need: Need
    size: int
    leases: int = 0
    task: asyncio.Task[Any] | None = None
    value: Any = None
    is_loaded: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    needs: Sequence[Need]
    taken: asyncio.Future[list[_Item]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Shelf:
    """What is loaded.

    Args:
        limit: Says how many bytes may be taken in all; asked whenever something is to be loaded, as what others take
            of a machine changes. It is given how many bytes are taken by what is loaded.
        groups: That are held at a time, at most.
        dropped: Called when something was dropped; what refers to itself is gone after the next collection only.
    """

    def __init__(self, limit: Callable[[int], int], groups: int, dropped: Callable[[], None] = lambda: None) -> None:
        self._limit, self._groups, self._dropped = limit, groups, dropped
        self._items: OrderedDict[str, _Item] = OrderedDict()
        """The one that was not used for longest first."""
        self._waiting: deque[_Waiting] = deque()

    @asynccontextmanager
    async def lease(self, needs: Sequence[Need]) -> AsyncIterator[list[Any]]:
        """What is needed, loaded, in order; it stays loaded until the block ends.

        Raises:
            OutOfMemoryError: It can never fit, whatever else is dropped.
            RaylensError: What loading it raises.
        """
        items = await self._take(needs)
        try:
            yield [await self._loaded(item) for item in items]
        finally:
            self._give_back(items)

    def held(self) -> dict[str, int]:
        """Bytes of each that is loaded, or is being loaded."""
        return {name: item.size for name, item in self._items.items()}

    def groups(self) -> list[str]:
        """That are held, the one that was not used for longest first."""
        return list(dict.fromkeys(item.need.group for item in self._items.values()))

    async def _take(self, needs: Sequence[Need]) -> list[_Item]:
        if not self._waiting:
            items = self._try(needs)
            if items is not None:
                return items
        waiting = _Waiting(needs)
        self._waiting.append(waiting)
        try:
            return await waiting.taken
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self._serve_waiting()
            elif waiting.taken.done() and not waiting.taken.cancelled() and waiting.taken.exception() is None:
                self._give_back(waiting.taken.result())
            raise

    def _try(self, needs: Sequence[Need]) -> list[_Item] | None:
        """Take it where there is room, or room can be made; None where others must give back first."""
        missing = [need for need in needs if need.name not in self._items]
        if missing:
            limit = self._limit(sum(item.size for item in self._items.values() if item.is_loaded))
            self._require_possible(needs, limit)
            kept = {need.name for need in needs}
            while not self._fits(missing, limit):
                if not self._drop_one(kept):
                    return None
        items = [self._items.get(need.name) or self._load(need) for need in needs]
        for item in items:
            item.leases += 1
            self._items.move_to_end(item.need.name)
        return items

    def _require_possible(self, needs: Sequence[Need], limit: int) -> None:
        sizes = (self._items[need.name].size if need.name in self._items else need.size for need in needs)
        size = sum(sizes) + max((need.working for need in needs), default=0)
        if size > limit:
            what = " with ".join(need.name for need in needs)
            raise OutOfMemoryError(f"{what} needs about {_giga(size)}, and {_giga(limit)} can be had.", hint=ADVICE)

    def _fits(self, missing: Iterable[Need], limit: int) -> bool:
        needs = [*(item.need for item in self._items.values()), *missing]
        size = sum(item.size for item in self._items.values()) + sum(need.size for need in missing)
        working = max((need.working for need in needs), default=0)
        return size + working <= limit and len({need.group for need in needs}) <= self._groups

    def _drop_one(self, kept: set[str]) -> bool:
        """Drop what was not used for longest, with all of its group where it is a model; False where nothing can go."""
        idle = (name for name, item in self._items.items() if item.is_loaded and not item.leases and name not in kept)
        name = next(idle, None)
        if name is None:
            return False
        dropped = [name, *(other for other, item in self._items.items() if item.need.group == name)]
        for other in dict.fromkeys(dropped):
            self._items.pop(other)
        self._dropped()
        return True

    def _load(self, need: Need) -> _Item:
        item = _Item(need, need.size)
        item.task = asyncio.ensure_future(need.load())
        item.task.add_done_callback(lambda task: self._settle(item, task))
        self._items[need.name] = item
        return item

    def _settle(self, item: _Item, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            if self._items.get(item.need.name) is item:
                del self._items[item.need.name]
        else:
            item.value, item.is_loaded = task.result(), True
            item.size = item.need.measure(item.value)
        self._serve_waiting()

    async def _loaded(self, item: _Item) -> Any:
        if not item.is_loaded:
            assert item.task is not None
            # Shielded: others may wait for the same.
            item.value, item.is_loaded = await asyncio.shield(item.task), True
        return item.value

    def _give_back(self, items: Sequence[_Item]) -> None:
        for item in items:
            item.leases -= 1
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if not first.taken.done():
                try:
                    items = self._try(first.needs)
                except OutOfMemoryError as error:
                    first.taken.set_exception(error)
                else:
                    if items is None:
                        return
                    first.taken.set_result(items)
            self._waiting.popleft()
            self._serve_alike()

    def _serve_alike(self) -> None:
        """Those who wait for what is here now go along with the first, or each change of models would serve one."""
        for waiting in [one for one in self._waiting if all(need.name in self._items for need in one.needs)]:
            self._waiting.remove(waiting)
            if not waiting.taken.done() and (items := self._try(waiting.needs)) is not None:
                waiting.taken.set_result(items)


def _giga(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
