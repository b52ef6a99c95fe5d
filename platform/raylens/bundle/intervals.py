"""Intervals for figures on held-out files, where the file is the unit and not the token or excerpt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


def clustered_interval(
    values: NDArray[np.float64], groups: Sequence[str], weights: NDArray[np.float64] | None = None, *, seed: int = 0
) -> list[float]:
    """95 % percentile bootstrap interval of Σ values / Σ weights, resampling whole groups.

    Rows of one file are alike, so resampling rows would give intervals far too narrow.

    Args:
        values: float64 ``[n]``.
        groups: What each value belongs to, ``[n]``.
        weights: float64 ``[n]``; by default one a value, which makes the figure a mean.
        seed: Of the resampling.

    Returns:
        Lower and upper bound.
    """
    names, at = np.unique(np.asarray(groups), return_inverse=True)
    top = np.bincount(at, values, len(names))
    bottom = np.bincount(at, np.ones(len(values)) if weights is None else weights, len(names))
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.quantile(top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1), [0.025, 0.975])
    return [float(low), float(high)]
