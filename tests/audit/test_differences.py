"""Paired differences and the largest of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array

from raylens.audit.differences import NOISE, differences, group_means, mean_rows, sparse, top_k
from raylens.errors import InputError

VALUES = st.sampled_from([0.0, 0.0, 1.0, -1.0, 2.0, -2.5, 3.0])


def test_differences_are_candidate_minus_reference() -> None:  # A2.09
    reference, candidate = np.array([[1.0, 0.0, 2.0]]), np.array([[1.0, 3.0, 0.0]])
    found = differences(csr_array(reference), candidate)
    assert found.toarray().tolist() == [[0.0, 3.0, -2.0]]
    assert found.nnz == 2, "what is equal is not stored"
    assert differences(candidate, candidate).nnz == 0


def test_what_rounding_leaves_is_no_difference() -> None:
    """As a share of the feature's largest value, in whatever unit: a small feature is not noise for being small."""
    reference = np.array([[1.0, 1e-6, 0.0], [4.0, 0.0, 0.0]])
    candidate = reference + np.array([[3e-7, 1e-6, 3e-7], [2e-5, 0.0, 0.0]])
    found = differences(reference, candidate, noise=NOISE).toarray()
    assert (found != 0).tolist() == [[False, True, True], [False, False, False]]
    assert differences(reference, candidate).nnz == 4
    scaled = differences(1e4 * reference, 1e4 * candidate, noise=NOISE).toarray()
    assert ((scaled != 0) == (found != 0)).all()


def test_a_matrix_of_anothers_is_left_as_it_was() -> None:
    given_ = csr_array(np.array([[1.0, 0.0, 2.0]], np.float32))
    given_.data[0] = 0.0
    assert sparse(given_).nnz == 1
    assert given_.nnz == 2
    assert given_.dtype == np.float32


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="but"):
        differences(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="no prompt"):
        differences(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="two dimensions"):
        sparse(np.zeros(3))
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="NaN or infinite"):
            differences(np.zeros((1, 1)), np.array([[bad]]))


@given(hnp.arrays(np.float64, st.integers(1, 12), elements=VALUES), st.integers(1, 13))
def test_top_k_is_a_sort(values: np.ndarray, k: int) -> None:  # A2.09
    ranked = sorted((i for i in range(len(values)) if values[i] != 0), key=lambda i: (-abs(values[i]), i))
    assert top_k(values, k).tolist() == ranked[:k]
    assert top_k(-values, k).tolist() == ranked[:k]


def test_the_largest_none_are_refused() -> None:
    with pytest.raises(ValueError, match="largest 0"):
        top_k(np.ones(2), 0)


@given(hnp.arrays(np.float64, (6, 3), elements=VALUES), hnp.arrays(np.int64, 6, elements=st.integers(0, 3)))
def test_group_means_are_loops(values: np.ndarray, groups: np.ndarray) -> None:
    names, means = group_means(csr_array(values), groups)
    assert names.tolist() == sorted(set(groups.tolist()))
    np.testing.assert_allclose(
        means.toarray(),
        [np.mean([v for v, g in zip(values, groups, strict=True) if g == name], 0) for name in names],
        atol=1e-12,
    )
    np.testing.assert_allclose(mean_rows(csr_array(values)), values.mean(axis=0), atol=1e-12)


def test_what_cancels_out_is_nothing() -> None:
    """0.1 + 0.2 − 0.3 is 5.6e−17 to floating point, and would be a feature that moved."""
    values = csr_array(np.array([[0.1, 1.0], [0.2, 0.0], [-0.3, 0.0]]))
    _, means = group_means(values, np.zeros(3))
    assert means.nnz == 1
    assert mean_rows(values)[0] == 0.0


def test_groups_come_one_a_row() -> None:
    with pytest.raises(ValueError, match="groups"):
        group_means(csr_array(np.ones((2, 1))), np.zeros(3))
