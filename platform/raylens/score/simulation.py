"""Simulation: told only the explanation, how strongly does the feature fire on each token? (Bills et al. 2023)

A judge gives every token of one excerpt a level of 0–10. Where log-probabilities are there, a level is the expected
value over what it might have written; the figure is the correlation with the true activations, over all tokens.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from raylens.chat import Reply, Request, TokenLogprob
from raylens.examples.excerpt import Excerpt
from raylens.score.metrics import Metric, correlation
from raylens.score.questions import (
    Answered,
    Answers,
    Question,
    ScorerSettings,
    Unreadable,
    item_id,
    numbered_texts,
    shuffled_batches,
)
from raylens.score.yes_no import likeliest, no_answer, token_starts

SCORER = "simulation"
TOKENS_A_LEVEL = 10
"""Of a reply, at most: ``"31": 10, `` is 7 or 8 in common tokenizers."""
_OBJECT = re.compile(r"\{[^{}]*\}")
_LEVEL = re.compile(r'("\d+"\s*:\s*)(\d+)')
_LEVELS = {str(level): level for level in range(11)}


def build_requests(
    explanation: str, test: Sequence[Excerpt], negatives: Sequence[Excerpt], settings: ScorerSettings, seed: int
) -> list[Question]:
    """A question an excerpt, negatives too (their truth is silence), in shuffled order."""
    prompt = settings.prompts["simulation"]
    excerpts = [*test, *negatives]
    questions: list[Question] = []
    for (at,) in shuffled_batches(len(excerpts), 1, seed):
        excerpt = excerpts[at]
        shown = {
            "explanation": explanation,
            "count": str(len(excerpt.tokens)),
            "text": json.dumps(excerpt.text, ensure_ascii=False),
            "tokens": numbered_texts(excerpt.tokens),
        }
        request = Request(
            prompt.fill(shown),
            max(settings.max_tokens, TOKENS_A_LEVEL * (len(excerpt.tokens) + 2)),
            settings.temperature,
            top_logprobs=settings.top_logprobs,
        )
        truth = tuple(float(value) for value in excerpt.activations)
        questions.append(Question(SCORER, request, (item_id(excerpt),), (excerpt.doc_id,), truth, prompt.sha256))
    return questions


def read_reply(question: Question, reply: Reply) -> Answers | Unreadable:
    """A JSON object from token number to level, complete: ``{"1": 0, "2": 7}``. The last object counts."""
    found = list(_OBJECT.finditer(reply.text))
    if not found:
        return no_answer(reply, "no JSON object")
    n = len(question.truth)
    levels = _levels(found[-1].group(), n)
    if isinstance(levels, Unreadable):
        return levels
    expected = _expected(reply.logprobs or (), levels)
    return Answers(tuple(float(level) for level in levels) if expected is None else expected)


def result(answered: Sequence[Answered], *, base_rate: float | None = None, seed: int = 0) -> tuple[Metric, ...]:
    """Pearson's r over all tokens, ``n`` counting excerpts; ``base_rate`` plays no part."""
    found = [(question, reply) for question, reply in answered if isinstance(reply, Answers)]
    return (
        correlation(
            [np.array(reply.values) for _, reply in found],
            [np.array(question.truth) for question, _ in found],
            [question.documents[0] for question, _ in found],
            n_failed=len(answered) - len(found),
            seed=seed,
        ),
    )


def _levels(text: str, n: int) -> list[int] | Unreadable:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return Unreadable("its last object is not JSON")
    if [key for key, _ in pairs] != [str(number) for number in range(1, n + 1)]:
        return Unreadable(f"an object whose keys are not 1 to {n} in order")
    levels = [level for _, level in pairs]
    if not all(type(level) is int and 0 <= level <= 10 for level in levels):
        return Unreadable("a level that is not a whole number of 0 to 10")
    return levels


def _expected(tokens: Sequence[TokenLogprob], levels: Sequence[int]) -> tuple[float, ...] | None:
    """Expected levels; None unless the tokens spell the same object, or where a level begins within a token."""
    text = "".join(token.token for token in tokens)
    found = list(_OBJECT.finditer(text))
    if not found or _levels(found[-1].group(), len(levels)) != list(levels):
        return None
    starts = token_starts(tokens)
    expected: list[float] = []
    for match in _LEVEL.finditer(text, *found[-1].span()):
        index = next(i for i in range(len(tokens)) if starts[i] <= match.start(2) < starts[i + 1])
        if tokens[index].token[: match.start(2) - starts[index]].strip():
            return None
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        expected.append(_expected_level(tokens[index], following, int(match[2])))
    return tuple(expected) if len(expected) == len(levels) else None


def _expected_level(token: TokenLogprob, following: TokenLogprob | None, written: int) -> float:
    """Σ level · P(level) / Σ P(level) at one place.

    Tokenizers that split digits write 10 as ``1`` and ``0``: where ``1`` was written, what followed it says how much
    of its mass meant 10; where something else was, there is nothing to tell, and it counts as 1.
    """
    ten = _share_of_ten(following) if token.token.strip() == "1" and following is not None else 0.0
    total = value = 0.0
    for text, logprob in likeliest(token).items():
        level = _LEVELS.get(text.strip(" \n\t,}"))
        if level is None or math.isnan(logprob):
            continue
        mass = math.exp(min(logprob, 0.0))
        total += mass
        value += mass * (1 + 9 * ten if level == 1 else level)
    return value / total if total > 0 else float(written)


def _share_of_ten(following: TokenLogprob) -> float:
    alternatives: Mapping[str, float] = likeliest(following)
    known = {text: math.exp(min(logprob, 0.0)) for text, logprob in alternatives.items() if not math.isnan(logprob)}
    total = sum(known.values())
    return sum(mass for text, mass in known.items() if text.startswith("0")) / total if total > 0 else 0.0
