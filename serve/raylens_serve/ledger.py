"""The Ledger: the one deployment that writes. Spans, and what models and SAEs read of them, durable when it answers.

It holds the lock of the log of traces from its first write until it ends. When services are replaced while they run,
the next one waits for it; should two write all the same, because one was paused for long, neither loses or repeats
anything (:mod:`raylens.store.traces`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from raylens.api.extraction import Extraction
from raylens.errors import InputError, RaylensError, RunError
from raylens.store.lock import holder
from raylens.store.trace_draft import Draft
from raylens.store.trace_reader import unknown_span
from raylens.store.trace_rows import extraction_kept, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens.traces.listing import SpanFilter, TraceSummary
from raylens.traces.span import Span
from raylens_serve.ledger_writer import DELETED_AT_ONCE, MOST_AT_ONCE, LedgerWriter, closing

_THREADS: Final = 8
_SCANS: Final = 2  # searches of texts, which read all of them; others do not wait for these

T = TypeVar("T")


class Ledger:
    """Traces of a workspace, which is made where there is none.

    Every method raises DamagedFileError where a segment of the log cannot be read, and OverloadedError while it ends;
    those that write also DiskFullError, and OverloadedError where another Ledger writes or too much is waiting.

    Args:
        workspace_url: Folder or URL.
        retention_days: Spans that started longer ago are deleted, at the start and every hour; None keeps them.
    """

    def __init__(self, workspace_url: str, retention_days: float | None = None) -> None:
        self._writer = LedgerWriter(Workspace.open(workspace_url, create=True), retention_days)
        self._pool = ThreadPoolExecutor(_THREADS, "raylens-ledger-read")
        self._scans = ThreadPoolExecutor(_SCANS, "raylens-ledger-scan")
        self._preparing = ThreadPoolExecutor(_SCANS, "raylens-ledger-write")

    # ------------------------------------------------------------------ writing

    async def add_spans(self, spans: Sequence[Span]) -> tuple[str, ...]:
        """Write spans, all or none; one that is there as it is costs nothing. Their ids, in order.

        Raises:
            InputError: One is too large, or there are too many.
        """

        def submit() -> Future[Any]:
            if len(spans) > MOST_AT_ONCE:
                raise InputError(
                    f"{len(spans):,} spans at a time are too many.", hint=f"send {MOST_AT_ONCE:,} at most."
                )
            events = [span_written(span) for span in spans]

            def decide(draft: Draft) -> tuple[str, ...]:
                for event in events:
                    draft.write(event)
                return tuple(event.span_id for event in events)

            n_bytes = sum(event.n_bytes for event in events)
            return self._writer.submit(decide, n_events=len(events), n_bytes=n_bytes)

        return await self._written(submit)

    async def delete(self, span_ids: Sequence[str]) -> int:
        """Delete spans with all that was read of them; how many there were."""
        gone = 0
        for first in range(0, len(span_ids), DELETED_AT_ONCE):
            some = span_ids[first : first + DELETED_AT_ONCE]
            gone += await self._deleted(lambda draft, some=some: sum([draft.delete(one) for one in some]), len(some))
        return gone

    async def delete_trace(self, trace_id: str) -> int:
        """Delete all spans of a trace; how many there were."""
        gone = 0
        while True:
            some = await self._deleted(lambda draft: draft.delete_trace(trace_id, DELETED_AT_ONCE), DELETED_AT_ONCE)
            gone += some
            if some < DELETED_AT_ONCE:
                return gone

    async def keep(
        self, extractions: Sequence[Extraction], again: bool = False
    ) -> list[Extraction | RaylensError | None]:
        """Keep what was read, each by itself; where somebody else was first (and not ``again``) theirs stays.

        Returns:
            Of each in order: None where it is kept as it is, what was there before it, or why it cannot be kept:
            UnknownNameError, as its span is not there (any more), or what writing raises.
        """

        def submit() -> list[Future[Any] | RaylensError]:
            return [_tried(lambda one=one: self._submit_one(one, again)) for one in extractions]

        self._open()
        submitted = await asyncio.get_running_loop().run_in_executor(self._preparing, submit)
        return [one if isinstance(one, RaylensError) else await _outcome(one) for one in submitted]

    def _submit_one(self, extraction: Extraction, again: bool) -> Future[Any]:
        event = extraction_kept(extraction)
        return self._writer.submit(lambda draft: draft.keep(event, again=again), n_bytes=event.n_bytes)

    # ------------------------------------------------------------------ reading

    async def span(self, span_id: str) -> Span:
        """One span.

        Raises:
            UnknownNameError: There is none.
        """
        return await self._read(lambda store: store.span(span_id))

    async def traces_of(self, span_ids: Sequence[str]) -> dict[str, str]:
        """Of those of these spans that there are, the trace that each belongs to."""
        return await self._read(lambda store: store.traces_of(span_ids))

    async def spans(self, which: SpanFilter, limit: int, offset: int) -> tuple[list[Span], int]:
        """One page, the latest first, and how many there are in all."""
        return await self._read(lambda store: store.spans(which, limit, offset), self._pool_for(which))

    async def traces(self, which: SpanFilter, limit: int, offset: int) -> tuple[list[TraceSummary], int]:
        """One page of traces that hold such spans, the latest first, and how many there are in all."""
        return await self._read(lambda store: store.traces(which, limit, offset), self._pool_for(which))

    async def look(self, span_ids: Sequence[str]) -> list[tuple[Span, list[Extraction]] | RaylensError]:
        """Spans with all that was read of them; UnknownNameError in the place of one that is not there."""

        def look(store: TraceStore) -> list[tuple[Span, list[Extraction]] | RaylensError]:
            found = store.look(span_ids)
            return [found.get(one) or unknown_span(one) for one in span_ids]

        return await self._read(look)

    async def extractions(self, span_id: str) -> list[Extraction]:
        """All that was read of a span."""
        return await self._read(lambda store: store.extractions(span_id))

    async def status(self) -> dict[str, Any]:
        """``writes`` (nobody else does), ``spans`` and ``extractions`` (how many), ``workspace`` (where)."""

        def look(store: TraceStore) -> dict[str, Any]:
            spans, extractions = store.counts()
            writes = self._writer.holds() or holder(store.log.files, store.log.commits.lock_folder) is None
            return {"writes": writes, "spans": spans, "extractions": extractions, "workspace": store.log.files.url}

        return await self._read(look)

    # ------------------------------------------------------------------ the deployment

    async def sweep(self) -> int:
        """Delete what is past its time now; how many spans these were."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._writer.sweep)

    def check_health(self) -> None:
        """Ray Serve asks now and then, and replaces a replica that raises.

        Raises:
            RunError: Nothing would be written any more.
        """
        if not self._writer.is_closed and not self._writer.is_alive:
            raise RunError("a thread of the Ledger has ended.", hint="its log says why.")

    async def close(self) -> None:
        """Write what was accepted, release the lock, and end."""
        await asyncio.to_thread(self._end)

    def __del__(self) -> None:
        """Ray Serve calls this when a replica ends."""
        self._end()

    def _end(self) -> None:
        if hasattr(self, "_writer"):  # else the workspace could not be opened
            self._writer.close()
            for pool in (self._pool, self._scans, self._preparing):
                pool.shutdown(wait=False)

    def _pool_for(self, which: SpanFilter) -> ThreadPoolExecutor:
        return self._scans if which.text else self._pool

    async def _read(self, look: Callable[[TraceStore], T], pool: ThreadPoolExecutor | None = None) -> T:
        writer = self._open()
        return await asyncio.get_running_loop().run_in_executor(pool or self._pool, lambda: look(writer.store()))

    async def _written(self, submit: Callable[[], Future[Any]]) -> Any:
        self._open()
        answer = await asyncio.get_running_loop().run_in_executor(self._preparing, submit)
        return await asyncio.wrap_future(answer)

    def _open(self) -> LedgerWriter:
        if self._writer.is_closed:
            raise closing()
        return self._writer

    async def _deleted(self, decide: Callable[[Draft], int], most: int) -> int:
        return await self._written(lambda: self._writer.submit(decide, n_events=most))


def _tried(work: Callable[[], T]) -> T | RaylensError:
    """What comes of it, or why nothing does."""
    try:
        return work()
    except RaylensError as error:
        return error


async def _outcome(written: Future[T]) -> T | RaylensError:
    try:
        return await asyncio.wrap_future(written)
    except RaylensError as error:
        return error
