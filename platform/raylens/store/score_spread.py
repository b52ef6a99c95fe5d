"""Scores of one pass feature by feature, and how explainers fared: what the charts of a score card are made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.store.findings import Findings

_COLUMNS: Final = ("feature", "scorer", "metric", "control", "value", "n", "n_failed")


@dataclass(frozen=True, slots=True)
class Spread:
    """One metric of a scorer over features.

    Attributes:
        scorer: Which.
        metric: Of its metrics.
        control: ``shuffled`` where each explanation was another feature's; None of a feature's own.
        values: float64, of the features that have one.
        n_without: Features without a value.
        n_asked: Questions, or tokens, behind all values.
        n_unanswered: Of those that were asked besides, how many nobody answered.
    """

    scorer: str
    metric: str
    control: str | None
    values: NDArray[np.float64]
    n_without: int
    n_asked: int
    n_unanswered: int


@dataclass(frozen=True, slots=True)
class Scored:
    """What scorers gave the features of a pass.

    Attributes:
        spreads: A row a scorer, metric and control, in the order in which they are stored.
        points: Scorer → float64 ``[features, 3]``: precision, recall and F1 of features that have all three.
    """

    spreads: tuple[Spread, ...]
    points: Mapping[str, NDArray[np.float64]]


def scored(scores: Findings) -> Scored:
    """Figures of a pass of scores.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    values: dict[tuple[str, str, str | None], dict[int, float | None]] = defaultdict(dict)
    asked: Counter[tuple[str, str, str | None]] = Counter()
    unanswered: Counter[tuple[str, str, str | None]] = Counter()
    for row in scores.each(_COLUMNS):
        key = row["scorer"], row["metric"], row["control"]
        values[key][row["feature"]] = row["value"]
        asked[key] += row["n"] or 0
        unanswered[key] += row["n_failed"] or 0
    spreads = []
    for (scorer, metric, control), by_feature in values.items():
        known = np.array([one for one in by_feature.values() if one is not None], np.float64)
        key = scorer, metric, control
        n_without = len(by_feature) - len(known)
        spreads.append(Spread(scorer, metric, control, known, n_without, asked[key], unanswered[key]))
    points: dict[str, NDArray[np.float64]] = {}
    for scorer in dict.fromkeys(scorer for scorer, metric, _ in values if metric == "f1"):
        parts = [values.get((scorer, metric, None), {}) for metric in ("precision", "recall", "f1")]
        rows = [[part.get(feature) for part in parts] for feature in parts[2]]
        points[scorer] = np.array([row for row in rows if None not in row], np.float64).reshape(-1, 3)
    return Scored(tuple(spreads), points)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many features an explainer left in one state.

    Attributes:
        status: ``ok``, ``not_found``, ``failed``, or why there were no examples: ``dead``, ``too_few`` …
        n: Features.
        error: What happened most often; empty where nothing was said.
    """

    status: str
    n: int
    error: str


def outcomes(explanations: Findings) -> tuple[Outcome, ...]:
    """How the features of a pass of explanations fared, the most frequent first.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    counted: Counter[str] = Counter()
    errors: dict[str, Counter[str]] = defaultdict(Counter)
    for row in explanations.each(["feature", "status", "error"]):
        counted[row["status"]] += 1
        if row["error"]:
            errors[row["status"]][row["error"]] += 1
    return tuple(
        Outcome(status, n, errors[status].most_common(1)[0][0] if errors[status] else "")
        for status, n in counted.most_common()
    )
