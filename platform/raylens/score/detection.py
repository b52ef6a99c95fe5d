"""Detection: told the explanation, which of a few plain texts does the feature fire in?"""

from __future__ import annotations

from collections.abc import Sequence

from raylens.chat import Reply, Request
from raylens.examples.excerpt import Excerpt
from raylens.score.metrics import Metric, classification
from raylens.score.questions import (
    Answered,
    Answers,
    Question,
    ScorerSettings,
    Unreadable,
    item_id,
    numbered_texts,
    shuffled_batches,
    verdicts,
)
from raylens.score.yes_no import read_list

SCORER = "detection"


def build_requests(
    explanation: str,
    test: Sequence[Excerpt],
    negatives: Sequence[Excerpt],
    settings: ScorerSettings,
    seed: int,
    *,
    scorer: str = SCORER,
) -> list[Question]:
    """Questions over all of ``test`` and ``negatives``, ``settings.per_prompt`` texts each, in shuffled order.

    Args:
        explanation: One phrase.
        test: Excerpts on which the feature fires.
        negatives: On which it is silent.
        settings: How to ask.
        seed: Of the order; one of its own a feature (:func:`raylens.score.questions.feature_seed`).
        scorer: The name that the questions carry.
    """
    items = [(excerpt, 1.0) for excerpt in test] + [(excerpt, 0.0) for excerpt in negatives]
    texts = [excerpt.text for excerpt, _ in items]
    batches = shuffled_batches(len(items), settings.per_prompt, seed)
    return [yes_no_question(scorer, "detection", explanation, items, texts, batch, settings) for batch in batches]


def yes_no_question(
    scorer: str,
    prompt_name: str,
    explanation: str,
    items: Sequence[tuple[Excerpt, float]],
    texts: Sequence[str],
    batch: Sequence[int],
    settings: ScorerSettings,
    **places: str,
) -> Question:
    """The question about the items at ``batch``, shown as ``texts``; ``places`` are further ones to fill in."""
    prompt = settings.prompts[prompt_name]
    shown = {"explanation": explanation, "count": str(len(batch)), "texts": numbered_texts([texts[i] for i in batch])}
    request = Request(
        prompt.fill(shown | places), settings.max_tokens, settings.temperature, top_logprobs=settings.top_logprobs
    )
    chosen = [items[i] for i in batch]
    return Question(
        scorer,
        request,
        tuple(item_id(excerpt) for excerpt, _ in chosen),
        tuple(excerpt.doc_id for excerpt, _ in chosen),
        tuple(truth for _, truth in chosen),
        prompt.sha256,
    )


def read_reply(question: Question, reply: Reply) -> Answers | Unreadable:
    """A JSON list of 0 and 1, one a text."""
    return read_list(reply, len(question.item_ids))


def result(answered: Sequence[Answered], *, base_rate: float | None = None, seed: int = 0) -> tuple[Metric, ...]:
    """Figures of one feature; see :func:`raylens.score.metrics.classification`."""
    found = verdicts(answered)
    return classification(
        found.labels,
        found.answers,
        probabilities=found.probabilities,
        documents=found.documents,
        base_rate=base_rate,
        n_failed=found.n_failed,
        seed=seed,
    )
