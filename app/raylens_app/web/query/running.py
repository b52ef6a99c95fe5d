"""A query under way: in a thread of its own, so that its page, and everybody else's, answers meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from raylens.store.sql import QueryResult, query, stopped
from raylens.store.workspace import Workspace

TIMEOUT_S: Final = 30.0
MEMORY: Final = "1GB"
_AT_ONCE: Final = 4
"""Queries of all sessions together; others wait for their turn."""
_KEPT_BYTES: Final = 64 * 2**20
"""Of a result, for a session keeps its last one."""

_POOL: Final = ThreadPoolExecutor(_AT_ONCE, "raylens-app-sql")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a session keeps of a result.

    Attributes:
        table: Its first rows.
        truncated: Whether there are more rows than were asked for.
        cut: Whether rows were left out because they are too large to be kept.
    """

    table: pa.Table
    truncated: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class Job:
    """One query of one session.

    Attributes:
        sql: The query.
        rows: At most so many.
        future: What comes of it.
        asked_to_stop: Set by :meth:`stop`.
        began: By the steady clock, seconds.
    """

    sql: str
    rows: int
    future: Future[Kept]
    asked_to_stop: threading.Event
    began: float = field(default_factory=time.monotonic)

    @property
    def waits(self) -> bool:
        """Whether other queries have to end first."""
        return not self.future.running() and not self.future.done()

    def stop(self) -> None:
        """Have it end now, with an error that says so; one that waits for its turn has had it."""
        self.asked_to_stop.set()
        self.future.cancel()

    def done_within(self, seconds: float) -> bool:
        """Whether it has ended, at the latest after so many seconds."""
        try:
            self.future.exception(seconds)
        except Late:
            return False
        except CancelledError:
            pass
        return True

    def result(self) -> Kept:
        """What came of it.

        Raises:
            QueryError: It was refused, did not run, exceeded a limit, or was stopped.
            DamagedFileError: A file that it reads is damaged.
        """
        if self.future.cancelled():
            raise stopped()
        return self.future.result()


def start(workspace: Workspace, sql: str, rows: int) -> Job:
    """Have a query run; it ends by itself after :data:`TIMEOUT_S`."""
    stop = threading.Event()
    return Job(sql, rows, _POOL.submit(_run, workspace, sql, rows, stop), stop)


def _run(workspace: Workspace, sql: str, rows: int, stop: threading.Event) -> Kept:
    found: QueryResult = query(workspace, sql, timeout_s=TIMEOUT_S, memory=MEMORY, max_rows=rows, stop=stop)
    n_rows = _fitting(found.table)
    cut = n_rows < found.table.num_rows
    table = found.table if not cut else pa.concat_tables([found.table.slice(0, n_rows)]).combine_chunks()
    return Kept(table, found.truncated, cut)


def _fitting(table: pa.Table) -> int:
    """How many of the first rows take no more than may be kept, about."""
    n_rows = table.num_rows
    while n_rows and table.slice(0, n_rows).nbytes > _KEPT_BYTES:
        n_rows //= 2
    return n_rows
