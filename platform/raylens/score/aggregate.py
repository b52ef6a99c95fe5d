"""Many features' figures as one: means, medians, frequency-weighted F1, bands of density, and the good-feature rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from raylens.score.intervals import bootstrap, median_interval, proportion_interval, ratio
from raylens.score.metrics import Metric

GOOD_F1, GOOD_PRECISION, GOOD_RECALL = 0.7, 0.8, 0.6
"""A1.02: a good feature is above each of them."""
BAND_EDGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, slots=True)
class FeatureScore:
    """What the aggregates need of one feature.

    Attributes:
        f1: None where it has no value, or nothing was answered.
        precision: Likewise.
        recall: Likewise.
        density: Share of tokens on which the feature fires, in (0, 1].
        is_concept: A concept and not grammar; None where nobody said.
    """

    f1: float | None
    precision: float | None
    recall: float | None
    density: float
    is_concept: bool | None = None


def mean(name: str, values: Sequence[float | None], *, seed: int = 0) -> Metric:
    """``mean_<name>`` over features that have a value, the others counted as failed; BCa over features."""
    known = _known(values)
    columns = np.stack([known, np.ones(len(known))], axis=1)
    value = float(known.mean()) if len(known) else None
    return Metric.of(f"mean_{name}", value, bootstrap(columns, ratio, seed=seed), len(known), len(values) - len(known))


def median(name: str, values: Sequence[float | None]) -> Metric:
    """``median_<name>`` over features that have a value; its interval lies between two of them."""
    known = _known(values)
    value = float(np.median(known)) if len(known) else None
    return Metric.of(f"median_{name}", value, median_interval(known), len(known), len(values) - len(known))


def frequency_weighted_f1(features: Sequence[FeatureScore], *, seed: int = 0) -> Metric:
    """Σ f·F1 / Σ f over features with an F1, f their density: what a token met at random can expect.

    BCa over features; None where none has an F1 or none fires.
    """
    known = [(feature.density * feature.f1, feature.density) for feature in features if feature.f1 is not None]
    columns = np.array(known, np.float64).reshape(-1, 2)
    total = columns.sum(axis=0)
    value = float(total[0] / total[1]) if total.any() and total[1] > 0 else None
    interval = bootstrap(columns, ratio, seed=seed) if value is not None else None
    return Metric.of("frequency_weighted_f1", value, interval, len(known), len(features) - len(known))


def by_density(
    features: Sequence[FeatureScore], edges: Sequence[float] = BAND_EDGES
) -> list[tuple[float, float, tuple[FeatureScore, ...]]]:
    """Features in bands of density: lower edge, upper edge (included) and members, every band even if empty.

    A density at or below the first edge, or above the last, is in no band: such a feature is dead, or no share.
    """
    return [
        (low, high, tuple(feature for feature in features if low < feature.density <= high))
        for low, high in pairwise(edges)
    ]


def is_good(feature: FeatureScore) -> bool | None:
    """A1.02: F1 > 0.7, precision > 0.8, recall > 0.6, and a concept, not grammar.

    What is known to fail is not good, whatever else is unknown; None where what is unknown decides.
    """
    parts = (_above(feature.f1, GOOD_F1), _above(feature.precision, GOOD_PRECISION))
    parts += (_above(feature.recall, GOOD_RECALL), feature.is_concept)
    if False in parts:
        return False
    return None if None in parts else True


def good_rate(features: Sequence[FeatureScore]) -> Metric:
    """``good_rate``: the share of good ones among features for which the rule decides; others count as failed."""
    return _rate("good_rate", [is_good(feature) for feature in features])


def threshold_rate(features: Sequence[FeatureScore]) -> Metric:
    """``threshold_rate``: the share above the three thresholds, whether concept or grammar; never below good_rate's."""
    above = [is_good(FeatureScore(f.f1, f.precision, f.recall, f.density, is_concept=True)) for f in features]
    return _rate("threshold_rate", above)


def per_sae(features: Sequence[FeatureScore], *, seed: int = 0) -> tuple[Metric, ...]:
    """Every aggregate of one SAE (or of one band of :func:`by_density`)."""
    found: list[Metric] = []
    for name in ("f1", "precision", "recall"):
        values = [getattr(feature, name) for feature in features]
        found += [mean(name, values, seed=seed), median(name, values)]
    return (*found, frequency_weighted_f1(features, seed=seed), threshold_rate(features), good_rate(features))


def _known(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([value for value in values if value is not None], np.float64)


def _above(value: float | None, threshold: float) -> bool | None:
    return None if value is None else value > threshold


def _rate(name: str, verdicts: Sequence[bool | None]) -> Metric:
    known = np.array([verdict for verdict in verdicts if verdict is not None], np.bool_)
    value = float(known.mean()) if len(known) else None
    return Metric.of(name, value, proportion_interval(known), len(known), len(verdicts) - len(known))
