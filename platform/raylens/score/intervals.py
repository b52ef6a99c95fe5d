"""95 % intervals that stay honest where a textbook interval collapses: few items, perfect answers, repeated documents.

Excerpts of one document are alike, so wherever documents are given they are the unit: proportions are widened by the
design effect, and the bootstrap resamples whole documents.

======================  ===========================================================================================
of                      method
======================  ===========================================================================================
proportions             Wilson (1927), with an effective n under clustering (Korn and Graubard 1998)
F1                      Wilson on tp / (tp + fp + fn), of which F1 is a function (Lam 2023, "Wilson indirect")
mean of proportions     square-and-add of Wilson intervals (Newcombe 1998; Zou and Donner 2008)
precision at a base     draws from Jeffreys posteriors of TPR and FPR (Mossman and Berger 2001)
ROC-AUC                 DeLong (1988) on the logit scale, clustered as in Obuchowski (1997); where its variance is 0,
                        Newcombe (2006) method 5
medians                 order statistics
anything else           bootstrap of column sums, BCa (Efron 1987) or percentile
======================  ===========================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik, expit, logit, ndtr, ndtri

Interval = tuple[float, float]
Clusters = Sequence[Any] | NDArray[Any] | None
"""What each row belongs to, such as its document's number or path; None where every row stands alone."""

RESAMPLES = 2000
Z = float(ndtri(0.975))
_CHUNK = 2_000_000
"""Drawn indices held at once."""


def wilson(successes: float, n: float) -> Interval | None:
    """Wilson's interval of a proportion; None of no trials.

    Args:
        successes: Of the trials; need not be whole, as effective counts are not.
        n: Trials.
    """
    if n <= 0:
        return None
    p = successes / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    # At 0 and 1 a bound is exact, and rounding must not push it past the value.
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def effective_n(outcomes: NDArray[np.bool_], clusters: Clusters = None) -> float:
    """How many independent trials ``outcomes`` are worth: n over the design effect, which is never taken below 1.

    Where all outcomes agree there is no variance to compare, and every cluster counts as one trial.

    Args:
        outcomes: bool ``[n]``.
        clusters: ``[n]``.
    """
    n = len(outcomes)
    if clusters is None or n == 0:
        return float(n)
    at = _numbered(clusters, n)
    n_clusters = int(at.max()) + 1
    if n_clusters == n:
        return float(n)
    p = outcomes.mean()
    if p in {0.0, 1.0} or n_clusters == 1:
        return float(n_clusters)
    residuals = np.bincount(at, outcomes - p)
    between = n_clusters / (n_clusters - 1) * (residuals**2).sum() / n**2
    return n / max(1.0, between / (p * (1 - p) / n))


def proportion_interval(outcomes: NDArray[np.bool_], clusters: Clusters = None) -> Interval | None:
    """Wilson's interval of the share of true outcomes, bool ``[n]``; None of none."""
    if len(outcomes) == 0:
        return None
    n = effective_n(outcomes, clusters)
    return wilson(float(outcomes.mean()) * n, n)


def f1_interval(labels: NDArray[np.bool_], answers: NDArray[np.bool_], clusters: Clusters = None) -> Interval | None:
    """Interval of F1 = 2J / (1 + J), J the share of true positives in all items but true negatives, bool ``[n]``."""
    counted = labels | answers
    kept = None if clusters is None else np.asarray(clusters)[counted]
    jaccard = proportion_interval((labels & answers)[counted], kept)
    return None if jaccard is None else (2 * jaccard[0] / (1 + jaccard[0]), 2 * jaccard[1] / (1 + jaccard[1]))


def mean_of_two(values: tuple[float, float], intervals: tuple[Interval, Interval]) -> Interval:
    """Interval of (a + b) / 2 of two independent figures, from the interval of each."""
    below = math.hypot(*(value - low for value, (low, _) in zip(values, intervals, strict=True)))
    above = math.hypot(*(high - value for value, (_, high) in zip(values, intervals, strict=True)))
    middle = sum(values) / 2
    return middle - below / 2, middle + above / 2


