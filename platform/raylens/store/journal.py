"""Small state that many change: a journal of events, appended under a lock and read by everyone at any time.

A log of numbered commits (:mod:`raylens.store.commits`) in JSON, for some thousands of events: all of it is read at
once, and rolled into one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from raylens.store.commits import WAIT_S, Commits, Segment, cover
from raylens.store.files import Files

ROLLED_AT: Final = 64
"""Commits of their own, at most: one more and they are rolled into one segment."""


class Event(BaseModel):
    """What every event has; ``event_id`` is unique, so that one written twice counts once."""

    event_id: str


E = TypeVar("E", bound=Event)


class Journal(Generic[E]):
    """The journal in ``folder``.

    Args:
        files: The workspace's files.
        folder: Holds the journal and nothing else.
        event: The type of its events.
        what: What is kept there, for messages.
    """

    def __init__(self, files: Files, folder: str, event: type[E], *, what: str) -> None:
        self.commits = Commits(files, folder, "json", what=what)
        self._files = files
        self._events: TypeAdapter[list[E]] = TypeAdapter(list[event])  # pyright: ignore[reportInvalidTypeForm]  (a value)

    def read(self) -> list[E]:
        """All events in the order they were appended.

        Raises:
            DamagedFileError: A segment is missing or cannot be read.
        """
        while True:
            covering = self.commits.covering()
            try:
                found = [event for one in covering for event in self._read(one)]
            except FileNotFoundError:
                if covering == cover(self.commits.segments()):
                    raise
                continue  # rolled into another segment and collected since it was listed
            return list({event.event_id: event for event in reversed(found)}.values())[::-1]

    def state(self) -> tuple[str, ...]:
        """What :meth:`read` would read: equal as long as nothing was appended. One listing."""
        return tuple(one.path for one in cover(self.commits.segments()))

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
        with self.commits.turn(owner, wait_s):
            while True:
                segments = self.commits.segments()
                number = max((one.last for one in segments), default=0) + 1
                if not self.commits.claim(number, data):
                    continue  # whoever took the lock over while this process was paused got on
                if self.commits.is_used(number):
                    continue  # paused for so long that the number had been used, rolled up and collected: once more
                break
            if sum(one.first == one.last for one in cover(segments)) + 1 > ROLLED_AT:
                self._roll()

    def superseded(self, before: float) -> list[str]:
        """Paths of segments whose events are in a wider one as well, since before a time in seconds since 1970."""
        return [one.path for one in self.commits.superseded(before)]

    def _roll(self) -> None:
        covering = cover(self.commits.segments())
        events = [event for one in covering for event in self._read(one)]
        name = f"{covering[0].first:012d}-{covering[-1].last:012d}"
        self._files.commit(self.commits.path(name), self._events.dump_json(events, exclude_none=True))

    def _read(self, segment: Segment) -> list[E]:
        try:
            return self._events.validate_json(self._files.read_bytes(segment.path))
        except ValidationError as error:
            raise self.commits.damaged(segment.path, str(error.errors()[0]["msg"])) from error
