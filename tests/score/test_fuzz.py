"""Marks: where they stand and how many there are is the same in positives and negatives."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from judges import excerpt, feature
from raylens.errors import InputError
from raylens.score import fuzz
from raylens.score.metrics import roc_auc
from raylens.score.questions import ScorerSettings

masks = st.integers(1, 12).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n)).map(np.array)


def test_marked_text_by_hand() -> None:
    tokens = ("a", " b", " c", " d")
    assert fuzz.marked_text(tokens, np.array([0, 1, 1, 0], bool)) == "a<< b c>> d"
    assert fuzz.marked_text(tokens, np.array([1, 0, 0, 1], bool)) == "<<a>> b c<< d>>"
    assert fuzz.marked_text(tokens, np.zeros(4, bool)) == "a b c d"
    assert fuzz.marked_text((), np.zeros(0, bool)) == ""


def test_positives_are_marked_where_they_fire_relative_to_their_own_peak() -> None:
    weak = excerpt(1, [0, 0.02, 0.1, 0.031, 0])
    assert fuzz.fired(weak, 0.3).tolist() == [False, False, True, True, False]
    assert fuzz.fired(weak, 0.0).tolist() == [False, True, True, True, False]


def test_marks_that_a_text_holds_already_are_not_used() -> None:
    assert fuzz.choose_marks(["plain"]) == ("<<", ">>")
    assert fuzz.choose_marks(["plain", ">>> 1"]) == ("[[", "]]")
    assert fuzz.choose_marks(["1 << 2", "a[b[0]]", "{{x"]) == ("⟦", "⟧")
    assert fuzz.choose_marks(["".join(half for pair in fuzz.MARKS for half in pair)]) == fuzz.MARKS[-1]


@given(st.lists(masks, min_size=1, max_size=8), st.lists(st.integers(1, 12), max_size=12), st.integers(0, 9))
def test_borrowed_marks_have_a_donor(donors, lengths, seed) -> None:
    marks = fuzz.borrowed_marks(donors, lengths, seed)
    assert [len(mark) for mark in marks] == lengths
    numbers = {int(donor.sum()) for donor in donors}
    for mark in marks:
        alike = [donor.tolist() for donor in donors if len(donor) == len(mark)]
        if alike:
            assert mark.tolist() in alike
        else:
            assert int(mark.sum()) in {min(number, len(mark)) for number in numbers}


def test_as_many_negatives_as_positives_carry_exactly_the_same_marks(settings: ScorerSettings) -> None:
    positives, negatives = feature(50, 50, length=32)
    marks = [fuzz.fired(e, settings.mark_above) for e in positives]
    borrowed = fuzz.borrowed_marks(marks, [32] * len(negatives), 7)
    assert Counter(m.tobytes() for m in borrowed) == Counter(m.tobytes() for m in marks)
    assert any((a != b).any() for a, b in zip(marks, borrowed, strict=True)), "and not in the same order"
    # With fewer or more negatives, every donor serves equally often, give or take one.
    tagged = [np.arange(32) == i for i in range(20)]
    for number in (7, 50):
        used = np.sum(fuzz.borrowed_marks(tagged, [32] * number, 7), axis=0)[:20]
        assert used.max() - used.min() <= 1


@pytest.mark.parametrize("lengths", [(32,), (20, 32)])
def test_position_and_number_of_marks_tell_nothing(settings: ScorerSettings, lengths: tuple[int, ...]) -> None:
    """As a judge sees it, read back from the prompts, over many features, against a plant that does tell."""
    seen: dict[bool, list[np.ndarray]] = {True: [], False: []}
    planted: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    for number in range(40):
        positives, negatives = [], []
        for length in lengths:
            more = feature(20, 15, length=length, seed=number)
            positives, negatives = positives + more[0], negatives + more[1]
        questions = fuzz.build_requests("a phrase", positives, negatives, settings, number)
        for question in questions:
            lines = question.request.messages[-1].content.split("\n")[3:]
            for line, truth in zip(lines, question.truth, strict=True):
                text = json.loads(line.split(". ", 1)[1])
                seen[truth > 0].append(places(text))
                planted.append(rng.integers(32, size=2))
    for measure in (len, min, max, np.mean):
        positive, negative = (np.array([measure(found) for found in seen[side]]) for side in (True, False))
        assert same_distribution(positive, negative) > 0.01, measure
        labels = np.repeat([True, False], [len(positive), len(negative)])
        auc = roc_auc(labels, np.concatenate([positive, negative]).astype(float))
        assert auc == pytest.approx(0.5, abs=0.03)
    # The test sees a difference where there is one: tokens marked at random, as one might have done.
    spread = np.array([found.mean() for found in planted])
    assert same_distribution(np.array([found.mean() for found in seen[True]]), spread) < 0.01


def same_distribution(a: np.ndarray, b: np.ndarray) -> float:
    """P-value of the two-sided Kolmogorov–Smirnov test."""
    return float(cast(Any, stats.ks_2samp(a, b)).pvalue)


def places(text: str) -> np.ndarray:
    """Indices of the marked tokens of a text of `` w7_0 w7_1 …``."""
    inside, found, number = False, [], 0
    for piece in text.replace("<<", "\0<\0").replace(">>", "\0>\0").split("\0"):
        if piece in {"<", ">"}:
            inside = piece == "<"
            continue
        n = len(piece.split())
        found += range(number, number + n) if inside else []
        number += n
    return np.array(found)


def test_negatives_without_a_positive_cannot_be_marked(settings: ScorerSettings) -> None:
    with pytest.raises(InputError, match="no positives"):
        fuzz.build_requests("a phrase", [], [excerpt(1, [0, 0])], settings, 0)
    assert fuzz.build_requests("a phrase", [], [], settings, 0) == []


def test_the_prompt_names_the_marks_it_uses(settings: ScorerSettings) -> None:
    code = excerpt(1, [0, 3.0], tokens=(">>>", " print"))
    (question,) = fuzz.build_requests("a phrase", [code], [excerpt(2, [0, 0])], settings, 0)
    system, *_, last = question.request.messages
    assert "between [[ and ]]" in system.content
    assert "<<" not in "".join(message.content for message in question.request.messages)
    assert ">>>[[ print]]" in last.content
    assert " w2_0[[ w2_1]]" in last.content
