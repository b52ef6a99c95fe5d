"""What is known already of features from elsewhere: ``feature_cache`` and ``explanation_cache``, merged (A2.11).

Look-ups come one by one and files are immutable, so what is new waits in a buffer and is committed in batches, both
tables in one step. It can be read at once; what a killed process had not committed is fetched again.

Several rows may be about one feature: a page that was fetched, lines of an export, an older database.
:mod:`raylens.labels.merging` puts them together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.ids import digest
from raylens.labels.counts import Counts, count
from raylens.labels.explanations import Explanation, Page, as_json
from raylens.labels.merging import Known, known_from, merged_page
from raylens.labels.names import NeuronpediaId
from raylens.store.files import Files
from raylens.store.label_cache import LABEL_TABLES, SCHEMAS, LabelFolder, LabelTable, label_folders
from raylens.store.label_reader import LabelReader
from raylens.store.label_rolling import GRACE_S, collect, roll

Origin = Literal["remote", "export", "sqlite"]

_LAST_INDEX: Final = 2**31 - 1


@dataclass(slots=True)
class _Waiting:
    """Rows of one source that are not committed yet, and the digests of each table's."""

    rows: dict[LabelTable, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in LABEL_TABLES})
    marks: dict[LabelTable, set[int]] = field(default_factory=lambda: {name: set() for name in LABEL_TABLES})
    size: int = 0