def precision_at_interval(
    true_positive: tuple[float, float], false_positive: tuple[float, float], base_rate: float, *, seed: int = 0
) -> Interval:
    """Interval of π·TPR / (π·TPR + (1 − π)·FPR).

    Args:
        true_positive: Successes and (effective) trials of TPR.
        false_positive: Of FPR.
        base_rate: π.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    (tp, positives), (fp, negatives) = true_positive, false_positive
    tpr = rng.beta(tp + 0.5, positives - tp + 0.5, size=4 * RESAMPLES)
    fpr = rng.beta(fp + 0.5, negatives - fp + 0.5, size=4 * RESAMPLES)
    low, high = np.quantile(base_rate * tpr / (base_rate * tpr + (1 - base_rate) * fpr), [0.025, 0.975])
    # As usual with Jeffreys intervals, nothing seen means a bound at the very end.
    return (0.0 if tp == 0 else float(low)), (1.0 if fp == 0 else float(high))


def auc_parts(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For every positive the share of negatives below it, for every negative the share of positives above; ties half.

    Both average to the AUC: float64 ``[positives]`` and ``[negatives]``, DeLong's structural components.
    """
    positive, negative = scores[labels], scores[~labels]
    return _share_below(positive, np.sort(negative)), 1.0 - _share_below(negative, np.sort(positive))


def auc_interval(labels: NDArray[np.bool_], scores: NDArray[np.float64], clusters: Clusters = None) -> Interval | None:
    """Interval of ROC-AUC; None where there are no positives or no negatives.

    Args:
        labels: bool ``[n]``.
        scores: float64 ``[n]``, larger for likelier.
        clusters: ``[n]``.
    """
    n_positive, n_negative = int(labels.sum()), int((~labels).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    of_positive, of_negative = auc_parts(labels, scores)
    auc = float(of_positive.mean())
    influence = np.empty(len(labels))
    influence[labels] = (of_positive - auc) / n_positive
    influence[~labels] = (of_negative - auc) / n_negative
    at = np.arange(len(labels)) if clusters is None else _numbered(clusters, len(labels))
    n_clusters = int(at.max()) + 1
    if n_clusters < len(labels):
        variance = n_clusters / max(1, n_clusters - 1) * float((np.bincount(at, influence) ** 2).sum())
        units = len(np.unique(at[labels])), len(np.unique(at[~labels]))
    else:
        variance = sum(
            float((influence[side] ** 2).sum()) * n / max(1, n - 1)
            for side, n in ((labels, n_positive), (~labels, n_negative))
        )
        units = n_positive, n_negative
    if variance < 1e-18 or auc in {0.0, 1.0} or min(units) == 1:
        return _auc_bound(auc, *units), 1.0 - _auc_bound(1.0 - auc, *units)
    half = Z * math.sqrt(variance) / (auc * (1 - auc))
    return float(expit(logit(auc) - half)), float(expit(logit(auc) + half))


def median_interval(values: NDArray[np.float64]) -> Interval | None:
    """Interval of the median, between two order statistics; None of fewer than 6 values, which admit none."""
    n = len(values)
    if n < 6:
        return None
    # The largest k with P(Binomial(n, 1/2) < k) ≤ 2.5 %.
    k = math.ceil(bdtrik(0.025, n, 0.5)) + 1
    while bdtr(k - 1, n, 0.5) > 0.025:
        k -= 1
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[n - k])


