"""Small state that many change: a journal of events, appended under a lock and read by everyone at any time.

::

    <folder>/lock/<token>.json              who may write (lock.py)
    <folder>/segments/<n>.json              what one writer appended at once: commit n, counted from 1
    <folder>/segments/<first>-<last>.json   the same events as commits first … last, rolled into one file

No store appends to a file, so a commit is a file of its own, made by ``commit_if_absent`` of the next
number: a writer that was paused while another took its lock over cannot write over anything, it takes
the next number. Rolled segments are determined by the commits in them, so it does not matter who writes
them; what they replace stays until housekeeping finds it old, for readers that began before.

The pattern is that of log-structured tables on object stores (Armbrust et al., "Delta Lake", 2020).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from raylens.errors import BusyError, DamagedFileError
from raylens.store.files import Files
from raylens.store.lock import Lock, acquire

ROLLED_AT: Final = 64
"""Commits of their own, at most: one more and they are rolled into one segment."""

WAIT_S: Final = 20.0
"""How long a writer waits for its turn; a turn takes milliseconds on a disk, a second on a slow store."""

_NAME: Final = re.compile(r"([0-9]{12})(?:-([0-9]{12}))?\.json")


class Event(BaseModel):
    """What every event has; ``event_id`` is unique, so that one written twice counts once."""

    event_id: str


E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the journal: commits ``first … last``."""

    path: str
    first: int
    last: int


class Journal(Generic[E]):
    """The journal in ``folder``.

    Args:
        files: The workspace's files.
        folder: Holds the journal and nothing else.
        event: The type of its events.
        what: What is kept there, for messages.
    """

    def __init__(self, files: Files, folder: str, event: type[E], *, what: str) -> None:
        self._files, self.folder, self._what = files, folder, what
        self._events: TypeAdapter[list[E]] = TypeAdapter(list[event])  # pyright: ignore[reportInvalidTypeForm]  (a value)

    def read(self) -> list[E]:
        """All events in the order they were appended.

        Raises:
            DamagedFileError: A segment is missing or cannot be read.
        """
        while True:
            covering = cover(self._segments())
            try:
                found = [event for one in covering for event in self._read(one)]
            except FileNotFoundError:
                if covering == cover(self._segments()):
                    raise
                continue  # rolled into another segment and collected since it was listed
            self._require_whole(covering)
            return list({event.event_id: event for event in reversed(found)}.values())[::-1]

    def append(self, events: Sequence[E], owner: str, *, wait_s: float = WAIT_S) -> None:
        """Append events in one commit: all of them or none, durable when this returns.

        Args:
            events: At least one.
            owner: Who writes, shown to whom it keeps waiting.
            wait_s: Seconds to wait for others.

        Raises:
            BusyError: Others held the lock all that time.
            DiskFullError: No space; nothing was appended.
        """
        data = self._events.dump_json(list(events), indent=1, exclude_none=True)
        with self._turn(owner, wait_s):
            while True:
                segments = self._segments()
                last = max((one.last for one in segments), default=0)
                if not self._claim(last + 1, data):
                    continue  # whoever took the lock over while this process was paused got on
                if any(one.first < one.last and one.last > last for one in self._segments()):
                    continue  # paused for so long that the number had been used, rolled up and collected: once more
                break
            if sum(one.first == one.last for one in cover(segments)) + 1 > ROLLED_AT:
                self._roll()

    def superseded(self, before: float) -> list[Segment]:
        """Segments whose events are in a wider one as well, since before a time in seconds since 1970."""
        segments = self._segments()
        needed = cover(segments)
        wide = [one for one in needed if one.first < one.last and self._files.stat(one.path).modified < before]
        inside = [one for one in segments if any(wider.first <= one.first and one.last <= wider.last for wider in wide)]
        return [one for one in inside if one not in needed]

    def _turn(self, owner: str, wait_s: float) -> Lock:
        until = time.monotonic() + wait_s
        while True:
            try:
                return acquire(self._files, f"{self.folder}/lock", owner, what=self._what)
            except BusyError as busy:
                if time.monotonic() > until:
                    raise BusyError(
                        f"{self._what} could not be written: {busy.message}", hint="try again in a minute."
                    ) from busy
            time.sleep(random.uniform(0.01, 0.05))  # apart from one another

    def _claim(self, number: int, data: bytes) -> bool:
        path = f"{self.folder}/segments/{number:012d}.json"
        if self._files.commit_if_absent(path, data):
            return True
        try:
            return self._files.read_bytes(path) == data  # ours, where the network lost the answer
        except FileNotFoundError:
            return False

    def _roll(self) -> None:
        covering = cover(self._segments())
        events = [event for one in covering for event in self._read(one)]
        name = f"{covering[0].first:012d}-{covering[-1].last:012d}.json"
        self._files.commit(f"{self.folder}/segments/{name}", self._events.dump_json(events, exclude_none=True))

    def _segments(self) -> list[Segment]:
        found: list[Segment] = []
        for path in self._files.list(f"{self.folder}/segments"):
            if match := _NAME.fullmatch(path.rpartition("/")[2]):
                found.append(Segment(path, int(match[1]), int(match[2] or match[1])))
        return found

    def _read(self, segment: Segment) -> list[E]:
        try:
            return self._events.validate_json(self._files.read_bytes(segment.path))
        except ValidationError as error:
            raise self._damaged(segment.path, str(error.errors()[0]["msg"])) from error

    def _require_whole(self, covering: Sequence[Segment]) -> None:
        expected = 1
        for one in covering:
            if one.first != expected:
                path = f"{self.folder}/segments/{expected:012d}.json"
                raise self._damaged(path, "it is missing, and later ones are there")
            expected = one.last + 1

    def _damaged(self, path: str, why: str) -> DamagedFileError:
        hint = "restore it from a backup; removing it would lose what it holds."
        return DamagedFileError(f"{self._files.native(path)} is damaged: {why}.", hint=hint)


def cover(segments: Iterable[Segment]) -> list[Segment]:
    """The fewest segments that hold every event, in order: those that no wider one contains."""
    found: list[Segment] = []
    for one in sorted(segments, key=lambda one: (one.first, -one.last)):
        if not found or one.last > found[-1].last:
            found.append(one)
    return found


def journal_folders() -> tuple[str, ...]:
    """Top-level folders of a workspace that are journals; housekeeping knows what in them is superseded."""
    return ("labels",)


def any_journal(files: Files, folder: str) -> Journal[Any]:
    """A journal whose events nobody wants to read."""
    return Journal(files, folder, Event, what=folder)
