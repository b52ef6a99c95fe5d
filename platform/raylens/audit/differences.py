"""What a candidate does more or less than its reference: differences paired by prompt, and the largest of them."""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from raylens.errors import InputError

Matrix = NDArray[Any] | csr_array
"""Prompts by features, dense or sparse."""

NOISE: Final = 1e-5
"""What float32 leaves of one text read twice, in batches of other lengths, as a share of an activation: no effect."""
_ROUNDING: Final = 1e-12
"""A sum this small, as a share of what it is a sum of, is 0."""


def size(values: csr_array | csc_array) -> tuple[int, int]:
    """Rows and columns."""
    return cast(tuple[int, int], values.shape)


def sparse(values: Matrix) -> csr_array:
    """``values`` as float64 ``[prompts, d_sae]`` without stored zeros.

    Raises:
        InputError: A value is NaN or infinite.
        ValueError: It is no matrix.
    """
    if isinstance(values, np.ndarray) and values.ndim != 2:
        raise ValueError(f"prompts by features have two dimensions, not {values.ndim}")
    # copy: eliminate_zeros works in place, and the matrix may be another's.
    found = csr_array(cast(Any, values), dtype=np.float64, copy=True)
    found.sum_duplicates()
    found.eliminate_zeros()
    if not np.isfinite(found.data).all():
        raise InputError(
            "features of a model are NaN or infinite.",
            hint="its activations overflow or its weights are damaged: try --dtype float32, else retrain.",
        )
    return found


def differences(reference: Matrix, candidate: Matrix, *, noise: float = 0.0) -> csr_array:
    """``candidate − reference`` (A2.09): float64 ``[prompts, d_sae]`` without stored zeros.

    Args:
        reference: Pooled features ``[prompts, d_sae]``.
        candidate: Likewise, of the same prompts in the same order.
        noise: Differences up to this share of a feature's largest value are 0 (:data:`NOISE`).

    Raises:
        InputError: A value is NaN or infinite.
        ValueError: The two differ in shape, or hold no prompt.
    """
    before, after = sparse(reference), sparse(candidate)
    if before.shape != after.shape:
        raise ValueError(f"{before.shape} features of the reference, but {after.shape} of the candidate")
    if size(before)[0] == 0:
        raise ValueError("there is no prompt to compare on")
    found = csr_array(after - before)
    if noise:
        largest = np.maximum(*(np.asarray(abs(side).max(axis=0).todense()).reshape(-1) for side in (before, after)))
        found.data[np.abs(found.data) <= noise * largest[found.indices]] = 0.0
    found.eliminate_zeros()
    return found


def mean_rows(values: csr_array) -> NDArray[np.float64]:
    """Mean over rows: float64 ``[d_sae]``; exactly 0 where values cancel out but for rounding."""
    sums, sizes = (np.asarray(each.sum(axis=0), np.float64).reshape(-1) for each in (values, abs(values)))
    return np.where(np.abs(sums) > _ROUNDING * sizes, sums, 0.0) / size(values)[0]


def group_means(values: csr_array, groups: NDArray[Any]) -> tuple[NDArray[Any], csr_array]:
    """Mean over the rows of each group; exactly 0 where values cancel out but for rounding.

    What rounding leaves would else be a difference like any other to whatever divides by a standard deviation.

    Args:
        values: ``[rows, d_sae]``.
        groups: What each row belongs to, ``[rows]``.

    Returns:
        The groups in ascending order, ``[groups]``, and float64 ``[groups, d_sae]``.

    Raises:
        ValueError: There are not as many groups as rows.
    """
    names, at, times = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    n, _ = size(values)
    if len(at) != n:
        raise ValueError(f"{n} rows, but {len(at)} groups")
    adding = csr_array((np.ones(n), (at, np.arange(n))), shape=(len(names), n))
    sums, sizes = csr_array(adding @ values), csr_array(adding @ abs(values))
    means = csr_array(sums.multiply(abs(sums) > _ROUNDING * sizes).multiply(1.0 / times[:, None]))
    means.eliminate_zeros()
    return names, means


def top_k(values: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Where the ``k`` values largest in magnitude are, largest first; ties go to the smaller index.

    Zeros are never among them, so there may be fewer than ``k``.

    Args:
        values: ``[n]``, finite.
        k: At least 1.
    """
    if k < 1:
        raise ValueError(f"the largest {k} values are none")
    magnitude = np.abs(values)
    (moved,) = np.nonzero(magnitude)
    if len(moved) > k:
        # Everything at or above the k-th magnitude, so that ties are decided by index and not by the selection.
        least = np.partition(magnitude[moved], len(moved) - k)[len(moved) - k]
        moved = moved[magnitude[moved] >= least]
    return moved[np.argsort(-magnitude[moved], kind="stable")][:k]
