"""What a judge is asked and what came back: questions over shuffled items, answers, and items that were lost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raylens.chat import Request
from raylens.errors import InputError
from raylens.examples.excerpt import Excerpt
from raylens.explain.prompts import Prompts, load_prompts

PROMPT_NAMES = ("detection", "fuzz", "simulation", "intruder", "surprisal", "concept")


@dataclass(frozen=True)
class ScorerSettings:
    """How questions are put.

    Attributes:
        prompts: Of :func:`score_prompts`.
        per_prompt: Excerpts in one request of detection, fuzz and recall (``--num_examples_per_scorer_prompt``).
        top_logprobs: Ask for this many alternatives a token, from which probabilities are read; 0 for none.
        temperature: 0 for the likeliest answer.
        max_tokens: Of a reply; simulation asks for more where its answer is longer.
        mark_above: ``fuzz`` marks tokens that are above this share of their own excerpt's peak.
        intruder_windows: Windows in a question of ``intruder``, the one that does not belong included.
    """

    prompts: Prompts
    per_prompt: int = 5
    top_logprobs: int = 0
    temperature: float = 0.0
    max_tokens: int = 500
    mark_above: float = 0.3
    intruder_windows: int = 5

    def __post_init__(self) -> None:
        if self.per_prompt < 1:
            raise InputError(f"a prompt cannot hold {self.per_prompt} examples.", hint="1 or more; the default is 5.")
        if not 0 <= self.mark_above < 1:
            raise InputError(f"mark_above is {self.mark_above}.", hint="it lies in [0, 1), so the peak is marked.")
        if self.intruder_windows < 3:
            raise InputError(
                f"among {self.intruder_windows} windows none stands out.", hint="3 or more; the default is 5."
            )


def score_prompts(override: Path | None = None) -> Prompts:
    """The scorers' prompts, each from ``override`` (``--prompt-dir``) where a file of its name is there.

    Raises:
        InputError: See :func:`raylens.explain.prompts.load_prompts`.
    """
    return load_prompts("score", PROMPT_NAMES, override)


@dataclass(frozen=True, slots=True)
class Question:
    """One request to a judge, and what its answer is held against.

    Attributes:
        scorer: Which one asks.
        request: What to send.
        item_ids: The items asked about, in the order in which they are shown: ``<window_id>:<start>``.
        documents: The document of each item.
        truth: What a perfect judge answers: 1 or 0 an item; of a simulation, the activation of each token of its one
            item; of an intruder, 1 for the window that does not belong, where ``item_ids`` names only that one.
        prompt_hash: SHA-256 of the prompt file, hexadecimal.
    """

    scorer: str
    request: Request
    item_ids: tuple[str, ...]
    documents: tuple[int, ...]
    truth: tuple[float, ...]
    prompt_hash: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What a reply says.

    Attributes:
        values: As many as the question's ``truth``, in its terms; of a simulation, levels of 0–10.
        probabilities: Of a yes, one a value; None where the reply carries no usable log-probabilities.
    """

    values: tuple[float, ...]
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No answer: the reply does not say what was asked for, or there is none. ``reason`` is one clause."""

    reason: str


Answered = tuple[Question, Answers | Unreadable]
"""A question with what came of it; a caller whose request failed says why with :class:`Unreadable`."""


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item without an answer, to be shown beside the figures."""

    item_id: str
    scorer: str
    reason: str


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Yes-or-no answers of one feature, side by side.

    Attributes:
        labels: bool ``[n]``.
        answers: bool ``[n]``.
        probabilities: float64 ``[n]``, NaN where a reply had none.
        documents: int64 ``[n]``.
        n_failed: Items asked about and not answered.
    """

    labels: NDArray[np.bool_]
    answers: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    documents: NDArray[np.int64]
    n_failed: int


def verdicts(answered: Iterable[Answered]) -> Verdicts:
    """Answered items of all questions; those of unreadable replies are counted and nothing is put in their place."""
    labels: list[bool] = []
    answers: list[bool] = []
    probabilities: list[float] = []
    documents: list[int] = []
    n_failed = 0
    for question, reply in answered:
        if isinstance(reply, Unreadable):
            n_failed += len(question.item_ids)
            continue
        if len(reply.values) != len(question.truth):
            raise ValueError(f"{len(question.truth)} items, but {len(reply.values)} answers")
        labels += [truth > 0.5 for truth in question.truth]
        answers += [value > 0.5 for value in reply.values]
        probabilities += reply.probabilities or [math.nan] * len(reply.values)
        documents += question.documents
    return Verdicts(
        np.array(labels, np.bool_),
        np.array(answers, np.bool_),
        np.array(probabilities, np.float64),
        np.array(documents, np.int64),
        n_failed,
    )


def failed_items(answered: Iterable[Answered]) -> tuple[FailedItem, ...]:
    """Every item without an answer, and why."""
    return tuple(
        FailedItem(item, question.scorer, reply.reason)
        for question, reply in answered
        if isinstance(reply, Unreadable)
        for item in question.item_ids
    )


def item_id(excerpt: Excerpt) -> str:
    return f"{excerpt.window_id}:{excerpt.start}"


def feature_seed(seed: int, *names: object) -> int:
    """A seed of its own for each feature (and scorer …): 63 bits of SHA-256 over the run's seed and the names."""
    digest = hashlib.sha256("\0".join(str(part) for part in (seed, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shuffled_batches(n: int, size: int, seed: int) -> list[list[int]]:
    """0 … n − 1 in an order drawn from ``seed``, cut into runs of ``size``; the last may be shorter and is kept."""
    order = [int(at) for at in np.random.default_rng(seed).permutation(n)]
    return [order[first : first + size] for first in range(0, n, size)]


def numbered_texts(texts: Sequence[str]) -> str:
    """One text a line, numbered from 1, as JSON strings: line breaks inside one cannot pass for the next text."""
    return "\n".join(f"{number}. {json.dumps(text, ensure_ascii=False)}" for number, text in enumerate(texts, start=1))
