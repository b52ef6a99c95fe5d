"""Spans and what was read of them, as they stand: an index of the log of traces in memory, and its texts on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylens.api.extraction import Extraction
from raylens.errors import DamagedFileError, UnknownNameError
from raylens.schema import SPANS
from raylens.store.commits import Segment
from raylens.store.trace_index import COLUMNS, Key, SpanEntry, TraceIndex
from raylens.store.trace_log import TraceLog
from raylens.store.trace_rows import extraction_of, sequence_of, span_of
from raylens.store.workspace import Workspace
from raylens.traces.listing import SpanFilter, TraceSummary
from raylens.traces.span import Span

_READING: Final = ("span_id", "model", "sae", "layer", "features", "activations", "positions", "n_tokens", "n_dropped",
                   "extracted_at")  # fmt: skip
_TEXTS: Final = ("name", "input", "output")

T = TypeVar("T")


class TraceReader:
    """The traces of a workspace as of the last :meth:`refresh`; threads may share one.

    Args:
        workspace: Where they are.

    Raises:
        DamagedFileError: A segment of the log is missing, truncated, or fails a checksum.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.log = TraceLog(workspace.files)
        self._index = TraceIndex()
        self._covering: list[Segment] = []
        self._updating = threading.RLock()  # held while what is known of the log is brought up to date
        self._mutex = threading.Lock()  # held for as long as the index is looked at or changed
        self._seen_at = Moment()
        self.refresh()

    def refresh(self) -> None:
        """See what others committed.

        Raises:
            DamagedFileError: A segment is missing, truncated, or fails a checksum.
        """
        with self._updating:
            while True:
                covering = self.log.commits.covering()
                if covering == self._covering:
                    break
                try:
                    self._take_in(covering)
                except DamagedFileError:
                    if all(self.log.files.exists(one.path) for one in covering):
                        raise
                    continue  # rolled into another segment and collected since it was listed
                break
            self._seen_at = Moment()

    def counts(self) -> tuple[int, int]:
        """How many spans there are, and extractions."""
        with self._mutex:
            return len(self._index.spans), self._index.n_readings

    def span(self, span_id: str) -> Span:
        """One span.

        Raises:
            UnknownNameError: There is none.
            DamagedFileError: The segment that holds it cannot be read.
        """
        row = self.span_row(span_id)
        if row is None:
            raise unknown_span(span_id)
        return span_of(row)

    def spans(self, which: SpanFilter, limit: int, offset: int = 0) -> tuple[list[Span], int]:
        """One page, the latest first, and how many there are in all.

        Args:
            which: Spans.
            limit: Of the page.
            offset: How many come before it.
        """
        found = self._matching(which)
        page = [span_id for _, span_id in _page(found, limit, offset)]
        return [span_of(row) for row in self._rows(page)], len(found)

    def traces(self, which: SpanFilter, limit: int, offset: int = 0) -> tuple[list[TraceSummary], int]:
        """One page of traces that hold such spans, the latest first, and how many there are in all."""
        spans = None if which == SpanFilter() else self._matching(which)
        with self._mutex:
            there = None if spans is None else [key for key in spans if key[1] in self._index.spans]
            found = self._index.traces_of(there)
            return [self._index.summary(name) for _, name in _page(found, limit, offset)], len(found)

    def traces_of(self, span_ids: Iterable[str]) -> dict[str, str]:
        """Of those of these spans that there are, the trace that each belongs to."""
        found = {span_id: self.entry(span_id) for span_id in span_ids}
        return {span_id: entry.trace_id for span_id, entry in found.items() if entry}

    def look(self, span_ids: Sequence[str]) -> dict[str, tuple[Span, list[Extraction]]]:
        """Of those of these spans that there are, each with all that was read of it; a row group is read once."""

        def look() -> dict[str, tuple[Span, list[Extraction]]]:
            with self._mutex:
                entries = [entry for one in set(span_ids) if (entry := self._index.spans.get(one))]
                readings = [seq for one in set(span_ids) for seq in self._index.readings.get(one, {}).values()]
                covering = self._covering
            spans = self.log.rows(covering, [entry.sequence for entry in entries], SPANS.names)
            known: dict[str, list[Extraction]] = {row["span_id"]: [] for row in spans.values()}
            for row in self.log.rows(covering, readings, _READING).values():
                if row["span_id"] in known:
                    known[row["span_id"]].append(extraction_of(row))
            return {row["span_id"]: (span_of(row), _ordered(known[row["span_id"]])) for row in spans.values()}

        return self._retried(look)

    def extraction(self, span_id: str, model: str, sae: str) -> Extraction | None:
        """What a model and an SAE read of a span; None where they did not."""
        found = self._readings(lambda known: [known[model, sae]] if (model, sae) in known else [], span_id)
        return found[0] if found else None

    def extractions(self, span_id: str) -> list[Extraction]:
        """All that was read of a span, in order of models and SAEs."""
        return _ordered(self._readings(lambda known: list(known.values()), span_id))

    # ------------------------------------------------------------------ without texts

    def entry(self, span_id: str) -> SpanEntry | None:
        """A span without its texts; None where there is none."""
        with self._mutex:
            return self._index.spans.get(span_id)

    def span_row(self, span_id: str) -> dict[str, Any] | None:
        """The row of the log that says a span; None where there is none."""
        return next(iter(self._rows([span_id])), None)

    def has_readings(self, span_id: str) -> bool:
        """Whether something was read of a span."""
        with self._mutex:
            return span_id in self._index.readings

    def spans_of(self, trace_id: str) -> list[str]:
        """Ids of the spans of a trace."""
        with self._mutex:
            return list(self._index.spans_of(trace_id))

    def started_before(self, moment: datetime) -> list[str]:
        """Ids of the spans that started before a time, the oldest first."""
        with self._mutex:
            return [span_id for _, span_id in self._index.matching(SpanFilter(until=moment))]

    # ------------------------------------------------------------------ inside

    @property
    def _last(self) -> int:
        return self._covering[-1].last if self._covering else 0

    def _take_in(self, covering: list[Segment]) -> None:
        # A segment from the start has no deletions any more: what they deleted may still be in the index.
        straddled = bool(covering) and covering[0].first == 1 and covering[0].last > self._last
        anew = straddled or not covering or covering[-1].last < self._last
        after = 0 if anew else self._last
        tables = [
            rows.filter(pc.field("sequence") >= sequence_of(after + 1, 0))
            for one in covering
            if one.last > after
            for rows in self.log.every(one, COLUMNS)
        ]
        index = TraceIndex() if anew else self._index
        if anew and tables:
            index.apply(pa.concat_tables(tables))
        with self._mutex:
            if not anew and tables:
                index.apply(pa.concat_tables(tables))
            self._index, self._covering = index, covering

    def _matching(self, which: SpanFilter) -> list[Key]:
        with self._mutex:
            found = self._index.matching(which)
            sequences = {self._index.spans[span_id].sequence: span_id for _, span_id in found} if which.text else {}
        if not which.text:
            return found
        holding = self._retried(lambda: self._holding(sequences, which.text or ""))
        return [key for key in found if key[1] in holding]

    def _holding(self, sequences: dict[int, str], text: str) -> set[str]:
        options = pc.MatchSubstringOptions(text, ignore_case=True)
        found: set[str] = set()
        for wanted, rows in self.log.groups(self._covering, sequences, _TEXTS):
            hits = [pc.call_function("match_substring", [rows[name]], options).fill_null(False) for name in _TEXTS]
            among = rows["sequence"].to_numpy()[np.any([hit.to_numpy() for hit in hits], axis=0)]
            found.update(sequences[one] for one in np.intersect1d(among, wanted).tolist())
        return found

    def _rows(self, span_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of those of some spans that are there, in their order."""

        def look() -> list[dict[str, Any]]:
            with self._mutex:
                entries = [self._index.spans.get(span_id) for span_id in span_ids]
                covering = self._covering
            sequences = [entry.sequence for entry in entries if entry]
            rows = self.log.rows(covering, sequences, SPANS.names)
            return [rows[one] for one in sequences if one in rows]

        return self._retried(look)

    def _readings(self, which: Callable[[dict[tuple[str, str], int]], list[int]], span_id: str) -> list[Extraction]:
        def look() -> list[Extraction]:
            with self._mutex:
                sequences = which(self._index.readings.get(span_id, {}))
                covering = self._covering
            return [extraction_of(row) for row in self.log.rows(covering, sequences, _READING).values()]

        return self._retried(look)

    def _retried(self, look: Callable[[], T]) -> T:
        """What ``look`` finds, once more where segments were collected under its hands."""
        covering = self._covering
        try:
            return look()
        except DamagedFileError:
            if all(self.log.files.exists(one.path) for one in covering):
                raise
        self.refresh()
        return look()


class Moment:
    """A point in time."""

    def __init__(self) -> None:
        self._wall, self._steady = time.time(), time.monotonic()

    def age_s(self) -> float:
        """Seconds since then, also where this machine slept meanwhile or its clock was set."""
        return max(time.time() - self._wall, time.monotonic() - self._steady)


def _ordered(found: list[Extraction]) -> list[Extraction]:
    return sorted(found, key=lambda one: (one.model, one.sae))


def _page(keys: Sequence[Key], limit: int, offset: int) -> Sequence[Key]:
    """The last ones first."""
    end = max(0, len(keys) - offset)
    return keys[max(0, end - limit) : end][::-1]


def unknown_span(span_id: str) -> UnknownNameError:
    """There is no such span."""
    return UnknownNameError(f"there is no span {span_id!r}.", hint="it may have been deleted; spans can be listed.")
