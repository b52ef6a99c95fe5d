"""Specialization (A1.01): how much more strongly a feature fires on documents of a domain than on others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raylens.score.intervals import ratio, resampled_sums
from raylens.score.metrics import Metric


def specialization(
    activation_sums: NDArray[np.floating],
    token_counts: NDArray[np.integer],
    in_domain: NDArray[np.bool_],
    *,
    seed: int = 0,
) -> Metric:
    """Mean activation a token on domain documents minus that on general ones.

    The interval is a percentile bootstrap that resamples the documents of each side among themselves; None where a
    side has fewer than two. The value is None where a side has no tokens.

    Args:
        activation_sums: ``[documents]``, over each document's tokens.
        token_counts: ``[documents]``; those without tokens are left out.
        in_domain: bool ``[documents]``.
        seed: Of the resampling.

    Returns:
        ``specialization`` in units of activation; ``n`` counts documents.
    """
    columns = np.stack([np.asarray(activation_sums, np.float64), np.asarray(token_counts, np.float64)], axis=1)
    kept = columns[:, 1] > 0
    sides = columns[kept & in_domain], columns[kept & ~in_domain]
    n = int(kept.sum())
    if not all(len(side) for side in sides):
        return Metric.of("specialization", None, None, n)
    domain, general = (float(ratio(side.sum(axis=0, keepdims=True))[0]) for side in sides)
    interval = None
    if all(len(side) > 1 for side in sides):
        rng = np.random.default_rng(seed)
        drawn = ratio(resampled_sums(sides[0], rng)) - ratio(resampled_sums(sides[1], rng))
        low, high = np.quantile(drawn, [0.025, 0.975])
        interval = float(low), float(high)
    return Metric.of("specialization", domain - general, interval, n)
