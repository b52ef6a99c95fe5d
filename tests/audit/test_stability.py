"""Stability over variants: overlaps of lists by hand and by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from raylens.audit.stability import jaccard, rank_biased_overlap, stability
from raylens.score.intervals import wilson

RANKINGS = st.lists(st.integers(0, 9), unique=True, max_size=8)


def test_jaccard_by_hand() -> None:
    assert jaccard([1, 2, 3], [3, 2, 4]) == 0.5
    assert jaccard([], []) == 1.0
    assert jaccard([1], []) == 0.0


def test_rank_biased_overlap_by_hand() -> None:
    # a b c against b a d with p = ½: agreement 0, 1, ⅔ at depths 1, 2, 3; ½·(0 + ½·1 + ¼·⅔) + ⅔·⅛.
    assert rank_biased_overlap("abc", "bad", 0.5) == pytest.approx(0.5 * (0.5 + 0.25 * 2 / 3) + 2 / 3 / 8)
    assert rank_biased_overlap("abc", "abc") == pytest.approx(1.0)
    assert rank_biased_overlap("abc", "xyz") == 0.0
    assert rank_biased_overlap("", "") == 1.0
    assert rank_biased_overlap("", "a") == 0.0
    # The order matters, which it does not to Jaccard.
    assert rank_biased_overlap("abcd", "bacd") < rank_biased_overlap("abcd", "abdc") < 1.0


@given(RANKINGS, RANKINGS, st.sampled_from([0.3, 0.8, 0.9]))
def test_rank_biased_overlap_is_the_infinite_sum(a: list[int], b: list[int], p: float) -> None:
    """(1 − p) Σ pᵈ⁻¹ · agreement at d, each list going on for ever at the rate of its end (Webber et al. 2010, 4.2)."""
    found = rank_biased_overlap(a, b, p)
    assert found == rank_biased_overlap(b, a, p)
    assert 0 <= found <= 1
    short, long = sorted((a, b), key=len)
    if not short:
        return
    s, n = len(short), len(long)
    total = agreement = 0.0
    for depth in range(1, 2000):
        if depth <= n:
            shared = len(set(long[:depth]) & set(short[:depth]))
            agreement = (shared + max(0, depth - s) * len(set(short) & set(long[:s])) / s) / depth
        total += (1 - p) * p ** (depth - 1) * agreement
    assert found == pytest.approx(total, abs=1e-9)


def test_rankings_name_each_item_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        rank_biased_overlap([1, 1], [2, 3])
    for p in (0.0, 1.0):
        with pytest.raises(ValueError, match="persistence"):
            rank_biased_overlap([1], [1], p)


def test_stability_by_hand() -> None:  # A2.19
    plain, spaces, upper = [4.0, 2.0, 0.0, 0.0], [4.0, -2.0, 0.0, 1.0], [4.0, 3.0, 0.0, 0.0]
    rows = np.array([plain, spaces, upper, plain, spaces, upper])
    found = stability(csr_array(rows), ["plain", "spaces", "upper"] * 2, k=2)
    assert found.variants == ("plain", "spaces", "upper")
    # Lists +0 +1, +0 −1, +0 +1: Jaccard ⅓, 1, ⅓.
    assert found.jaccard == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    assert found.rank_biased_overlap == pytest.approx((2 * rank_biased_overlap("ab", "ac") + 1) / 3)
    assert [(f.feature, f.difference, f.n_kept, f.share) for f in found.features] == [
        (0, 4.0, 3, 1.0),
        (1, 1.0, 2, 2 / 3),
    ]
    assert [f.interval for f in found.features] == [wilson(3, 3), wilson(2, 3)]


def test_variants_count_alike_however_many_rows_they_have() -> None:  # A2.19
    rows = np.array([[3.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    found = stability(rows, ["a", "b", "b", "b"], k=1)
    assert [(f.feature, f.difference) for f in found.features] == [(0, 1.5)]
    assert found.features[0].n_kept == 1
    assert found.jaccard == 0.0


def test_one_variant_has_no_pairs_and_no_difference_no_features() -> None:
    single = stability(np.array([[1.0, 2.0]]), ["a"])
    assert (single.jaccard, single.rank_biased_overlap) == (None, None)
    assert [f.feature for f in single.features] == [1, 0]
    none = stability(np.zeros((2, 3)), ["a", "b"])
    assert none.features == ()
    assert none.jaccard == none.rank_biased_overlap == 1.0
    with pytest.raises(ValueError, match="no prompt"):
        stability(np.zeros((0, 3)), [])


@given(
    st.integers(0, 2**32 - 1),
    st.permutations(range(5)),
    st.integers(1, 6),
    st.sampled_from([0.5, -1.0, 8.0]),
)
def test_order_units_and_direction_do_not_matter(seed: int, order: list[int], k: int, unit: float) -> None:
    # Normal draws, of which no two means are equal: ties go by index, which an order changes.
    x = np.random.default_rng(seed).normal(size=(6, 5))
    variants = ["a", "b", "c"] * 2
    found, changed = stability(x, variants, k), stability(unit * x[:, order], variants, k)
    assert changed.jaccard == pytest.approx(found.jaccard)
    assert changed.rank_biased_overlap == pytest.approx(found.rank_biased_overlap)
    assert [order[f.feature] for f in changed.features] == [f.feature for f in found.features]
    assert [f.n_kept for f in changed.features] == [f.n_kept for f in found.features]