def bootstrap(
    columns: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    clusters: Clusters = None,
    *,
    seed: int,
    method: Literal["bca", "percentile"] = "bca",
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Interval of a statistic of column sums, resampling whole clusters.

    Args:
        columns: float64 ``[n, k]``; of a mean, the values beside a column of ones.
        statistic: From sums ``[b, k]`` to values ``[b]``; NaN where it has none.
        clusters: ``[n]``.
        seed: Of the resampling.
        method: BCa is second-order accurate; percentile where a figure published earlier was made with it.
        resamples: How many.

    Returns:
        Lower and upper bound; None of fewer than two clusters, where the statistic itself has no value, or where it
        has none in half of the resamples.
    """
    sums = cluster_sums(columns, clusters)
    if len(sums) < 2:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(statistic(sums.sum(axis=0, keepdims=True))[0])
        drawn = statistic(resampled_sums(sums, np.random.default_rng(seed), resamples))
        without = statistic(sums.sum(axis=0) - sums)
    drawn, without = drawn[np.isfinite(drawn)], without[np.isfinite(without)]
    if not math.isfinite(estimate) or len(drawn) < resamples / 2:
        return None
    levels = np.array([0.025, 0.975])
    if method == "bca":
        levels = _bca_levels(estimate, drawn, without)
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)


def cluster_sums(columns: NDArray[np.float64], clusters: Clusters = None) -> NDArray[np.float64]:
    """Columns ``[n, k]`` summed within clusters: float64 ``[clusters, k]``."""
    if clusters is None:
        return np.asarray(columns, np.float64)
    at = _numbered(clusters, len(columns))
    sums = np.zeros((int(at.max(initial=-1)) + 1, columns.shape[1]))
    np.add.at(sums, at, columns)
    return sums


def resampled_sums(
    sums: NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Sums over as many clusters as there are, drawn with replacement: ``[clusters, k]`` to ``[resamples, k]``."""
    n = len(sums)
    step = max(1, _CHUNK // n)
    parts: list[NDArray[np.float64]] = []
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        parts.append(times @ sums)
    return np.concatenate(parts)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first column's sum over the second's: a mean, or a weighted one. A :func:`bootstrap` statistic."""
    return sums[:, 0] / sums[:, 1]


def clustered_interval(
    values: NDArray[np.float64], groups: Sequence[str], weights: NDArray[np.float64] | None = None, *, seed: int = 0
) -> list[float]:
    """Percentile bootstrap interval of Σ values / Σ weights, resampling whole groups.

    Args:
        values: float64 ``[n]``.
        groups: What each value belongs to, ``[n]``.
        weights: float64 ``[n]``; by default one a value, which makes the figure a mean.
        seed: Of the resampling.

    Returns:
        Lower and upper bound; of a single group, its figure twice.
    """
    columns = np.stack([values, np.ones(len(values)) if weights is None else weights], axis=1)
    drawn = ratio(resampled_sums(cluster_sums(columns, groups), np.random.default_rng(seed)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [float(low), float(high)]


def _numbered(clusters: Clusters, n: int) -> NDArray[np.intp]:
    """Clusters as numbers from 0, ``[n]``."""
    _, at = np.unique(np.asarray(clusters), return_inverse=True)
    if len(at) != n:
        raise ValueError(f"{n} rows, but {len(at)} clusters")
    return at


def _share_below(values: NDArray[np.float64], ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return below / (2 * len(ordered))


def _bca_levels(estimate: float, drawn: NDArray[np.float64], without: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quantiles of ``drawn`` that bias correction and acceleration (from the jackknife) pick."""
    share = ((drawn < estimate).sum() + 0.5 * (drawn == estimate).sum()) / len(drawn)
    bias = ndtri(np.clip(share, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    pulls = without.mean() - without if len(without) else np.zeros(1)
    spread = float((pulls**2).sum()) ** 1.5
    acceleration = float((pulls**3).sum()) / (6 * spread) if spread > 1e-300 else 0.0
    shifted = bias + np.array([-Z, Z])
    return ndtr(bias + shifted / (1 - acceleration * shifted))


def _auc_bound(auc: float, n_positive: int, n_negative: int) -> float:
    """Newcombe's lower bound: the θ below ``auc`` that is Z of its own standard errors away."""
    from scipy.optimize import brentq  # slow to import, and seldom wanted

    if auc <= 0:
        return 0.0
    pairs, extra = n_positive * n_negative, (n_positive + n_negative) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (auc - theta) ** 2 - Z**2 * theta * (1 - theta) / pairs * spread

    # At θ = 1 both terms vanish with a perfect AUC, which is not the root that is meant.
    return cast(float, brentq(excess, 0.0, min(auc, 1 - 1e-12)))
