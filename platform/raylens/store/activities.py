"""One range file, sought by (feature, peak): which row groups to read, and the windows found in them.

Row groups end where a window ends (:func:`raylens.store.merge.whole_windows`), so each can be read alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.store.examples import Activity
from raylens.store.parquet import TableFile

# How many row groups a sample of a wide interval is drawn from: more would be slower, not fairer.
_STRATA: Final = 3


@dataclass(frozen=True, slots=True)
class Runs:
    """Windows of one feature in one row group, highest peak first; ``r`` of them.

    Attributes:
        window_id: ``[r]`` int32.
        peak: ``[r]`` float32.
        first: ``[r]`` int64, index of the window's first row.
        rows: ``[r]`` int64, how many rows it has.
        position: ``[n]`` int16, of every row of the group.
        activation: ``[n]`` float32.
    """

    window_id: NDArray[np.int32]
    peak: NDArray[np.float32]
    first: NDArray[np.int64]
    rows: NDArray[np.int64]
    position: NDArray[np.int16]
    activation: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.window_id)

    def take(self, places: NDArray[np.integer] | range) -> list[Activity]:
        """Some of the windows, in the order given."""
        return [
            Activity(
                window_id=int(self.window_id[place]),
                peak=float(self.peak[place]),
                positions=self.position[self.first[place] : self.first[place] + self.rows[place]],
                activations=self.activation[self.first[place] : self.first[place] + self.rows[place]],
            )
            for place in places
        ]


class RangeFile:
    """A range file with the bounds of its row groups."""

    def __init__(self, file: TableFile) -> None:
        self.file = file
        self._feature = file.bounds("feature")
        self._peak = file.bounds("peak")
        # Where several features share a group, the bounds of the peak are no single feature's.
        self._alone = self._feature[0] == self._feature[1]

    def groups(self, feature: int, low: float, high: float) -> list[int]:
        """Row groups that may hold windows of ``feature`` with ``low <= peak < high``, highest first."""
        holds = (self._feature[0] <= feature) & (self._feature[1] >= feature)
        outside = (self._peak[1] < low) | (self._peak[0] >= high)
        return np.flatnonzero(holds & ~(self._alone & outside)).tolist()

    def runs(self, group: int, feature: int, low: float, high: float) -> Runs:
        """The windows of ``feature`` with ``low <= peak < high`` in one row group."""
        needed = ["peak", "window_id", "position", "activation"]
        rows = self.file.read_group(group, needed if self._alone[group] else ["feature", *needed])
        begin, end = 0, rows.num_rows
        if not self._alone[group]:
            begin, end = np.searchsorted(rows["feature"].to_numpy(), [feature, feature + 1]).tolist()
        window = rows["window_id"].to_numpy()[begin:end]
        first = np.flatnonzero(np.concatenate([[end > begin], window[1:] != window[:-1]]))
        count = np.diff(first, append=len(window))
        peak = rows["peak"].to_numpy()[begin:end][first]
        # In float64: bounds are the user's own numbers, and peaks are exact in it.
        inside = (peak >= np.float64(low)) & (peak < np.float64(high))
        return Runs(
            window_id=window[first][inside],
            peak=peak[inside],
            first=first[inside],
            rows=count[inside],
            position=rows["position"].to_numpy()[begin:end],
            activation=rows["activation"].to_numpy()[begin:end],
        )

    def highest(self, feature: int, low: float, high: float, k: int) -> list[Activity]:
        """The ``k`` windows with the highest peak in an interval, highest first."""
        found: list[Activity] = []
        for runs in self._runs(feature, low, high):
            found += runs.take(range(min(k - len(found), len(runs))))
            if len(found) == k:
                break
        return found

    def sample(self, feature: int, low: float, high: float, k: int, seed: int) -> list[Activity]:
        """``k`` windows at random from an interval, highest first.

        Up to three row groups, one at random from each third of those in the interval, are read and
        sampled evenly; more only where these hold too few. So the cost does not grow with the interval.
        """
        random = np.random.default_rng(seed)
        groups = self.groups(feature, low, high)
        strata = np.array_split(np.arange(len(groups)), _STRATA)
        drawn = [int(random.choice(stratum)) for stratum in strata if len(stratum)]
        pool = {place: self.runs(groups[place], feature, low, high) for place in drawn}
        for place in random.permutation(len(groups)).tolist():
            if sum(map(len, pool.values())) >= k:
                break
            if place not in pool:
                pool[place] = self.runs(groups[place], feature, low, high)
        ordered = [pool[place] for place in sorted(pool)]
        ends = np.cumsum([len(runs) for runs in ordered])
        total = int(ends[-1]) if ordered else 0
        chosen = np.sort(random.choice(total, min(k, total), replace=False))
        return [
            activity
            for runs, end in zip(ordered, ends.tolist(), strict=True)
            for activity in runs.take(chosen[(chosen >= end - len(runs)) & (chosen < end)] - (end - len(runs)))
        ]

    def among(self, feature: int, window_ids: NDArray[np.int32]) -> dict[int, Activity]:
        """The windows of ``feature`` that are in ``window_ids``; reads all of its row groups."""
        found: dict[int, Activity] = {}
        for runs in self._runs(feature, 0.0, math.inf):
            places = np.flatnonzero(np.isin(runs.window_id, window_ids))
            found.update((activity.window_id, activity) for activity in runs.take(places))
        return found

    def peaks(self, feature: int) -> NDArray[np.float32]:
        """The peak of each window in which ``feature`` fires on text, highest first; reads two columns."""
        found = [np.zeros(0, np.float32)]
        for group in self.groups(feature, 0.0, math.inf):
            rows = self.file.read_group(group, ["feature", "window_id", "peak"])
            begin, end = np.searchsorted(rows["feature"].to_numpy(), [feature, feature + 1]).tolist()
            window, peak = rows["window_id"].to_numpy()[begin:end], rows["peak"].to_numpy()[begin:end]
            first = np.concatenate([[end > begin], window[1:] != window[:-1]])[: end - begin]
            found.append(peak[first & (peak > 0)])
        return np.concatenate(found)

    def rows(self, feature: int) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32]]:
        """Window, position and activation of every row of ``feature``, in the file's order."""
        groups = self.groups(feature, -math.inf, math.inf)
        if not groups:
            return np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32)
        needed = ["window_id", "position", "activation"]
        shared = not self._alone[groups].all()
        rows = self.file.read(groups, ["feature", *needed] if shared else needed)
        begin, end = 0, rows.num_rows
        if shared:
            begin, end = np.searchsorted(rows["feature"].to_numpy(), [feature, feature + 1]).tolist()
        window, position, activation = (rows[name].to_numpy()[begin:end] for name in needed)
        return window, position, activation

    def _runs(self, feature: int, low: float, high: float) -> Iterator[Runs]:
        for group in self.groups(feature, low, high):
            yield self.runs(group, feature, low, high)
