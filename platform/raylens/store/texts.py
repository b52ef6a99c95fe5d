"""Windows and documents of one generation, by id: where each lies is arithmetic or one search of a footer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.store.compact import WINDOWS_PER_FILE, WINDOWS_PER_GROUP
from raylens.store.manifest import Manifest
from raylens.store.parquet import TableFile

_DOCUMENT_GROUPS: Final = 32
_SIZE_GROUPS: Final = 256


class Texts:
    """Looks windows and documents up.

    Args:
        manifest: The generation.
        opened: Opens a file of it, or gives the one that is open.
    """

    def __init__(self, manifest: Manifest, opened: Callable[[str], TableFile]) -> None:
        self._cache_id = manifest.cache_id
        self._n_windows = int(manifest.totals["n_windows"])
        self._windows = {(entry.window_first or 0) // WINDOWS_PER_FILE: entry.path for entry in manifest.of("windows")}
        self._documents = [entry.path for entry in manifest.of("documents")]
        self._opened = opened
        self._document_group = lru_cache(maxsize=_DOCUMENT_GROUPS)(self._read_documents)

    def windows(self, window_ids: Iterable[int], columns: Sequence[str] | None = None) -> pa.Table:
        """``schema.WINDOWS``, a row for each id, in the order given.

        Raises:
            InputError: There is no such window.
        """
        ids = np.fromiter(window_ids, np.int64)
        outside = ids[(ids < 0) | (ids >= self._n_windows)]
        if len(outside):
            raise InputError(
                f"there is no window {outside[0]} in cache {self._cache_id}.",
                hint=f"its windows are 0 to {self._n_windows - 1}.",
            )
        distinct, place = np.unique(ids, return_inverse=True)
        file_of, within = np.divmod(distinct, WINDOWS_PER_FILE)
        tables: list[pa.Table] = []
        for index in np.unique(file_of).tolist() or [0]:
            here = within[file_of == index]
            groups, group = np.unique(here // WINDOWS_PER_GROUP, return_inverse=True)
            rows = self._opened(self._windows[index]).read(groups.tolist(), columns)
            # Every group before the last one read is full.
            tables.append(rows.take(group * WINDOWS_PER_GROUP + here % WINDOWS_PER_GROUP))
        return pa.concat_tables(tables).take(place).combine_chunks()

    def sizes(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Document and number of tokens of every window, ``[n_windows]`` each; some groups are read at a time."""
        documents, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for _, path in sorted(self._windows.items()):
            file = self._opened(path)
            for first in range(0, file.n_groups, _SIZE_GROUPS):
                rows = file.read(range(first, min(first + _SIZE_GROUPS, file.n_groups)), ["doc_id", "token_offsets"])
                documents.append(rows["doc_id"].to_numpy())
                counts.append(np.diff(rows["token_offsets"].combine_chunks().offsets.to_numpy()))
        return np.concatenate(documents), np.concatenate(counts)

    def sources(self, doc_ids: Iterable[int]) -> dict[int, tuple[str, str]]:
        """Source and path of documents, by id."""
        found: dict[int, tuple[str, str]] = {}
        for path in self._documents:
            starts = self._opened(path).bounds("doc_id")[0]
            for doc_id in set(doc_ids) - set(found):
                group = int(np.searchsorted(starts, doc_id, side="right")) - 1
                ids, rows = self._document_group(path, max(group, 0))
                row = int(np.searchsorted(ids, doc_id))
                if row < len(ids) and ids[row] == doc_id:
                    found[doc_id] = (rows["source"][row].as_py(), rows["path"][row].as_py())
        return found

    def documents(self, columns: Sequence[str]) -> pa.Table:
        """Columns of ``schema.DOCUMENTS``, in order of ``doc_id``."""
        return pa.concat_tables([self._opened(path).read(columns=columns) for path in self._documents])

    def _read_documents(self, path: str, group: int) -> tuple[np.ndarray, pa.Table]:
        rows = self._opened(path).read_group(group, ["doc_id", "source", "path"])
        return rows["doc_id"].to_numpy(), rows
