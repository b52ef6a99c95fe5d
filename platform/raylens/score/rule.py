"""Rule: an executable rule is its own judge. It runs on held-out excerpts, and nothing has to be asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raylens.score.intervals import Clusters
from raylens.score.metrics import Metric, classification

SCORER = "rule"


def result(
    labels: NDArray[np.bool_],
    matches: NDArray[np.bool_],
    documents: Clusters = None,
    *,
    base_rate: float | None = None,
    seed: int = 0,
) -> tuple[Metric, ...]:
    """Figures of one feature; see :func:`raylens.score.metrics.classification`.

    Args:
        labels: bool ``[n]``: does the feature fire in the excerpt?
        matches: bool ``[n]``: does the rule match it?
        documents: ``[n]``.
        base_rate: Share of windows on which the feature fires.
        seed: Of the interval of the prevalence-corrected precision.
    """
    return classification(labels, matches, documents=documents, base_rate=base_rate, seed=seed)
