"""The Ledger's writing: what arrives while one commit is under way goes into the next one together.

A commit costs two syncs of a disk, or a request to an object store, whatever its size. One thread commits and another
keeps house (rolls segments, deletes what is past its time), so that neither waits for the event loop, nor it for them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from raylens.errors import BusyError, OverloadedError, RaylensError
from raylens.store.lock import BEAT_S, Lock
from raylens.store.trace_draft import Draft
from raylens.store.trace_reader import Moment
from raylens.store.trace_rows import MOST_EVENTS
from raylens.store.traces import COLLECT_S, PURGE_S, TraceStore
from raylens.store.workspace import Workspace

LOCK_WAIT_S: Final = 30.0
"""How long a write waits for another Ledger that is going."""
SWEEP_S: Final = 3600.0
"""How often spans that are past their time are looked for."""
MOST_AT_ONCE: Final = MOST_EVENTS // 2
"""Spans of one request: each may be a deletion and a span."""
DELETED_AT_ONCE: Final = 8192
"""Spans that one commit deletes, at most."""

_COMMIT_BYTES: Final = 32 * 2**20  # a commit takes no further request beyond this
_WAITING_BYTES: Final = 256 * 2**20
_WAITING: Final = 10_000
_TURN_S: Final = 0.25
_log = logging.getLogger(__name__)

Decide = Callable[[Draft], Any]


@dataclass(eq=False, slots=True)
class _Request:
    """What is to be written.

    Attributes:
        decide: Drafts it, and says what its caller is told.
        n_events: At most.
        n_bytes: About how much memory it takes.
        answer: For its caller.
    """

    decide: Decide
    n_events: int
    n_bytes: int
    answer: Future[Any] = field(default_factory=Future)


class LedgerWriter:
    """Writes to the log of traces, and holds its lock from the first write until it is closed.

    Args:
        workspace: Where.
        retention_days: Spans that started longer ago are deleted; None keeps them.
    """

    def __init__(self, workspace: Workspace, retention_days: float | None) -> None:
        self.workspace = workspace
        self._retention = None if retention_days is None else timedelta(days=retention_days)
        self._waiting: deque[_Request] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._opening, self._house, self._looking = threading.Lock(), threading.Lock(), threading.Lock()
        self._opened: TraceStore | None = None
        self._looked_at = float("-inf")
        self._lock: Lock | None = None
        self._checked = Moment()
        self._committing = threading.Thread(target=self._commit_all, name="raylens-ledger", daemon=True)
        self._keeping = threading.Thread(target=self._keep_house, name="raylens-ledger-house", daemon=True)
        self._committing.start()
        self._keeping.start()

    @property
    def is_alive(self) -> bool:
        """Whether what is submitted will be written."""
        return self._committing.is_alive() and self._keeping.is_alive()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing.is_set()

    def holds(self) -> bool:
        """Whether nobody else may write."""
        lock = self._lock
        if lock is None:
            return False
        if self._checked.age_s() > BEAT_S:  # this process may have been paused while another took the lock over
            if not lock.still_mine():
                if self._lock is lock:
                    self._lock = None
                lock.release()  # ends its heartbeat; the lock itself is another's
                return False
            self._checked = Moment()
        return True

    def store(self) -> TraceStore:
        """The traces, as they stand at the time of the call.

        Raises:
            DamagedFileError: A segment of the log is missing, truncated, or fails a checksum.
        """
        asked_at = time.monotonic()
        store = self._traces()
        if not self.holds():
            with self._looking:
                if self._looked_at < asked_at:  # else somebody looked meanwhile
                    now = time.monotonic()
                    store.refresh()
                    self._looked_at = now
        return store

    def submit(self, decide: Decide, *, n_events: int = 1, n_bytes: int = 0) -> Future[Any]:
        """Have something written; the answer comes when it is durable.

        Args:
            decide: Drafts it and returns the answer; called again where another Ledger wrote in between.
            n_events: How many events these are at most.
            n_bytes: About how much memory they take.

        Raises:
            OverloadedError: Too much is waiting, or this is being closed.
        """
        request = _Request(decide, n_events, n_bytes)
        with self._changed:
            if self.is_closed:
                raise closing()
            if self._waiting and (self._waiting_bytes + n_bytes > _WAITING_BYTES or len(self._waiting) >= _WAITING):
                raise OverloadedError("too much is waiting to be written.", hint="try again in a moment.")
            self._waiting.append(request)
            self._waiting_bytes += n_bytes
            self._changed.notify()
        return request.answer

    def sweep(self) -> int:
        """Delete what is past its time, and free the space of what was deleted before; how many spans these were.

        Raises:
            OverloadedError: Another Ledger writes.
            DamagedFileError: A segment of the log is missing, truncated, or fails a checksum.
        """
        with self._house:
            gone = self._expire()
            if self.holds():
                store = self._traces()
                store.refresh()  # raylens gc makes and removes segments too
                store.tidy()
                store.purge(time.time() - PURGE_S)
                store.collect(time.time() - COLLECT_S)
            return gone

    def close(self) -> None:
        """Write what was accepted, release the lock, and end."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._wake.set()
        here = threading.current_thread()  # one of these two, where they come upon the last reference to a Ledger
        if here is not self._committing:
            self._committing.join()
        self._release()
        if here is not self._keeping:
            self._keeping.join()

    # ------------------------------------------------------------------ committing

    def _commit_all(self) -> None:
        while requests := self._next():
            self._commit(requests)
            self._wake.set()

    def _next(self) -> list[_Request]:
        """What fits into the next commit, once there is something; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.is_closed)
            taken: list[_Request] = []
            n_events = n_bytes = 0
            while self._waiting:
                n_events += self._waiting[0].n_events
                n_bytes += self._waiting[0].n_bytes
                if taken and (n_events > MOST_AT_ONCE or n_bytes > _COMMIT_BYTES):
                    break
                taken.append(self._waiting.popleft())
            self._waiting_bytes -= sum(one.n_bytes for one in taken)
            return taken

    def _commit(self, requests: list[_Request]) -> None:
        open_requests = [one for one in requests if one.answer.set_running_or_notify_cancel()]
        while open_requests:
            try:
                store = self._hold()
                answers = store.transact(lambda draft: [_decided(one, draft) for one in open_requests])
            except _HalfDraftedError as half:
                half.request.answer.set_exception(half.error)
                open_requests.remove(half.request)
                continue
            except Exception as error:  # not lost: each caller gets it
                for one in open_requests:
                    one.answer.set_exception(error)
                return
            for one, answer in zip(open_requests, answers, strict=True):
                if isinstance(answer, RaylensError):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)
            return

    def _hold(self) -> TraceStore:
        """The traces, with the right to write them."""
        store = self._traces()
        if self.holds():
            return store
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                lock = store.turn("ledger", _TURN_S)
                break
            except BusyError as busy:
                if time.monotonic() > until or self.is_closed:
                    message = f"another Ledger writes to this workspace: {busy.message}"
                    raise OverloadedError(message, hint="try again in a moment, or end it.") from busy
        try:
            store.refresh()
        except BaseException:
            lock.release()
            raise
        self._lock, self._checked = lock, Moment()  # from now on nobody looks for what others write
        return store

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            lock.release()
        except (RaylensError, OSError) as error:
            # A full disk, say: the lock falls free with this process, or when it has been silent for a while.
            _log.warning("the lock of the log of traces could not be released: %s", error)

    def _traces(self) -> TraceStore:
        with self._opening:
            if self._opened is None:
                self._opened = TraceStore(self.workspace)
            return self._opened

    # ------------------------------------------------------------------ keeping house

    def _keep_house(self) -> None:
        due_at = time.monotonic()
        while not self.is_closed:
            self._wake.clear()
            try:
                if time.monotonic() >= due_at:
                    due_at = time.monotonic() + SWEEP_S
                    self.sweep()
                if self.holds():
                    with self._house:
                        self._traces().tidy()
            except (RaylensError, OSError) as error:
                _log.warning("housekeeping of traces: %s", error)
            if not self.is_closed:
                self._wake.wait(max(0.0, due_at - time.monotonic()))

    def _expire(self) -> int:
        if self._retention is None:
            return 0
        before = datetime.now(UTC) - self._retention
        gone = 0
        while self.store().started_before(before):
            answer = self.submit(lambda draft: draft.delete_before(before, DELETED_AT_ONCE), n_events=DELETED_AT_ONCE)
            gone += answer.result()
        return gone


class _HalfDraftedError(Exception):
    """A request failed after some of it was drafted, which must not be committed."""

    def __init__(self, request: _Request, error: RaylensError) -> None:
        super().__init__(str(error))
        self.request, self.error = request, error


def _decided(request: _Request, draft: Draft) -> Any:
    """The answer to a request, or the error that is its answer."""
    before = len(draft.events)
    try:
        return request.decide(draft)
    except RaylensError as error:
        if len(draft.events) > before:
            raise _HalfDraftedError(request, error) from error
        return error


def closing() -> OverloadedError:
    """Nothing more is taken."""
    return OverloadedError("this Ledger is being ended.", hint="try again in a moment: its successor answers.")
