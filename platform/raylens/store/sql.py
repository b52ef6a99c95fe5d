"""The one door for SQL from outside: command line, app and MCP tools pass through :func:`query`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa

from raylens.errors import QueryError, RaylensError
from raylens.store.sql_guard import checked
from raylens.store.view_schemas import VIEWS
from raylens.store.views import connect, damage_in, one_line
from raylens.store.workspace import Workspace

_BATCH_ROWS: Final = 2048
_LOOK_S: Final = 0.05
"""Between looks whether a query is to be stopped."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows of a query.

    Attributes:
        table: At most ``max_rows`` rows.
        truncated: Whether there were more.
    """

    table: pa.Table
    truncated: bool


def query(
    workspace: Workspace,
    sql: str,
    *,
    timeout_s: float = 30.0,
    memory: str = "2GB",
    max_rows: int = 100_000,
    stop: threading.Event | None = None,
) -> QueryResult:
    """Run one SELECT, or EXPLAIN of one, over the views of a workspace.

    Args:
        workspace: What to ask.
        sql: In DuckDB's dialect; what it may say is in :mod:`raylens.store.sql_guard`.
        timeout_s: Seconds after which the query is interrupted.
        memory: DuckDB's memory limit; nothing is spilled to disk.
        max_rows: Rows returned at most; the rest is never computed where the plan allows.
        stop: Interrupts the query once it is set.

    Raises:
        QueryError: The query is refused, does not run, exceeds a limit, or was stopped.
        DamagedFileError: A file that it reads is damaged.
    """
    statement = checked(sql)
    with (
        connect(workspace, only=statement.views, memory=memory, locked=True) as connection,
        _interruptible(connection, timeout_s, stop) as cut_off,
    ):
        try:
            return _run(connection, statement.sql, max_rows)
        except (duckdb.Error, pa.ArrowException, OSError) as error:  # DuckDB's own, or as Arrow passes it on
            if cut_off.is_set() and stop is not None and stop.is_set():
                raise stopped() from error
            if cut_off.is_set():
                raise QueryError(
                    f"the query ran longer than {timeout_s:g} s.",
                    hint="narrow it with WHERE sae = … AND feature = …, or give it more time.",
                ) from error
            raise _explained(error, memory) from error


def stopped() -> QueryError:
    """What somebody is told who stopped a query."""
    return QueryError("the query was stopped.", hint="run it again when you want what it finds.")


def _run(connection: duckdb.DuckDBPyConnection, sql: str, max_rows: int) -> QueryResult:
    reader = connection.sql(sql).to_arrow_reader(min(_BATCH_ROWS, max_rows + 1))
    batches: list[pa.RecordBatch] = []
    n_rows = 0
    for batch in reader:
        batches.append(batch)
        n_rows += batch.num_rows
        if n_rows > max_rows:
            break
    table = pa.Table.from_batches(batches, reader.schema)
    return QueryResult(table.slice(0, max_rows), truncated=n_rows > max_rows)


@contextmanager
def _interruptible(
    connection: duckdb.DuckDBPyConnection, timeout_s: float, stop: threading.Event | None
) -> Iterator[threading.Event]:
    """Interrupt what runs in the block after ``timeout_s`` or when asked to; yields the event that says that it did."""
    done, cut_off = threading.Event(), threading.Event()

    def watch() -> None:
        until = time.monotonic() + timeout_s
        # Again and again: an interrupt between two calls into DuckDB is forgotten by the next one.
        while not done.wait(_LOOK_S if cut_off.is_set() or stop is not None else timeout_s):
            if time.monotonic() >= until or (stop is not None and stop.is_set()):
                cut_off.set()
                connection.interrupt()

    watcher = threading.Thread(target=watch, name="raylens-query-watch", daemon=True)
    watcher.start()
    try:
        yield cut_off
    finally:
        done.set()
        watcher.join()


def _explained(error: Exception, memory: str) -> RaylensError:
    text = one_line(error)
    if "Out of Memory" in text:
        return QueryError(
            f"the query needs more than {memory} of memory.", hint="narrow it with WHERE, or aggregate before sorting."
        )
    if damaged := damage_in(error):
        return damaged
    columns = "; ".join(
        f"{name}({', '.join(VIEWS[name].names)})" for name in ("activations", "feature_stats", "windows")
    )
    return QueryError(f"the query does not run: {text}.", hint=f"columns are {columns}; others in the documentation.")
