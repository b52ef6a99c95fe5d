"""Permutation p-values: by hand, by going through all patterns with textbook statistics, and by scipy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.sparse import csr_array

from raylens.audit import sign_flips
from raylens.audit.sign_flips import SignFlips, sign_flip_test

VALUES = st.sampled_from([0.0, 0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 0.1])


def flip(dense: np.ndarray, **settings: int) -> SignFlips:
    return sign_flip_test(csr_array(np.asarray(dense, np.float64)), **settings)


def test_by_hand() -> None:
    # 1, 2, 3 add to 6; their sign patterns to ±6, ±4, ±2 and 0 (twice): 2 of 8 are as extreme.
    assert flip(np.array([[1.0], [2.0], [3.0]])).p_value.tolist() == [0.25]
    # 1, 2, 0: ±3 in 4 of 8 patterns. 1, −1, 0: everything is as extreme as 0.
    found = flip(np.array([[1.0, 1.0, 1.0], [2.0, 2.0, -1.0], [3.0, 0.0, 0.0]]))
    assert found.p_value.tolist() == [0.25, 0.5, 1.0]
    # |r| under +++, −++, +−+, ++− is .926 .617 .309 0, and .775 .258 .258 .775, and 0 .816 .816 0; so the largest of
    # the three is .926 .816 .816 .775, which the second feature's .775 never exceeds.
    assert found.p_max.tolist() == [0.25, 1.0, 1.0]
    assert (found.n_patterns, found.exact, found.smallest_p) == (8, True, 0.25)
    # Four of five up by 1: |sum| ≥ 3 in 2 + 10 of 32 patterns.
    assert flip(np.array([[1.0], [1.0], [1.0], [1.0], [-1.0]])).p_value.tolist() == [12 / 32]


def test_one_unit_says_nothing() -> None:
    found = flip(np.array([[5.0, 0.0]]))
    assert found.p_value.tolist() == found.p_max.tolist() == [1.0, 1.0]
    assert found.smallest_p == 1.0


def oracle(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All patterns, with means and Student's t as textbooks have them."""

    def t(values: np.ndarray) -> np.ndarray:
        deviation = values.std(axis=0, ddof=1)
        mean = np.abs(values.mean(axis=0))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(mean < 1e-12, 0.0, np.where(deviation < 1e-9, np.inf, mean / deviation))

    patterns = [np.array(signs)[:, None] * x for signs in product([1, -1], repeat=len(x))]
    seen = np.abs(x.mean(axis=0))
    p = np.mean([np.abs(values.mean(axis=0)) >= seen - 1e-12 for values in patterns], axis=0)
    largest = np.array([t(values).max() for values in patterns])
    p_max = np.mean([largest >= each * (1 - 1e-7) - 1e-7 for each in t(x)], axis=1)
    return p, p_max


@given(st.integers(2, 6).flatmap(lambda n: hnp.arrays(np.float64, (n, 4), elements=VALUES)))
def test_exact_p_values_are_those_of_all_patterns(x: np.ndarray) -> None:
    found = flip(x)
    p, p_max = oracle(x)
    np.testing.assert_allclose(found.p_value, p)
    np.testing.assert_allclose(found.p_max, p_max)
    assert found.exact
    assert (found.p_value >= found.smallest_p).all()


def test_exact_p_values_are_scipys() -> None:
    x = np.random.default_rng(0).normal(0.4, size=(10, 3))
    theirs = stats.permutation_test(
        (x,), lambda values, axis: values.mean(axis=axis), permutation_type="samples", n_resamples=5000, axis=0
    )
    np.testing.assert_allclose(flip(x).p_value, theirs.pvalue)


def test_drawn_p_values_are_near_exact_ones(monkeypatch) -> None:
    x = np.random.default_rng(1).normal(0.3, size=(11, 6))
    exact = flip(x)
    monkeypatch.setattr(sign_flips, "EXACT_PATTERNS", 1)
    drawn = flip(x, permutations=20_000, seed=3)
    assert not drawn.exact
    assert drawn.n_patterns == 20_000
    for near, true in ((drawn.p_value, exact.p_value), (drawn.p_max, exact.p_max)):
        assert (np.abs(near - true) <= 5 * np.sqrt(true * (1 - true) / 20_000) + 1e-4).all()


def test_drawn_p_values_count_what_was_observed() -> None:
    """(1 + b) / (1 + B): never 0, whatever was observed."""
    x = np.column_stack([np.ones(40), np.zeros(40), np.random.default_rng(2).normal(size=40)])
    found = flip(x, permutations=9, seed=1)
    assert found.smallest_p == 0.1
    assert found.p_value.tolist()[:2] == [0.1, 1.0]
    assert found.p_max.tolist()[:2] == [0.1, 1.0]
    np.testing.assert_allclose(found.p_value * 10, np.round(found.p_value * 10))
    assert flip(x, permutations=99, seed=1).p_value[2] == flip(x, permutations=99, seed=1).p_value[2]


def test_twelve_prompts_are_gone_through_and_thirteen_drawn() -> None:
    assert flip(np.ones((12, 1))).n_patterns == 4096
    assert flip(np.ones((12, 1))).p_value.tolist() == [2 / 4096]
    assert not flip(np.ones((13, 1)), permutations=19).exact


def test_in_pieces_nothing_changes(monkeypatch) -> None:
    x = np.random.default_rng(4).normal(0.2, size=(15, 10))
    whole = flip(x, permutations=100)
    monkeypatch.setattr(sign_flips, "_BLOCK", 3)
    pieces = flip(x, permutations=100)
    np.testing.assert_array_equal(pieces.p_value, whole.p_value)
    np.testing.assert_array_equal(pieces.p_max, whole.p_max)


@given(
    hnp.arrays(np.float64, (5, 6), elements=VALUES),
    st.permutations(range(6)),
    st.sampled_from([1e-200, 0.3, 1.0, 7.0, 1e200]),
    st.booleans(),
)
def test_order_units_and_direction_do_not_matter(x: np.ndarray, order: list[int], unit: float, exact: bool) -> None:
    rows = x if exact else np.vstack([x, x, x])
    found = flip(rows, permutations=50)
    changed = flip(-unit * rows[:, order], permutations=50)
    np.testing.assert_array_equal(changed.p_value, found.p_value[order])
    np.testing.assert_array_equal(changed.p_max, found.p_max[order])
    assert ((found.p_value > 0) & (found.p_value <= found.p_max) & (found.p_max <= 1)).all()


def test_no_features_and_no_units() -> None:
    assert flip(np.zeros((4, 0))).p_value.tolist() == []
    for rows, permutations in ((0, 9), (3, 0)):
        with pytest.raises(ValueError, match="no test"):
            flip(np.zeros((rows, 2)), permutations=permutations)
