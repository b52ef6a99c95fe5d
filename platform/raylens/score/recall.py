"""Recall: detection on plain windows (uncentred, as the corpus was cut) against random ones, recall first."""

from __future__ import annotations

from collections.abc import Sequence

from raylens.examples.excerpt import Excerpt
from raylens.score import detection
from raylens.score.detection import read_reply
from raylens.score.metrics import Metric
from raylens.score.questions import Answered, Question, ScorerSettings

__all__ = ["SCORER", "build_requests", "read_reply", "result"]

SCORER = "recall"


def build_requests(
    explanation: str, test: Sequence[Excerpt], negatives: Sequence[Excerpt], settings: ScorerSettings, seed: int
) -> list[Question]:
    """As in detection, with its prompt; the caller passes whole windows, and negatives drawn at random."""
    return detection.build_requests(explanation, test, negatives, settings, seed, scorer=SCORER)


def result(answered: Sequence[Answered], *, base_rate: float | None = None, seed: int = 0) -> tuple[Metric, ...]:
    """Figures of one feature, recall first."""
    found = detection.result(answered, base_rate=base_rate, seed=seed)
    return tuple(sorted(found, key=lambda metric: metric.name != "recall"))
