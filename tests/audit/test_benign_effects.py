"""Effects of benign fine-tunes on features, and scores standardised by them: by hand, and against dense loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array

from raylens.audit.benign_effects import BenignEffects, benign_standardised, cross_fitted
from raylens.errors import InputError

EFFECTS = hnp.arrays(np.float64, (6, 4), elements=st.floats(-8, 8).map(lambda x: round(x, 2)))


def test_benign_standardised_by_hand() -> None:
    # Three benign fine-tunes: the first feature moves by 1, 2, 3 (mean 2, deviation 1), the second by 0, 0, 3 (mean 1,
    # deviation √3), the third never. The median deviation of those that move is (1 + √3) / 2.
    benign = BenignEffects.fit(np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [3.0, 3.0, 0.0]]))
    floor = (1 + 3**0.5) / 2
    assert benign.n == 3
    np.testing.assert_allclose(benign.mean, [2.0, 1.0, 0.0])
    np.testing.assert_allclose(benign.scale, [1 + floor, 3**0.5 + floor, floor])
    candidate = np.array([[1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])
    # Mean differences 2, 1, 1: only the feature that no benign fine-tune moves is unusual.
    reference = np.zeros((2, 3))
    assert benign_standardised(reference, candidate, benign, k=1) == pytest.approx(1 / floor)
    assert benign_standardised(reference, candidate, benign, k=2) == pytest.approx(0.5 / floor)
    assert benign_standardised(reference, candidate, benign, k=99) == pytest.approx(1 / floor / 3)


@given(EFFECTS)
def test_benign_statistics_are_the_dense_ones(rows: np.ndarray) -> None:
    effects, moved = rows[:5], rows[5]
    deviation = effects.std(axis=0, ddof=1)
    if not (deviation > 1e-6).any():
        return
    found = BenignEffects.fit(csr_array(effects))
    np.testing.assert_allclose(found.mean, effects.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.scale, deviation + np.median(deviation[deviation > 1e-6]), rtol=1e-6)
    tenfold = BenignEffects.fit(8 * effects)
    np.testing.assert_allclose(tenfold.standardise(8 * moved), found.standardise(moved), rtol=1e-9)


def test_benign_statistics_need_more_than_one_fine_tune_that_moves_something() -> None:
    for too_few in (np.ones((1, 2)), np.zeros((5, 2)), np.ones((5, 2)), np.zeros((0, 2))):
        with pytest.raises(InputError, match="do not show how much features vary"):
            BenignEffects.fit(too_few)
    with pytest.raises(ValueError, match="features"):
        BenignEffects.fit(np.eye(2)).standardise(np.ones(3))


@given(EFFECTS, st.integers(1, 5))
def test_each_is_standardised_by_those_of_other_families(effects: np.ndarray, k: int) -> None:
    families = ["b", "a", "b", "c", "a", "c"]
    try:
        found = cross_fitted(csr_array(effects), families, k)
    except InputError:
        return  # what is left of them moves nothing
    for row, family in enumerate(families):
        others = effects[[one != family for one in families]]
        deviation = others.std(axis=0, ddof=1)
        scale = deviation + np.median(deviation[deviation > 1e-12 * abs(others.mean(axis=0))])
        unusual = np.sort(np.abs((effects[row] - others.mean(axis=0)) / scale))[::-1][:k]
        assert found[row] == pytest.approx(unusual.mean(), rel=1e-6)


def test_of_one_family_each_is_standardised_by_the_others() -> None:
    effects = np.random.default_rng(0).normal(size=(5, 8))
    alone = cross_fitted(effects, ["a"] * 5, k=3)
    apart = cross_fitted(effects, ["a", "b", "c", "d", "e"], k=3)
    assert alone.tolist() == apart.tolist()


def test_benign_ones_and_a_candidate_like_them_score_alike() -> None:
    """A benign fine-tune that was fitted on scores less than others do; cross-fitted, it does not."""
    rng = np.random.default_rng(1)
    effects = rng.normal(size=(40, 200))
    fit = BenignEffects.fit(effects)
    seen = np.median([fit.score(row) for row in effects])
    unseen = np.median([fit.score(row) for row in rng.normal(size=(200, 200))])
    crossed = np.median(cross_fitted(effects, [str(row % 8) for row in range(40)]))
    assert seen < unseen - 0.02
    assert crossed == pytest.approx(unseen, abs=0.06)


def test_where_other_families_are_too_few_each_is_left_out_alone() -> None:
    effects = np.random.default_rng(2).normal(size=(5, 8))
    alone = cross_fitted(effects, ["a", "b", "c", "d", "e"], k=3)
    assert cross_fitted(effects, ["a", "a", "a", "a", "b"], k=3).tolist() == alone.tolist()


def test_what_cannot_be_cross_fitted() -> None:
    with pytest.raises(ValueError, match="2 families of 3 fine-tunes"):
        cross_fitted(np.eye(3), ["a", "b"])
    with pytest.raises(InputError, match="do not show how much features vary"):
        cross_fitted(np.eye(2), ["a", "b"])
