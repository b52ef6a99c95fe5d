"""Fuzz: told the explanation, are the marked tokens of a text what it is about?

Positives are marked where the feature fires. Each negative borrows the marks of one positive, so that where marks
stand and how many there are is distributed alike in both, and only what is marked can tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.examples.excerpt import Excerpt
from raylens.score.detection import read_reply, result, yes_no_question
from raylens.score.questions import Question, ScorerSettings, shuffled_batches

__all__ = ["SCORER", "borrowed_marks", "build_requests", "choose_marks", "fired", "marked_text", "read_reply", "result"]

SCORER = "fuzz"
MARKS = (("<<", ">>"), ("[[", "]]"), ("{{", "}}"), ("⟦", "⟧"), ("⟪", "⟫"), ("<<mark>>", "<</mark>>"))


def build_requests(
    explanation: str, test: Sequence[Excerpt], negatives: Sequence[Excerpt], settings: ScorerSettings, seed: int
) -> list[Question]:
    """Questions over all of ``test`` and ``negatives``, marked, in shuffled order.

    Raises:
        InputError: There are negatives and no positives to borrow marks of.
    """
    positive_marks = [fired(excerpt, settings.mark_above) for excerpt in test]
    marks = positive_marks + borrowed_marks(positive_marks, [len(excerpt.tokens) for excerpt in negatives], seed)
    items = [(excerpt, 1.0) for excerpt in test] + [(excerpt, 0.0) for excerpt in negatives]
    pair = choose_marks([excerpt.text for excerpt, _ in items])
    texts = [marked_text(excerpt.tokens, mark, pair) for (excerpt, _), mark in zip(items, marks, strict=True)]
    return [
        yes_no_question(SCORER, "fuzz", explanation, items, texts, batch, settings, open=pair[0], close=pair[1])
        for batch in shuffled_batches(len(items), settings.per_prompt, seed)
    ]


def fired(excerpt: Excerpt, mark_above: float) -> NDArray[np.bool_]:
    """Which tokens of a positive are marked: those above a share of its own peak, bool ``[tokens]``.

    Of its own and not the feature's, or weak excerpts would carry no mark and be known by that.
    """
    return (excerpt.activations > 0) & (excerpt.activations > mark_above * excerpt.peak)


def borrowed_marks(donors: Sequence[NDArray[np.bool_]], lengths: Sequence[int], seed: int) -> list[NDArray[np.bool_]]:
    """Marks for texts of ``lengths`` tokens, each from one donor; every donor serves equally often, give or take one.

    A donor of the same length lends its marks as they are. Where there is none, marks keep their relative place, and
    their number as far as there are tokens.

    Args:
        donors: Marks of the positives, bool ``[tokens]`` each.
        lengths: Tokens of each negative.
        seed: Of who borrows from whom.

    Raises:
        InputError: There is nobody to borrow from.
    """
    if not lengths:
        return []
    if not donors:
        raise InputError("fuzz has negatives and no positives.", hint="give it test excerpts on which it fires.")
    rng = np.random.default_rng([seed, 1])
    queues: dict[int, list[int]] = {}
    marks: list[NDArray[np.bool_]] = []
    for length in lengths:
        alike = [i for i, donor in enumerate(donors) if len(donor) == length]
        # Key 0: those who find no donor of their length share one queue of all.
        queue = queues.setdefault(length if alike else 0, [])
        if not queue:
            queue += [int(i) for i in rng.permutation(alike or len(donors))]
        marks.append(_stretched(donors[queue.pop()], length))
    return marks


def marked_text(tokens: Sequence[str], marks: NDArray[np.bool_], pair: tuple[str, str] = MARKS[0]) -> str:
    """The text with every run of marked tokens between ``pair``."""
    parts: list[str] = []
    inside = False
    for token, marked in zip(tokens, marks, strict=True):
        if marked != inside:
            parts.append(pair[0] if marked else pair[1])
            inside = bool(marked)
        parts.append(token)
    return "".join(parts) + (pair[1] if inside else "")


def choose_marks(texts: Sequence[str]) -> tuple[str, str]:
    """The first pair of marks of which no half occurs in any of the texts: code is full of ``<<`` and ``>>>``."""
    free = [pair for pair in MARKS if not any(half in text for text in texts for half in pair)]
    return free[0] if free else MARKS[-1]


def _stretched(donor: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    if len(donor) == length:
        return donor.copy()
    marks = np.zeros(length, np.bool_)
    for place in np.flatnonzero(donor):
        wanted = int(place * length / len(donor))
        free = np.flatnonzero(~marks)
        if len(free):
            marks[free[np.abs(free - wanted).argmin()]] = True
    return marks
