"""Scores of a candidate: by hand, against dense loops, and under changes that must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array
from scipy.special import log_softmax

from raylens.audit.scores import (
    DEFAULT_SCORE_METHOD,
    SCORE_METHODS,
    abs_diff_topk,
    abs_diff_topk_drift_corrected,
    kl_divergence,
    logit_kl,
    score_method,
)
from raylens.errors import InputError

FEATURES = hnp.arrays(np.float64, (4, 7), elements=st.sampled_from([0.0, 0.0, 0.25, 1.0, 1.5, 4.0]))


def test_abs_diff_topk_by_hand() -> None:  # A2.10
    reference = np.array([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 5.0]])
    candidate = np.array([[0.0, 3.0, 2.0, 0.5], [0.0, 0.0, 0.0, 5.0]])
    # Differences −1, 3, 0, ½ and none: the two largest of the first add to 4.
    found = abs_diff_topk(reference, csr_array(candidate), k=2)
    assert found.per_prompt.tolist() == [4.0, 0.0]
    assert found.value == 2.0


def test_drift_is_taken_off_first() -> None:  # A2.10
    reference = np.zeros((2, 3))
    candidate = np.array([[5.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
    assert abs_diff_topk(reference, candidate, k=1).value == 5.0
    # The first feature moves by 5 everywhere; of the second, ½ is left on either side of its mean.
    corrected = abs_diff_topk_drift_corrected(reference, candidate, k=1)
    assert corrected.per_prompt.tolist() == [0.5, 0.5]
    assert abs_diff_topk_drift_corrected(reference[:1], candidate[:1]).value == 0.0, "nothing is left of one prompt"


@given(FEATURES, FEATURES, st.integers(1, 9))
def test_scores_are_dense_loops(reference: np.ndarray, candidate: np.ndarray, k: int) -> None:  # A2.10
    difference = candidate - reference
    for score, rows in (
        (abs_diff_topk, difference),
        (abs_diff_topk_drift_corrected, difference - difference.mean(axis=0)),
    ):
        expected = [sum(sorted(np.abs(row), reverse=True)[:k]) for row in rows]
        found = score(csr_array(reference), csr_array(candidate), k)
        np.testing.assert_allclose(found.per_prompt, expected, atol=1e-12)
        assert found.value == pytest.approx(np.mean(expected))


@given(FEATURES, FEATURES, st.integers(1, 9), st.permutations(range(7)), st.sampled_from([0.25, 2.0, 1024.0]))
def test_order_and_direction_do_not_matter_and_units_carry_over(
    reference: np.ndarray, candidate: np.ndarray, k: int, order: list[int], unit: float
) -> None:
    for score in (abs_diff_topk, abs_diff_topk_drift_corrected):
        found = score(reference, candidate, k).value
        assert score(reference[:, order], candidate[:, order], k).value == found
        assert score(candidate, reference, k).value == found
        assert score(unit * reference, unit * candidate, k).value == unit * found
        assert score(reference, reference, k).value == 0.0


def test_k_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="largest 0"):
        abs_diff_topk(np.zeros((1, 2)), np.ones((1, 2)), k=0)


def test_kl_by_hand() -> None:
    reference, candidate = np.log([[0.5, 0.5], [1.0, 1.0]]), np.log([[0.25, 0.75], [1.0, 1.0]])
    # ½ ln 2 + ½ ln ⅔; and the second rows are logits, not yet normalised.
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    np.testing.assert_allclose(kl_divergence(reference, candidate), [expected, 0.0], atol=1e-15)
    found = logit_kl(np.array([0.2, 0.4]))
    assert found.value == pytest.approx(0.3)
    assert found.per_prompt.tolist() == [0.2, 0.4]


@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-80, 80, width=32)),
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-80, 80, width=32)),
    st.sampled_from([0.0, 1000.0, -3000.0]),
)
def test_kl_is_the_sum_and_needs_no_normalising(reference: np.ndarray, candidate: np.ndarray, shift: float) -> None:
    p, q = (log_softmax(side.astype(np.float64), axis=1) for side in (reference, candidate))
    expected = (np.exp(p) * (p - q)).sum(axis=1)
    found = kl_divergence(reference, candidate)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert (found >= 0).all()
    np.testing.assert_allclose(kl_divergence(reference.astype(np.float64) + shift, candidate), found, atol=1e-9)
    assert kl_divergence(reference, reference).tolist() == [0.0, 0.0, 0.0]


def test_kl_with_tokens_that_cannot_come() -> None:
    masked = np.array([[0.0, 0.0, -np.inf]])
    np.testing.assert_allclose(kl_divergence(masked, np.zeros((1, 3))), [np.log(1.5)])
    np.testing.assert_allclose(kl_divergence(masked, masked), [0.0])
    with pytest.raises(InputError, match="NaN or infinite"):
        kl_divergence(np.zeros((1, 3)), masked)
    with pytest.raises(InputError, match="NaN or infinite"):
        kl_divergence(np.array([[np.nan, 0.0]]), np.zeros((1, 2)))
    with pytest.raises(InputError, match="NaN or infinite"):
        logit_kl(np.array([np.nan]))
    with pytest.raises(ValueError, match="no prompt"):
        logit_kl(np.array([]))
    with pytest.raises(ValueError, match="log-probabilities"):
        kl_divergence(np.zeros((1, 3)), np.zeros((1, 2)))


def test_the_method_is_the_argument_else_the_environment_else_the_default() -> None:  # A2.10
    environment = {"RAYLENS_SCORE_METHOD": "logit_kl"}
    assert score_method("abs_diff_topk", environment).name == "abs_diff_topk"
    assert score_method(None, environment).name == "logit_kl"
    assert score_method(None, {}).name == DEFAULT_SCORE_METHOD
    assert score_method(None, {"RAYLENS_SCORE_METHOD": ""}).name == DEFAULT_SCORE_METHOD
    for name, environment in (("distance", {}), (None, {"RAYLENS_SCORE_METHOD": "distance"})):
        with pytest.raises(InputError, match="unknown score method 'distance'") as error:
            score_method(name, environment)
        assert all(known in error.value.hint for known in SCORE_METHODS)
        assert ("RAYLENS_SCORE_METHOD" in error.value.message) == (name is None)


def test_the_registry_is_frozen_and_complete() -> None:  # A2.10
    assert list(SCORE_METHODS) == [method.name for method in SCORE_METHODS.values()]
    assert {"weight_projection", "difference_sae", "trigger_search"} == {
        method.name for method in SCORE_METHODS.values() if method.computed_by == "engine"
    }
    assert SCORE_METHODS["abs_diff_topk_drift_corrected"].diagnostic
    assert not SCORE_METHODS[DEFAULT_SCORE_METHOD].diagnostic
    with pytest.raises(TypeError):
        SCORE_METHODS["mine"] = SCORE_METHODS["logit_kl"]  # type: ignore[index]
