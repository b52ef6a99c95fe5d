"""Figures of yes-or-no answers, and correlation: each with a 95 % interval, and None where it has no value.

With tp, fp, fn and tn the counts of answers against labels:

====================================  =================================  =====================================
metric                                formula                            has no value where
====================================  =================================  =====================================
``precision``                         tp / (tp + fp)                     nothing was answered yes
``recall``                            tp / (tp + fn)                     there are no positives
``f1``                                2·tp / (2·tp + fp + fn)            no positives, and nothing answered yes
``balanced_accuracy``                 (tp/(tp + fn) + tn/(tn + fp)) / 2  either class is missing
``accuracy``                          (tp + tn) / n                      there are no items
``auc``                               P(positive's p > negative's p),    either class is missing
                                      ties counting half
``prevalence_corrected_precision``    π·TPR / (π·TPR + (1 − π)·FPR)      a class is missing, or both rates are 0
``correlation``                       Pearson's r                        fewer than 2 points, or a constant side
====================================  =================================  =====================================

A scorer shows about as many positives as negatives, which flatters precision: a feature that fires on one window in a
thousand, told apart with a false-positive rate of 2 %, has a precision of 0.05 in use. The prevalence-corrected one
says so; π is the share of windows on which the feature fires.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylens.score.intervals import (
    Clusters,
    Interval,
    auc_interval,
    auc_parts,
    bootstrap,
    effective_n,
    f1_interval,
    mean_of_two,
    precision_at_interval,
    proportion_interval,
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Attributes:
        name: As in ``scores.metric``.
        value: None where it has none (the table above says when); never NaN.
        ci_low: Lower end of the 95 % interval; None where there is no value or nothing to estimate it from.
        ci_high: Upper end.
        n: Items that it is of.
        n_failed: Items that should have been among them, and were not answered.
    """

    name: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_failed: int

    @classmethod
    def of(cls, name: str, value: float | None, interval: Interval | None, n: int, n_failed: int = 0) -> Metric:
        """With both bounds or neither, and neither where there is no value."""
        low, high = (None, None) if interval is None or value is None else interval
        return cls(name, value, low, high, n, n_failed)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Answers against labels, counted."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def precision(self) -> float | None:
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Also the true-positive rate."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float | None:
        """The true-negative rate; 1 less it is the false-positive rate."""
        return _share(self.tn, self.tn + self.fp)

    @property
    def f1(self) -> float | None:
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float | None:
        return _share(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    @property
    def balanced_accuracy(self) -> float | None:
        if self.recall is None or self.specificity is None:
            return None
        return (self.recall + self.specificity) / 2

    def precision_at(self, base_rate: float) -> float | None:
        """Precision where the share ``base_rate`` of items is positive, the two rates staying as they are."""
        if self.recall is None or self.specificity is None:
            return None
        hits, alarms = base_rate * self.recall, (1 - base_rate) * (1 - self.specificity)
        return None if hits + alarms == 0 else hits / (hits + alarms)


def confusion(labels: NDArray[np.bool_], answers: NDArray[np.bool_]) -> Confusion:
    """Counts of answers against labels, bool ``[n]`` each."""
    if labels.shape != answers.shape:
        raise ValueError(f"{labels.shape} labels, but {answers.shape} answers")
    return Confusion(
        int((labels & answers).sum()),
        int((~labels & answers).sum()),
        int((labels & ~answers).sum()),
        int((~labels & ~answers).sum()),
    )


def roc_auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """Chance that a positive scores above a negative, ties counting half; None where either class is missing.

    Args:
        labels: bool ``[n]``.
        scores: float ``[n]``, finite.
    """
    if labels.all() or not labels.any():
        return None
    return float(auc_parts(labels, np.asarray(scores, np.float64))[0].mean())


def pearson(x: NDArray[np.floating], y: NDArray[np.floating]) -> float | None:
    """Pearson's r of two rows ``[n]``; None of fewer than two points or where either is constant."""
    columns = _moments(x, y)
    return None if columns is None else _finite(_correlation(columns.sum(axis=0, keepdims=True))[0])


def classification(
    labels: NDArray[np.bool_],
    answers: NDArray[np.bool_],
    *,
    probabilities: NDArray[np.float64] | None = None,
    documents: Clusters = None,
    base_rate: float | None = None,
    n_failed: int = 0,
    seed: int = 0,
) -> tuple[Metric, ...]:
    """Every figure of yes-or-no answers.

    Args:
        labels: bool ``[n]``: does the feature fire?
        answers: bool ``[n]``.
        probabilities: float64 ``[n]`` of yes; NaN where a reply had none, which ``auc`` counts as failed.
        documents: ``[n]``: what each item is of; intervals then treat documents as the unit.
        base_rate: Share of windows on which the feature fires, in (0, 1).
        n_failed: Items that were asked about and not answered.
        seed: Of the interval of the prevalence-corrected precision, the only one that is drawn.

    Returns:
        ``precision``, ``recall``, ``f1``, ``balanced_accuracy``, ``accuracy``; ``auc`` where there are any
        probabilities; ``prevalence_corrected_precision`` where there is a base rate.
    """
    counts = confusion(labels, answers)
    right, n = labels == answers, len(labels)
    of = None if documents is None else np.asarray(documents)

    def among(kept: NDArray[np.bool_], outcomes: NDArray[np.bool_] = right) -> Interval | None:
        return proportion_interval(outcomes[kept], None if of is None else of[kept])

    def metric(name: str, value: float | None, interval: Interval | None) -> Metric:
        return Metric.of(name, value, interval, n, n_failed)

    sides = among(labels), among(~labels)
    balanced = None
    if sides[0] is not None and sides[1] is not None and counts.recall is not None and counts.specificity is not None:
        balanced = mean_of_two((counts.recall, counts.specificity), (sides[0], sides[1]))
    found = [
        metric("precision", counts.precision, among(answers)),
        metric("recall", counts.recall, sides[0]),
        metric("f1", counts.f1, f1_interval(labels, answers, of)),
        metric("balanced_accuracy", counts.balanced_accuracy, balanced),
        metric("accuracy", counts.accuracy, proportion_interval(right, of)),
    ]
    if probabilities is not None and not np.isnan(probabilities).all():
        known = ~np.isnan(probabilities)
        interval = auc_interval(labels[known], probabilities[known], None if of is None else of[known])
        value = roc_auc(labels[known], probabilities[known])
        found.append(Metric.of("auc", value, interval, int(known.sum()), n_failed + int((~known).sum())))
    if base_rate is not None:
        if not 0 < base_rate < 1:
            raise ValueError(f"a base rate lies between 0 and 1, not at {base_rate}")
        value, interval = counts.precision_at(base_rate), None
        if value is not None and counts.recall is not None and counts.specificity is not None:
            positives = effective_n(answers[labels], None if of is None else of[labels])
            negatives = effective_n(answers[~labels], None if of is None else of[~labels])
            interval = precision_at_interval(
                (counts.recall * positives, positives),
                ((1 - counts.specificity) * negatives, negatives),
                base_rate,
                seed=seed,
            )
        found.append(metric("prevalence_corrected_precision", value, interval))
    return tuple(found)


def correlation(
    predicted: Sequence[NDArray[np.floating]],
    actual: Sequence[NDArray[np.floating]],
    documents: Clusters = None,
    *,
    n_failed: int = 0,
    seed: int = 0,
) -> Metric:
    """Pearson's r over all tokens of several excerpts, with a BCa bootstrap over documents (or excerpts).

    Args:
        predicted: A row an excerpt, a value a token.
        actual: Likewise.
        documents: One an excerpt.
        n_failed: Excerpts that were asked about and not answered.
        seed: Of the resampling.
    """
    lengths = [len(row) for row in actual]
    if lengths != [len(row) for row in predicted]:
        raise ValueError("predicted and actual differ in length")
    columns = _moments(np.concatenate(predicted), np.concatenate(actual)) if lengths else None
    if columns is None:
        return Metric.of("correlation", None, None, len(lengths), n_failed)
    clusters = np.repeat(np.arange(len(lengths)) if documents is None else np.asarray(documents), lengths)
    value = _finite(_correlation(columns.sum(axis=0, keepdims=True))[0])
    interval = bootstrap(columns, _correlation, clusters, seed=seed) if value is not None else None
    return Metric.of("correlation", value, interval, len(lengths), n_failed)


def _moments(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Columns whose sums give r: 1, x, y, x², y², xy, centred and scaled so that squares neither drown nor overflow.

    None where either side is constant.
    """
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    a, b = (side - side.mean() for side in (np.asarray(x, np.float64), np.asarray(y, np.float64)))
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return np.stack([np.ones(len(a)), a, b, a * a, b * b, a * b], axis=1)


def _correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    n, x, y, xx, yy, xy = sums.T
    var_x, var_y = xx - x * x / n, yy - y * y / n
    # A resample in which one side is constant leaves rounding error here, which is no variance.
    variance = np.where((var_x > 1e-12 * xx) & (var_y > 1e-12 * yy), var_x * var_y, np.nan)
    return np.clip((xy - x * y / n) / np.sqrt(variance), -1.0, 1.0)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
