"""Reading one generation of a cache: a feature's windows by rank, by interval or by id, with their text.

Nothing is scanned. The manifest names the file of a range, the statistics of its row groups on
(feature, peak) say where in the file a feature's windows of a given strength lie, and a window's
place follows from its number. Footers are kept parsed, so a warm query reads one or a few row groups.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.errors import UnknownNameError
from raylens.ids import SaeId
from raylens.store.activities import RangeFile
from raylens.store.analysis import NOTE
from raylens.store.examples import Activity, Example, pieces, spread
from raylens.store.manifest import Kind
from raylens.store.parquet import FEATURE_STATS, TableFile
from raylens.store.ranges import range_of, range_width
from raylens.store.texts import Texts
from raylens.store.workspace import Workspace

_REMEDY: Final = "remove it, then run the same cache command again: it merges anew from what is stored."
_OPEN_FILES: Final = 64
_SMALLEST: Final = math.ulp(0.0)


class CacheReader:
    """Reads what the last merge of a cache made; a later one does not disturb it.

    Methods may be called from several threads; they take turns.

    Args:
        workspace: Where.
        cache_id: Which cache: its id, the start of it, or its name.

    Raises:
        UnknownNameError: There is no such cache, or nothing in it has been merged yet.
    """

    def __init__(self, workspace: Workspace, cache_id: str) -> None:
        cache = workspace.resolve_cache(cache_id)
        manifest = cache.manifest()
        if manifest is None:
            raise UnknownNameError(
                f"cache {cache.cache_id} holds nothing to read yet.",
                hint="its first merge has not finished; raylens runs shows how far it is.",
            )
        self.cache = cache
        self.cache_id = cache.cache_id
        self.manifest = manifest
        self.info = cache.info()
        self._files = workspace.files
        self._turn = threading.RLock()
        self._open: OrderedDict[str, TableFile] = OrderedDict()
        self._ranges: dict[str, RangeFile] = {}
        self._paths = {(entry.sae, entry.feature_first): entry.path for entry in manifest.of("activations")}
        self._texts = Texts(manifest, self._opened)

    @property
    def holds_all(self) -> bool:
        """Whether all activations are here; of an analysis that was taken in only a feature's strongest windows are."""
        return NOTE not in self.info

    @property
    def saes(self) -> tuple[SaeId, ...]:
        """The SAEs there are activations of, sorted."""
        return self.manifest.saes

    def d_sae(self, sae: SaeId) -> int:
        """Latents of one SAE.

        Raises:
            UnknownNameError: The cache does not hold it.
        """
        totals = self.manifest.sae_totals.get(str(sae))
        if totals is None:
            raise UnknownNameError.among("SAE of this cache", str(sae), map(str, self.saes))
        return int(totals["d_sae"])

    def table(self, kind: Kind, sae: SaeId, columns: Sequence[str] | None = None) -> pa.Table | None:
        """A whole table about the features of one SAE (``feature_stats``, ``logits`` …); None where it was not made.

        Raises:
            UnknownNameError: The cache does not hold the SAE.
        """
        self.d_sae(sae)
        entry = next(self.manifest.of(kind, sae), None)
        if entry is None:
            return None
        with self._turn:
            return self._opened(entry.path).read(columns=columns)

    def rows_of(
        self, kind: Kind, sae: SaeId, features: Iterable[int], columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """Rows about some features in such a table, in its order; None where it was not made.

        Reads the row groups that hold them and no other: a table of 131 072 features is some forty groups.

        Raises:
            UnknownNameError: The cache does not hold the SAE.
        """
        self.d_sae(sae)
        entry = next(self.manifest.of(kind, sae), None)
        if entry is None:
            return None
        wanted = np.unique(np.fromiter(features, np.int64))
        with self._turn:
            file = self._opened(entry.path)
            first, last = file.bounds("feature")
            # A group is needed where some feature lies within its bounds.
            holds = np.searchsorted(wanted, first, "left") < np.searchsorted(wanted, last, "right")
            rows = file.read(np.flatnonzero(holds).tolist(), None if columns is None else ["feature", *columns])
        rows = rows.filter(pa.array(np.isin(rows["feature"].to_numpy(), wanted)))
        return rows if columns is None else rows.select(columns)

    def feature(self, sae: SaeId, feature: int) -> dict[str, object]:
        """One feature's row of ``schema.FEATURE_STATS``; mean and maximum are None where it never fired.

        Raises:
            UnknownNameError: The cache does not hold the SAE.
            InputError: The SAE has no such feature.
        """
        range_of(self.d_sae(sae), feature)
        entry = next(self.manifest.of("feature_stats", sae))
        group, row = divmod(feature, FEATURE_STATS.group_rows)
        with self._turn:
            return self._opened(entry.path).read_group(group).slice(row, 1).to_pylist()[0]

    def top_windows(self, sae: SaeId, feature: int, k: int) -> list[Activity]:
        """The ``k`` windows with the highest peak, highest first; fewer where it fires in fewer.

        A window in which it fires on special tokens only is none of them.

        Raises:
            UnknownNameError: The cache does not hold the SAE.
            InputError: The SAE has no such feature.
            DamagedFileError: The range's file is missing, truncated, or fails a checksum.
        """
        return self.windows_in_interval(sae, feature, 0.0, math.inf, k)

    def windows_in_interval(
        self, sae: SaeId, feature: int, low: float, high: float, k: int, seed: int | None = None
    ) -> list[Activity]:
        """``k`` windows with ``low <= peak < high``, highest first; raises as :meth:`top_windows`.

        Args:
            sae: Whose feature.
            feature: Which.
            low: Lower bound of the peak, inclusive; a peak of 0 is left out in any case.
            high: Upper bound, exclusive.
            k: How many at most.
            seed: Without one, the highest of the interval; with one, a random sample of it.
        """
        with self._turn:
            file = self._range(sae, feature)
            if seed is None:
                return file.highest(feature, max(low, _SMALLEST), high, k)
            return file.sample(feature, max(low, _SMALLEST), high, k, seed)

    def activations_of(self, sae: SaeId, feature: int, window_ids: Iterable[int]) -> dict[int, Activity]:
        """A feature's activations in given windows, by window; where it is silent, the window is left out.

        Reads all of the feature's rows, which lie in order of strength, not of windows: 0.02 µs a row.
        Raises as :meth:`top_windows`.
        """
        wanted = np.unique(np.fromiter(window_ids, np.int32))
        with self._turn:
            return self._range(sae, feature).among(feature, wanted)

    def peaks(self, sae: SaeId, feature: int) -> NDArray[np.float32]:
        """The peak of each window in which a feature fires on text, highest first; raises as :meth:`top_windows`."""
        with self._turn:
            return self._range(sae, feature).peaks(feature)

    def rows(self, sae: SaeId, feature: int) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32]]:
        """Window, position and activation of every row of a feature, strongest windows first; ``[n]`` each.

        Special tokens are among them. 14 bytes a row. Raises as :meth:`top_windows`.
        """
        with self._turn:
            return self._range(sae, feature).rows(feature)

    def window_sizes(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Document and number of tokens (prefix included) of every window, ``[n_windows]`` each."""
        with self._turn:
            return self._texts.sizes()

    def documents(self, columns: Sequence[str]) -> pa.Table:
        """Columns of ``schema.DOCUMENTS``, a row a document in order of ``doc_id``."""
        with self._turn:
            return self._texts.documents(columns)

    def windows(self, window_ids: Iterable[int], columns: Sequence[str] | None = None) -> pa.Table:
        """``schema.WINDOWS``, a row for each id, in the order given.

        Raises:
            InputError: The cache has no such window.
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        with self._turn:
            return self._texts.windows(window_ids, columns)

    def examples(self, activities: Sequence[Activity]) -> list[Example]:
        """Features' windows with text, tokens and where they come from, in this order; raises as :meth:`windows`."""
        needed = ["doc_id", "token_offsets", "text"]
        windows = self.windows([activity.window_id for activity in activities], needed).to_pydict()
        with self._turn:
            sources = self._texts.sources(windows["doc_id"])
        found: list[Example] = []
        for activity, doc_id, offsets, text in zip(activities, *(windows[name] for name in needed), strict=True):
            source, path = sources.get(doc_id, ("", ""))
            dense = spread(activity, len(offsets))
            tokens = pieces(text, offsets)
            found.append(Example(activity.window_id, doc_id, source, path, text, tokens, dense, activity.peak))
        return found

    def close(self) -> None:
        """Close what is open; the reader opens it again when it is used again."""
        with self._turn:
            for file in self._open.values():
                file.close()
            self._open.clear()
            self._ranges.clear()

    def _range(self, sae: SaeId, feature: int) -> RangeFile:
        index = range_of(self.d_sae(sae), feature)
        path = self._paths[str(sae), index * range_width(self.d_sae(sae))]
        file = self._opened(path)
        known = self._ranges.get(path)
        if known is None or known.file is not file:
            known = self._ranges[path] = RangeFile(file)
        return known

    def _opened(self, path: str) -> TableFile:
        file = self._open.pop(path, None)
        if file is None:
            if len(self._open) >= _OPEN_FILES:
                oldest, evicted = self._open.popitem(last=False)
                self._ranges.pop(oldest, None)
                evicted.close()
            file = TableFile(self._files, path, remedy=_REMEDY)
        self._open[path] = file
        return file
