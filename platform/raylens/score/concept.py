"""Concept: is what an explanation names a concept, or grammar? One half of the good-feature rule (A1.02).

The judge reads the explanation alone, so this says nothing about whether it is right; the other scorers do that.
"""

from __future__ import annotations

from collections.abc import Sequence

from raylens.chat import Reply, Request
from raylens.examples.excerpt import Excerpt
from raylens.score.metrics import Metric
from raylens.score.questions import Answered, Answers, Question, ScorerSettings, Unreadable
from raylens.score.yes_no import read_list

SCORER = "concept"


def build_requests(
    explanation: str, test: Sequence[Excerpt], negatives: Sequence[Excerpt], settings: ScorerSettings, seed: int
) -> list[Question]:
    """One question, about ``explanation``; all else plays no part."""
    del test, negatives, seed
    prompt = settings.prompts["concept"]
    request = Request(prompt.fill({"explanation": explanation}), settings.max_tokens, settings.temperature)
    # There is no truth to hold it against: the judge's word is the figure.
    return [Question(SCORER, request, ("explanation",), (0,), (1.0,), prompt.sha256)]


def read_reply(question: Question, reply: Reply) -> Answers | Unreadable:
    """A JSON list of one 0 or 1."""
    return read_list(reply, len(question.truth))


def result(answered: Sequence[Answered], *, base_rate: float | None = None, seed: int = 0) -> tuple[Metric, ...]:
    """``is_concept``, 1 or 0, without an interval, being one opinion; None where the judge gave none."""
    del base_rate, seed
    found = [reply.values[0] for _, reply in answered if isinstance(reply, Answers)]
    value = found[0] if found else None
    return (Metric.of("is_concept", value, None, len(found), len(answered) - len(found)),)
