"""Spans and what is read of them, written: to the log of traces, by one at a time.

Whoever writes holds the log's lock, and commits what follows from what stands: :meth:`TraceStore.transact` has it
worked out anew where another one committed first. So two that write at once, as when services are replaced while
they run, never contradict one another.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterable
from typing import Final, TypeVar

from raylens.errors import RunError
from raylens.store.commits import WAIT_S, Segment, cover
from raylens.store.lock import Lock
from raylens.store.trace_draft import Draft
from raylens.store.trace_reader import Moment, TraceReader
from raylens.store.trace_rolling import due, purge, roll
from raylens.store.trace_rows import TraceEvent, rows_of
from raylens.store.workspace import Workspace

PURGE_S: Final = 24 * 3600.0
"""How long what was deleted may still lie in a segment that holds other things too."""
COLLECT_S: Final = 3600.0
"""How long a file that another took the place of stays for readers that began before, where services run."""

_TRUST_S: Final = 60.0  # a writer that was silent for longer makes sure that its number had not been used and cleared
_AGAIN_S: Final = 60.0  # rolling that failed is not tried again before
_log = logging.getLogger(__name__)

T = TypeVar("T")


class TraceStore(TraceReader):
    """The traces of a workspace, to be read and written; threads may share one, and one of them writes at a time.

    Args:
        workspace: Where they are.

    Raises:
        DamagedFileError: A segment of the log is missing, truncated, or fails a checksum.
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        self._sizes: dict[str, int] = {}
        self._failed_at: Moment | None = None

    def turn(self, owner: str, wait_s: float = WAIT_S) -> Lock:
        """Hold the right to write; a context manager.

        Raises:
            BusyError: Others held it for ``wait_s`` seconds.
        """
        return self.log.commits.turn(owner, wait_s)

    def write(self, events: Iterable[TraceEvent], owner: str, *, wait_s: float = WAIT_S) -> None:
        """Write events: all of them or none, durable when this returns.

        Args:
            events: In their order.
            owner: Who writes, shown to whom it keeps waiting.
            wait_s: Seconds to wait for others.

        Raises:
            BusyError: Others held the lock all that time; services do while they run.
            UnknownNameError: Something was read of a span that is not there.
            InputError: There are more of them than fit into a commit.
            DiskFullError: No space; nothing was written.
        """
        listed = list(events)
        with self.turn(owner, wait_s):
            self.refresh()
            self.transact(lambda draft: draft.put(listed))
            self.tidy()

    def transact(self, decide: Callable[[Draft], T]) -> T:
        """Commit what ``decide`` drafts, given what stands; durable when this returns. By who holds the lock.

        Args:
            decide: Asked again, with a new draft, where another one committed first.

        Returns:
            What it returned.

        Raises:
            DiskFullError: No space; nothing was written.
        """
        while True:
            number = self._last + 1  # before anything is decided: a commit in between makes the claim fail
            draft = Draft(self)
            result = decide(draft)
            if not draft.events:
                return result
            rows = rows_of(draft.events, number)
            if not self.log.claim(number, rows, secrets.token_hex(8)):
                self.refresh()
                continue
            if self._seen_at.age_s() > _TRUST_S and self.log.commits.is_used(number):
                self.refresh()
                continue
            with self._updating:
                if self._last < number:  # else a reader of this store has come upon it already
                    with self._mutex:
                        self._index.apply(rows)
                        self._covering = [*self._covering, self.log.commits.single(number)]
                self._seen_at = Moment()
            return result

    def tidy(self) -> None:
        """Roll what has become many; a failure is logged and changes nothing: what was written stands."""
        if self._failed_at is not None and self._failed_at.age_s() < _AGAIN_S:
            return
        try:
            while parts := due(self._covering, self._size):
                self._adopt([roll(self.log, parts)])
        except (RunError, FileNotFoundError) as error:
            self._failed_at = Moment()
            _log.warning("segments of the log of traces were not rolled together: %s", error)

    def purge(self, before: float) -> None:
        """Write segments from before a time (seconds since 1970) anew, without what was deleted or replaced.

        Raises:
            DamagedFileError: A segment is missing, truncated, or fails a checksum.
            DiskFullError: No space.
        """
        self._adopt(purge(self.log, self._covering, before))

    def collect(self, before: float) -> int:
        """Remove files that others took the place of before a time; how many these were."""
        gone = self.log.commits.superseded(before)
        for one in gone:
            self.log.files.discard(one.path)
        return len(gone)

    def _adopt(self, made: Collection[Segment]) -> None:
        with self._updating:
            self._covering = cover([*self._covering, *made])

    def _size(self, segment: Segment) -> int:
        if segment.path not in self._sizes:
            self._sizes[segment.path] = self.log.files.size(segment.path)
        return self._sizes[segment.path]