class LabelStore:
    """Labels of a workspace; a context manager that commits what waits. Safe to use from several threads.

    Args:
        files: The workspace's.
        commit_rows: Rows that wait at most, of one source, before they are committed.
        commit_bytes: Characters of their payloads likewise.
    """

    def __init__(self, files: Files, *, commit_rows: int = 256, commit_bytes: int = 16 * 2**20) -> None:
        self._files, self._commit_rows, self._commit_bytes = files, commit_rows, commit_bytes
        self._turn = threading.RLock()
        self._readers: dict[NeuronpediaId, LabelReader] = {}
        self._waiting: dict[NeuronpediaId, _Waiting] = {}
        self._digests: dict[tuple[NeuronpediaId, LabelTable], NDArray[np.int64]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ reading

    def look(self, source: NeuronpediaId, indices: Iterable[int]) -> dict[int, Known]:
        """What is known of some features, each of them in the answer.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        wanted = sorted(set(indices))
        with self._turn:
            pages = self._rows(source, "feature_cache", wanted, ["index", "status"])
            said = self._rows(source, "explanation_cache", wanted, ["index", "status", "payload", "fetched_at"])
        by_page = _grouped(pages)
        by_words = _grouped(said)
        return {index: known_from(by_page.get(index, ()), by_words.get(index, ())) for index in wanted}

    def page(self, source: NeuronpediaId, index: int) -> dict[str, Any] | None:
        """The page of a feature as Neuronpedia's API gives it, always with ``explanations``; None where none exists."""
        columns = ["index", "status", "payload", "fetched_at", "digest"]
        with self._turn:
            rows = list(self._rows(source, "feature_cache", [index], columns))
            known = self.look(source, [index])[index]
        if known.status != "ok":
            return None
        payload: dict[str, Any] = {"modelId": source.model, "layer": source.source, "index": str(index)}
        payload |= merged_page(row for row in rows if row["status"] == "ok")
        return payload | {"explanations": [dict(one.payload) for one in known.explanations]}

    def explained(self, source: NeuronpediaId) -> NDArray[np.int64]:
        """``[n]`` int64, rising: the features that there is an explanation of."""
        with self._turn:
            reader = self._reader(source)
            found = reader.column("explanation_cache", ["index", "status"]) if reader else None
            waiting = [row["index"] for row in self._buffer(source, "explanation_cache") if row["status"] == "ok"]
        parts = [np.array(waiting, np.int64)]
        if found is not None:
            ok = found["status"].to_numpy(zero_copy_only=False) == "ok"
            parts.append(found["index"].to_numpy()[ok].astype(np.int64))
        return np.unique(np.concatenate(parts))

    def sources(self) -> list[NeuronpediaId]:
        """Every source that something is known of, sorted."""
        with self._turn:
            stored = {NeuronpediaId(one.model, one.source) for one in label_folders(self._files)}
            return sorted(stored | {one for one, waiting in self._waiting.items() if any(waiting.rows.values())})

    def counts(self, source: NeuronpediaId) -> Counts:
        """What is kept of one source, what still waits left out."""
        with self._turn:
            reader = self._reader(source)
            if reader is None:
                return Counts(source)
            return count(reader, source)

    # ------------------------------------------------------------------ writing

    def put_page(
        self, source: NeuronpediaId, index: int, page: Page, origin: Origin, *, once: bool = False
    ) -> tuple[bool, int]:
        """Keep a page and its explanations.

        Args:
            source: Whose.
            index: Of which feature.
            page: What is said.
            origin: Where it comes from.
            once: Leave out what is kept already, whenever and from wherever it came: what an import does.

        Returns:
            Whether the page was new, and how many of its explanations were.
        """
        with self._turn:
            n_said = sum(self._put_words(source, index, one, origin, once) for one in page.explanations)
            new = self._put(source, "feature_cache", index, as_json(page.payload), origin, once, {})
            self._commit_if_full(source)  # not between a page and its explanations
            return new, n_said

    def put_explanation(
        self, source: NeuronpediaId, index: int, one: Explanation, origin: Origin, *, once: bool = False
    ) -> bool:
        """Keep one explanation of a feature; the arguments, and what is returned, as for :meth:`put_page`."""
        with self._turn:
            new = self._put_words(source, index, one, origin, once)
            self._commit_if_full(source)
            return new

    def put_missing(
        self,
        source: NeuronpediaId,
        index: int,
        origin: Origin,
        *,
        once: bool = False,
        table: LabelTable = "feature_cache",
    ) -> bool:
        """Keep that whoever was asked has no such feature, or (``explanation_cache``) no explanation of it."""
        with self._turn:
            new = self._put(source, table, index, None, origin, once, {})
            self._commit_if_full(source)
            return new

    def flush(self) -> None:
        """Commit what waits.

        Raises:
            DiskFullError: No space; what could not be committed still waits.
        """
        with self._turn:
            for source in list(self._waiting):
                self._commit(source)

    def close(self) -> None:
        """Commit what waits, and close what is open."""
        with self._turn:
            self.flush()
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
            self._digests.clear()

    def refresh(self) -> bool:
        """See what others have committed since; returns whether anything was."""
        with self._turn:
            changed = [source for source, reader in self._readers.items() if reader.refresh()]
            for source in changed:
                for table in LABEL_TABLES:
                    self._digests.pop((source, table), None)
            return bool(changed)

    def _put_words(self, source: NeuronpediaId, index: int, one: Explanation, origin: Origin, once: bool) -> bool:
        more = {
            "explanation_id": one.explanation_id,
            "type_name": one.type_name,
            "description": one.description,
            "score": one.score,
        }
        return self._put(source, "explanation_cache", index, as_json(one.payload), origin, once, more)

    def _put(
        self,
        source: NeuronpediaId,
        table: LabelTable,
        index: int,
        payload: str | None,
        origin: Origin,
        once: bool,
        more: Mapping[str, object],
    ) -> bool:
        if not 0 <= index <= _LAST_INDEX:
            raise InputError(f"{index} is no index of a feature.", hint="features count from 0.")
        status = "missing" if payload is None else "ok"
        mark = int.from_bytes(bytes.fromhex(digest(f"{index} {status} {payload or ''}")[:16]), "big", signed=True)
        waiting = self._waiting.setdefault(source, _Waiting())
        if once and (mark in waiting.marks[table] or self._is_kept(source, table, mark)):
            return False
        row = {"model": source.model, "source": source.source, "index": index, "status": status, "payload": payload}
        row |= {"digest": mark, "origin": origin, "fetched_at": datetime.now(UTC), **more}
        waiting.rows[table].append(row)
        waiting.marks[table].add(mark)
        waiting.size += len(payload or "")
        return True

    def _commit_if_full(self, source: NeuronpediaId) -> None:
        waiting = self._waiting.get(source)
        if waiting is None:
            return
        if waiting.size >= self._commit_bytes or max(map(len, waiting.rows.values())) >= self._commit_rows:
            self._commit(source)

    def _commit(self, source: NeuronpediaId) -> None:
        waiting = self._waiting[source]
        folder = LabelFolder(self._files, source.model, source.source)
        tables: dict[LabelTable, pa.Table] = {
            table: pa.Table.from_pylist(rows, SCHEMAS[table]) for table, rows in waiting.rows.items()
        }
        if folder.write(tables):
            for table, marks in waiting.marks.items():
                if (source, table) in self._digests:
                    self._digests[source, table] = np.union1d(self._digests[source, table], np.array(list(marks)))
            del self._waiting[source]
            if roll(folder) is not None:
                collect(folder, datetime.now(UTC).timestamp() - GRACE_S)
        if reader := self._readers.get(source):
            reader.refresh()

    def _is_kept(self, source: NeuronpediaId, table: LabelTable, mark: int) -> bool:
        marks = self._digests.get((source, table))
        if marks is None:
            reader = self._reader(source)
            column = reader.column(table, ["digest"])["digest"].to_numpy() if reader else np.zeros(0, np.int64)
            marks = self._digests[source, table] = np.unique(column)
        place = int(np.searchsorted(marks, mark))
        return place < len(marks) and int(marks[place]) == mark

    def _buffer(self, source: NeuronpediaId, table: LabelTable) -> list[dict[str, Any]]:
        return self._waiting[source].rows[table] if source in self._waiting else []

    def _rows(
        self, source: NeuronpediaId, table: LabelTable, indices: Sequence[int], columns: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        reader = self._reader(source)
        stored = reader.rows(table, indices, columns).to_pylist() if reader and indices else []
        wanted = set(indices)
        waiting = [row for row in self._buffer(source, table) if row["index"] in wanted]
        return iter([*stored, *waiting])

    def _reader(self, source: NeuronpediaId) -> LabelReader | None:
        reader = self._readers.get(source)
        if reader is None:
            found = LabelReader(LabelFolder(self._files, source.model, source.source))
            if not found.segments:
                return None
            reader = self._readers[source] = found
        return reader


def _grouped(rows: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["index"], []).append(row)
    return found
