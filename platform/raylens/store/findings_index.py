"""Which file says something of which feature, kept in memory: for who looks features up all day.

:func:`raylens.store.findings.findings_of` reads every manifest row of an SAE for one feature, thousands where an SAE
was explained whole. Here each is read once; what is asked for again is not read again while no pass writes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.ids import SaeId
from raylens.store.findings import REMEDY, FindingKind, latest_of, manifest_row, stamped
from raylens.store.kept import Kept
from raylens.store.parquet import TableFile
from raylens.store.workspace import CacheStore

_REMEMBERED: Final = 4096

_Stamped = tuple[str, float]
"""A file, and when its manifest row was written: a pass that is run anew writes the same names."""

_Places = tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.int32]]
"""Files; features ``[n]``, rising; and of each the number of a file that settles it."""


class FindingsIndex:
    """What explainers or scorers found of the features of one SAE in one cache; safe to use from several threads.

    Args:
        cache: Which cache.
        sae: Whose features.
        kind: Explanations or scores.
        look_every_s: Seconds within which nobody looks for new files.
    """

    def __init__(self, cache: CacheStore, sae: SaeId, kind: FindingKind, look_every_s: float = 0.0) -> None:
        self._cache, self._sae = cache, sae
        self._kind: FindingKind = kind
        self._turn = threading.RLock()
        self._settled: dict[_Stamped, NDArray[np.int32]] = {}
        self._rows: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()
        self._there: frozenset[_Stamped] = frozenset()
        self._places = Kept(self._listed, self._placed, look_every_s)

    def rows_of(self, features: Iterable[int]) -> Mapping[int, list[dict[str, Any]]]:
        """Rows about features, each of them in the answer, as :func:`raylens.store.findings.findings_of` gives them.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        with self._turn:
            files, named, numbers = self._places.get()
            wanted = np.unique(np.fromiter(features, np.int64))
            found: dict[int, list[dict[str, Any]]] = {int(one): self._rows.get(int(one), []) for one in wanted}
            missing = np.array([one for one in found if one not in self._rows], np.int64)
            if len(missing):
                fresh: dict[int, list[dict[str, Any]]] = {one: [] for one in missing.tolist()}
                low, high = np.searchsorted(named, missing, "left"), np.searchsorted(named, missing, "right")
                which = [numbers[first:last] for first, last in zip(low, high, strict=True)]
                for number in np.unique(np.concatenate(which)).tolist():
                    for row in self._read(files[number], missing):
                        fresh[row["feature"]].append(row)
                for feature, rows in fresh.items():
                    found[feature] = self._rows[feature] = latest_of(self._kind, rows)
                while len(self._rows) > max(_REMEMBERED, len(found)):
                    self._rows.popitem(last=False)
            return found

    def look(self) -> None:
        """Look for new files at the next call."""
        self._places.look()

    def _read(self, path: str, features: NDArray[np.int64]) -> list[dict[str, Any]]:
        with TableFile(self._cache.files, path, remedy=REMEDY) as file:
            table = file.read()
        return table.filter(pa.array(np.isin(table["feature"].to_numpy(), features))).to_pylist()

    def _listed(self) -> frozenset[_Stamped]:
        """The files there are; kept for :meth:`_placed`, so that both speak of one listing."""
        self._there = frozenset(stamped(self._cache, self._sae, self._kind).items())
        return self._there

    def _placed(self) -> _Places:
        """Reads the manifest rows of files that are new."""
        self._rows.clear()
        self._settled = {
            one: self._settled[one] if one in self._settled else self._features(one[0]) for one in sorted(self._there)
        }
        files = tuple(path for path, _ in self._settled)
        sizes = [len(features) for features in self._settled.values()]
        numbers = np.repeat(np.arange(len(files), dtype=np.int32), sizes)
        named = np.concatenate([np.empty(0, np.int32), *self._settled.values()])
        order = np.argsort(named, kind="stable")
        return files, named[order], numbers[order]

    def _features(self, path: str) -> NDArray[np.int32]:
        row = manifest_row(self._cache.files, f"{path.removesuffix('.parquet')}.json")
        return np.array(row.features if row is not None and row.path else (), np.int32)
