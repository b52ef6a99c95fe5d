"""Surprisal: does knowing the explanation make the texts it is about easier to predict?

A model reads each excerpt twice: after the explanation, and after the same words about nothing in particular. The
caller runs it; the figure is the paired difference of the losses of the excerpt's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raylens.score.intervals import Clusters, auc_interval, bootstrap, ratio
from raylens.score.metrics import Metric, roc_auc
from raylens.score.questions import ScorerSettings

SCORER = "surprisal"
NEUTRAL = "text of every kind, with nothing in common"


def contexts(explanation: str, settings: ScorerSettings) -> tuple[str, str]:
    """What the model reads before an excerpt: with the explanation, and with :data:`NEUTRAL` in its place."""
    prompt = settings.prompts["surprisal"]
    told, untold = (
        "\n\n".join(message.content for message in prompt.fill({"explanation": text})) + "\n"
        for text in (explanation, NEUTRAL)
    )
    return told, untold


def result(
    told: Sequence[NDArray[np.floating] | None],
    untold: Sequence[NDArray[np.floating] | None],
    labels: NDArray[np.bool_],
    documents: Clusters = None,
    *,
    seed: int = 0,
) -> tuple[Metric, ...]:
    """Figures of one feature.

    Args:
        told: Losses in nats of each excerpt's tokens after the explanation, a row an excerpt; None where they could
            not be computed.
        untold: Likewise, after the neutral words.
        labels: bool ``[excerpts]``: does the feature fire?
        documents: One an excerpt.
        seed: Of the resampling.

    Returns:
        ``loss_reduction``: nats a token that the explanation saves on excerpts where the feature fires, the mean over
        excerpts of their mean; None of none. ``loss_reduction_negatives``: likewise where it is silent, which a good
        explanation leaves at or below 0. ``auc``: of the reduction, positives against negatives. An excerpt without
        losses, with one that is not finite, with more after one context than after the other, or without tokens counts
        as failed.
    """
    savings = np.array([_saving(a, b) for a, b in zip(told, untold, strict=True)], np.float64)
    if savings.shape != labels.shape:
        raise ValueError(f"{len(savings)} excerpts, but {labels.shape} labels")
    of = np.arange(len(savings)) if documents is None else np.asarray(documents)
    known = ~np.isnan(savings)
    found: list[Metric] = []
    for name, side in (("loss_reduction", labels), ("loss_reduction_negatives", ~labels)):
        values = savings[side & known]
        columns = np.stack([values, np.ones(len(values))], axis=1)
        interval = bootstrap(columns, ratio, of[side & known], seed=seed)
        mean = float(values.mean()) if len(values) else None
        found.append(Metric.of(name, mean, interval, len(values), int((side & ~known).sum())))
    value = roc_auc(labels[known], savings[known])
    interval = auc_interval(labels[known], savings[known], of[known])
    return (*found, Metric.of("auc", value, interval, int(known.sum()), int((~known).sum())))


def _saving(told: NDArray[np.floating] | None, untold: NDArray[np.floating] | None) -> float:
    """Mean nats a token saved; NaN where unknown."""
    # Of another length where the two contexts end so differently that a token across the border is in one alone.
    if told is None or untold is None or told.shape != untold.shape:
        return float("nan")
    saved = np.asarray(untold, np.float64) - np.asarray(told, np.float64)
    return float(saved.mean()) if len(saved) and np.isfinite(saved).all() else float("nan")
