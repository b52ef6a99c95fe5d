"""Embedding: is the explanation nearer in meaning to texts in which the feature fires than to others?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raylens.score.intervals import Clusters, auc_interval
from raylens.score.metrics import Metric, roc_auc

SCORER = "embedding"


def similarities(explanation: NDArray[np.floating], texts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosines of one vector ``[d]`` with each of ``[n, d]``: float64 ``[n]``, NaN where one is zero or not finite."""
    a, b = np.asarray(explanation, np.float64), np.asarray(texts, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (b @ a) / (np.linalg.norm(b, axis=1) * np.linalg.norm(a))
    return np.where(np.isfinite(cosines), cosines, np.nan)


def result(
    explanation: NDArray[np.floating],
    texts: NDArray[np.floating],
    labels: NDArray[np.bool_],
    documents: Clusters = None,
) -> tuple[Metric, ...]:
    """``auc`` of the similarity.

    Args:
        explanation: Its vector ``[d]``, of any length.
        texts: The excerpts' vectors ``[n, d]``; one without a direction (an empty text) counts as failed.
        labels: bool ``[n]``: does the feature fire?
        documents: ``[n]``.
    """
    scores = similarities(explanation, texts)
    known = ~np.isnan(scores)
    of = None if documents is None else np.asarray(documents)[known]
    value = roc_auc(labels[known], scores[known])
    interval = auc_interval(labels[known], scores[known], of)
    return (Metric.of("auc", value, interval, int(known.sum()), int((~known).sum())),)
