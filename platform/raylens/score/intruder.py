"""Intruder: which of n windows does not belong? It measures the feature and not its name, which the judge never sees.

n − 1 windows are of one band of strength, the other is one on which the feature is silent. Chance is 1/n, and stands
beside the figure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from raylens.chat import Reply, Request
from raylens.examples.excerpt import Excerpt
from raylens.score.intervals import proportion_interval
from raylens.score.metrics import Metric
from raylens.score.questions import (
    Answered,
    Answers,
    Question,
    ScorerSettings,
    Unreadable,
    item_id,
    numbered_texts,
)
from raylens.score.yes_no import LIST, no_answer

SCORER = "intruder"


def build_requests(
    explanation: str, test: Sequence[Excerpt], negatives: Sequence[Excerpt], settings: ScorerSettings, seed: int
) -> list[Question]:
    """Questions in which every window of ``test`` takes part.

    Where a band leaves fewer than n − 1, windows of the nearest bands that were shown already fill up. No question is
    asked of fewer than n − 1 positives in all, or without negatives.

    Args:
        explanation: Not shown.
        test: Windows on which the feature fires.
        negatives: On which it is silent; each is the intruder about equally often.
        settings: ``intruder_windows`` is n.
        seed: Of the groups, the intruders and their places.
    """
    del explanation
    n = settings.intruder_windows
    if len(test) < n - 1 or not negatives:
        return []
    rng = np.random.default_rng(seed)
    prompt = settings.prompts["intruder"]
    groups = _groups(test, n - 1, rng)
    intruders = np.concatenate([rng.permutation(len(negatives)) for _ in range(-(-len(groups) // len(negatives)))])
    questions: list[Question] = []
    for group, at in zip(groups, intruders, strict=False):
        intruder, place = negatives[at], int(rng.integers(n))
        windows = [test[i].text for i in group]
        windows.insert(place, intruder.text)
        request = Request(
            prompt.fill({"count": str(n), "texts": numbered_texts(windows)}),
            settings.max_tokens,
            settings.temperature,
            top_logprobs=settings.top_logprobs,
        )
        truth = tuple(float(i == place) for i in range(n))
        questions.append(Question(SCORER, request, (item_id(intruder),), (intruder.doc_id,), truth, prompt.sha256))
    return questions


def read_reply(question: Question, reply: Reply) -> Answers | Unreadable:
    """A JSON list of one number, that of the window that does not belong; the last list counts."""
    found = list(LIST.finditer(reply.text))
    if not found:
        return no_answer(reply, "no JSON list")
    try:
        values = json.loads(found[-1].group())
    except (ValueError, RecursionError):
        return Unreadable("its last list is not JSON")
    n = len(question.truth)
    if len(values) != 1 or type(values[0]) is not int or not 1 <= values[0] <= n:
        return Unreadable(f"its last list is not one number of 1 to {n}")
    return Answers(tuple(float(i + 1 == values[0]) for i in range(n)))


def result(answered: Sequence[Answered], *, base_rate: float | None = None, seed: int = 0) -> tuple[Metric, ...]:
    """``accuracy`` over questions, and ``chance``; ``base_rate`` and ``seed`` play no part."""
    found = [(question, reply) for question, reply in answered if isinstance(reply, Answers)]
    right = np.array([reply.values == question.truth for question, reply in found], np.bool_)
    n_failed = len(answered) - len(found)
    interval = proportion_interval(right, [question.documents[0] for question, _ in found])
    chance = 1 / len(answered[0][0].truth) if answered else None
    return (
        Metric.of("accuracy", float(right.mean()) if found else None, interval, len(found), n_failed),
        Metric.of("chance", chance, None, len(found), n_failed),
    )


def _groups(test: Sequence[Excerpt], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Every window in one group of its band, or more where the last of a band is filled up."""
    bands = np.array([-1 if excerpt.quantile is None else excerpt.quantile for excerpt in test])
    groups: list[list[int]] = []
    for band in np.unique(bands):
        order = [int(i) for i in rng.permutation(np.flatnonzero(bands == band))]
        for first in range(0, len(order), size):
            group = order[first : first + size]
            others = [int(i) for i in rng.permutation(len(test)) if i not in group]
            others.sort(key=lambda i: abs(int(bands[i]) - int(band)))
            groups.append(group + others[: size - len(group)])
    return groups
