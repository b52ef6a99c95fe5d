"""Made-up excerpts of one feature, and judges that answer questions about them without reading."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import numpy as np

from raylens.chat import Reply, TokenLogprob
from raylens.examples.excerpt import Excerpt
from raylens.score.questions import Answered, Question, Unreadable
from raylens.score.scorers import ChatScorer

Judge = Callable[[Question], Reply]


def excerpt(
    at: int,
    activations: Sequence[float],
    *,
    doc_id: int | None = None,
    quantile: int | None = None,
    tokens: Sequence[str] | None = None,
) -> Excerpt:
    """Window ``at``; token ``k`` reads `` w<at>_<k>``, or as ``tokens`` say."""
    n = len(activations)
    return Excerpt.of(
        window_id=at,
        doc_id=at if doc_id is None else doc_id,
        start=0,
        tokens=tokens or [f" w{at}_{k}" for k in range(n)],
        token_ids=np.arange(n, dtype=np.int32),
        activations=np.array(activations, np.float32),
        quantile=quantile,
    )


def reading(one: Excerpt, tokens: Sequence[str]) -> Excerpt:
    """The same excerpt with other text in it, a token each."""
    assert len(tokens) == len(one.token_ids)
    return Excerpt.of(one.window_id, one.doc_id, one.start, tokens, one.token_ids, one.activations, one.quantile)


def feature(n_positive: int, n_negative: int, *, length: int = 8, seed: int = 0) -> tuple[list[Excerpt], list[Excerpt]]:
    """Positives that fire at 2.5 on 1 to 3 tokens, mostly in the middle; negatives of the same length."""
    rng = np.random.default_rng(seed)
    positives: list[Excerpt] = []
    for at in range(n_positive):
        strengths = np.zeros(length)
        peak = int(rng.binomial(length - 1, 0.5))
        strengths[peak : peak + int(rng.integers(1, 4))] = 2.5
        positives.append(excerpt(at, strengths.tolist(), quantile=at * 10 // n_positive))
    return positives, [excerpt(1000 + at, [0.0] * length) for at in range(n_negative)]


def written(question: Question, values: Sequence[float]) -> str:
    """``values``, in the form that the question asks for."""
    if question.scorer == "simulation":
        return json.dumps({str(i): round(value) for i, value in enumerate(values, start=1)})
    if question.scorer == "intruder":
        return json.dumps([int(np.argmax(values)) + 1])
    return json.dumps([int(value) for value in values])


def levels(question: Question, *, inverted: bool = False) -> list[float]:
    """The truth as a judge would write it; of a simulation, 10 where it is above 0."""
    scale = 10 if question.scorer == "simulation" else 1
    return [scale * float((value > 0) != inverted) for value in question.truth]


def perfect(question: Question) -> Reply:
    return spelled(written(question, levels(question)))


def inverted(question: Question) -> Reply:
    return spelled(written(question, levels(question, inverted=True)))


def coin(seed: int) -> Judge:
    rng = np.random.default_rng(seed)

    def judge(question: Question) -> Reply:
        if question.scorer == "intruder":
            return spelled(written(question, np.eye(len(question.truth))[rng.integers(len(question.truth))].tolist()))
        scale = 10 if question.scorer == "simulation" else 1
        text = written(question, (scale * rng.integers(2, size=len(question.truth))).tolist())
        return spelled(text, rng.uniform(0.05, 0.95, size=len(text)).tolist())

    return judge


def spelled(text: str, ones: Sequence[float] | None = None) -> Reply:
    """A reply of one token a character; each 0 or 1 has both as alternatives, 1 with probability ``ones[place]``."""
    tokens: list[TokenLogprob] = []
    for place, character in enumerate(text):
        top = {character: 0.0}
        if character in "01" and ones is not None:
            top = {"0": math.log(1 - ones[place]), "1": math.log(ones[place])}
        tokens.append(TokenLogprob(character, top[character], top))
    return Reply(text, tuple(tokens))


def ask(scorer: ChatScorer, questions: Sequence[Question], judge: Judge) -> list[Answered]:
    return [(question, scorer.read_reply(question, judge(question))) for question in questions]


def unanswered(questions: Sequence[Question], reason: str = "no reply") -> list[Answered]:
    return [(question, Unreadable(reason)) for question in questions]
