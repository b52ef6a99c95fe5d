"""Statistics of every feature of a range, added up slice by slice while the range is merged.

Special tokens (BOS, PAD …) are left out of all of them: attention sinks there would hide the rest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.schema import FEATURE_STATS, HISTOGRAM_BINS, HISTOGRAM_HIGH, histogram_bin
from raylens.store.slices import Slice

# A rounded activation is 0 sign bits, 8 of exponent and 10 of mantissa: few enough to look its bin up.
_DROPPED_BITS: Final = 13


class RangeStatistics:
    """Running sums over one range of features.

    Args:
        low: First feature.
        high: One past the last.
    """

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        n = high - low
        self.histogram = np.zeros((n, HISTOGRAM_BINS), np.int64)
        self.n_windows = np.zeros(n, np.int64)
        self.total = np.zeros(n, np.float64)
        self.largest = np.zeros(n, np.float32)

    def add(self, rows: Slice) -> None:
        """Count one slice; slices must come in the same order for the same sums, to the last bit."""
        if not rows.n_rows:
            return
        n = len(self.n_windows)
        group = rows.group_feature - np.int32(self.low)
        feature = np.repeat(group, rows.group_rows)
        activation = rows.activation
        counted_groups = group
        if rows.special.any():
            kept = ~rows.special
            counted_groups = group[np.logical_or.reduceat(kept, rows.group_first)]
            feature, activation = feature[kept], activation[kept]
        bins = bin_table()[activation.view(np.uint32) >> np.uint32(_DROPPED_BITS)]
        cells = feature * np.int32(HISTOGRAM_BINS) + bins
        self.histogram += np.bincount(cells, minlength=n * HISTOGRAM_BINS).reshape(n, HISTOGRAM_BINS)
        self.n_windows += np.bincount(counted_groups, minlength=n)
        self.total += np.bincount(feature, weights=activation, minlength=n)
        np.maximum.at(self.largest, group, rows.group_peak)

    def table(self, n_text_tokens: int) -> pa.Table:
        """``schema.FEATURE_STATS``, a row for each feature of the range; mean and maximum null where it never fired.

        Args:
            n_text_tokens: Non-special tokens that were encoded: what the density is a share of.
        """
        n_active = self.histogram.sum(axis=1)
        silent = n_active == 0
        with np.errstate(invalid="ignore"):
            mean = self.total / n_active
        flat = pa.array(self.histogram.reshape(-1))
        return pa.table(
            [
                pa.array(np.arange(self.low, self.low + len(n_active), dtype=np.int32)),
                pa.array(n_active),
                pa.array(self.n_windows),
                pa.array(n_active / max(1, n_text_tokens)),
                pa.array(mean, mask=silent),
                pa.array(self.largest, mask=silent),
                pa.FixedSizeListArray.from_arrays(flat, HISTOGRAM_BINS),
            ],
            schema=FEATURE_STATS,
        )


@lru_cache(maxsize=1)
def bin_table() -> NDArray[np.uint8]:
    """:func:`raylens.schema.histogram_bin` of every rounded positive activation, by its upper bits: 256 kB."""
    values = (np.arange(1 << (31 - _DROPPED_BITS), dtype=np.uint32) << np.uint32(_DROPPED_BITS)).view(np.float32)
    # Above the last edge, infinity and NaN included, all is the last bin.
    return histogram_bin(np.fmin(values, np.float32(HISTOGRAM_HIGH))).astype(np.uint8)
