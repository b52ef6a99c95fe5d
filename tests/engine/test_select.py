"""The fast selections against the slow obvious ones, ties included."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.saes.topk_sae import TopK

from raylens.engine.select import above, largest


def nonzeros(dense: torch.Tensor, floor: float) -> tuple[np.ndarray, ...]:
    row, column = (dense > max(floor, 0.0)).nonzero(as_tuple=True)
    return row.numpy(), column.numpy(), dense[row, column].numpy()


shapes = st.tuples(st.integers(0, 9), st.integers(1, 70), st.integers(0, 2**31))
floors = st.sampled_from([0.0, 0.5, 2.0, 100.0])


def random_inputs(rows: int, columns: int, seed: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``levels`` > 0 draws from so few values that ties are everywhere."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        draw = torch.randint(-levels, levels + 1, (rows, columns), generator=generator).float()
        return draw, torch.zeros(columns)
    return torch.randn(rows, columns, generator=generator), torch.randn(columns, generator=generator)


@settings(deadline=None, max_examples=200)
@given(shapes, st.integers(1, 12), floors, st.sampled_from([0, 1, 3]), st.booleans())
def test_largest_equals_sae_lens_topk(
    shape: tuple[int, int, int], k: int, floor: float, levels: int, scaled: bool
) -> None:
    rows, columns, seed = shape
    k = min(k, columns)
    hidden, bias = random_inputs(rows, columns, seed, levels)
    scale = torch.rand(columns, generator=torch.Generator().manual_seed(seed)) + 0.5 if scaled else None
    before = hidden + bias if scale is None else (hidden + bias) * scale
    got = largest(hidden.clone(), bias, scale, k, floor)
    for mine, want in zip(got, nonzeros(TopK(k)(before), floor), strict=True):
        np.testing.assert_array_equal(mine, want)


@settings(deadline=None, max_examples=100)
@given(shapes, floors, st.sampled_from([0, 2]), st.booleans())
def test_above_equals_a_comparison(shape: tuple[int, int, int], floor: float, levels: int, thresholded: bool) -> None:
    rows, columns, seed = shape
    hidden, bias = random_inputs(rows, columns, seed, levels)
    threshold = torch.randn(columns, generator=torch.Generator().manual_seed(seed)) if thresholded else None
    dense = torch.relu(hidden + bias)
    if threshold is not None:
        dense = dense * (hidden + bias > threshold)
    got = above(hidden.clone(), bias, threshold, floor)
    for mine, want in zip(got, nonzeros(dense, floor), strict=True):
        np.testing.assert_array_equal(mine, want)


def test_many_tiles_and_rows_of_ties() -> None:
    hidden, bias = random_inputs(3000, 500, 7, levels=0)
    hidden[1000:1004] = 1.5  # every latent ties
    hidden[2000, ::3] = 9.0  # more than k tie at the top
    bias.zero_()
    want = nonzeros(TopK(16)(hidden), 0.0)
    for mine, expected in zip(largest(hidden.clone(), bias, None, 16, 0.0), want, strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert (np.bincount(want[0]) <= 16).all()
