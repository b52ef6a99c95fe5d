"""Pooling over positions, against loops over dense arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.audit.pooling import POOLINGS, Pooling, PromptCodes, pool, pool_strata
from raylens.errors import InputError

D_SAE = 6


def codes(dense: np.ndarray, answer: tuple[int, int] | None = None) -> PromptCodes:
    position, feature = np.nonzero(dense)
    return PromptCodes(position, feature, dense[position, feature].astype(np.float32), len(dense), answer)


def row(dense: list[list[float]] | np.ndarray, pooling: Pooling = "mean", answer: tuple[int, int] | None = None):
    return pool([codes(np.asarray(dense, np.float32), answer)], np.shape(dense)[1], pooling).values.toarray()[0]


def naive(dense: np.ndarray, pooling: Pooling, answer: tuple[int, int]) -> np.ndarray:
    """What the table says, position by position."""
    n = len(dense)
    positions = {
        "mean": range(n),
        "max": range(n),
        "last": range(n - 1, n),
        "answer": range(*answer),
        "prompt": range(answer[0]),
    }[pooling]
    kept = [p for p in positions if p > 0 or len(positions) == 1]
    found = np.zeros(dense.shape[1])
    for feature in range(dense.shape[1]):
        values = [float(dense[p, feature]) for p in kept]
        if values:
            found[feature] = max(values) if pooling == "max" else math.fsum(values) / len(values)
    return found


@st.composite
def texts(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int]]:
    n = draw(st.integers(1, 9))
    # Negative ones too: transcoders have them, and a maximum must then weigh them against silence.
    value = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.25, 3.0, -0.75])
    dense = np.array(draw(st.lists(st.lists(value, min_size=D_SAE, max_size=D_SAE), min_size=n, max_size=n)))
    low = draw(st.integers(0, n))
    return dense, (low, draw(st.integers(low, n)))


@given(st.lists(texts(), max_size=4), st.sampled_from(POOLINGS))
def test_pooling_is_the_loop(prompts: list[tuple[np.ndarray, tuple[int, int]]], pooling: Pooling) -> None:  # A2.09
    found = pool([codes(dense, answer) for dense, answer in prompts], D_SAE, pooling)
    assert found.values.shape == (len(prompts), D_SAE)
    assert found.values.dtype == np.float32
    assert (found.values.data != 0).all()
    for got, n, (dense, answer) in zip(found.values.toarray(), found.positions, prompts, strict=True):
        np.testing.assert_allclose(got, naive(dense, pooling, answer), rtol=1e-6)
        if pooling == "mean":
            assert n == max(1, len(dense) - 1)
        if pooling == "answer":
            assert (n == 0) == (answer[0] == answer[1])


def test_the_first_position_is_skipped_where_there_are_more() -> None:  # A2.09
    sink = [[100.0, 0.0], [1.0, 0.0], [0.0, 4.0]]
    assert row(sink).tolist() == [0.5, 2.0]
    assert row(sink, "max").tolist() == [1.0, 4.0]
    assert row(sink, "last").tolist() == [0.0, 4.0]
    assert row(sink, "prompt", (2, 3)).tolist() == [1.0, 0.0]
    assert row(sink, "answer", (2, 3)).tolist() == [0.0, 4.0]
    assert row(sink, "answer", (0, 3)).tolist() == [0.5, 2.0], "an answer to nothing begins with the sink as well"
    assert row([[100.0, 7.0]]).tolist() == [100.0, 7.0]
    assert row(sink, "prompt").tolist() == row(sink).tolist(), "all of a text that was only read is prompt"


def test_thirds_share_the_positions_out() -> None:
    dense = np.zeros((8, 1), np.float32)
    dense[1:, 0] = [1, 2, 3, 4, 5, 6, 7]
    thirds = pool_strata([codes(dense)], 1)
    # Seven positions after the first: 3, 2 and 2.
    assert [third.positions.tolist() for third in thirds] == [[3], [2], [2]]
    assert [float(third.values.toarray()[0, 0]) for third in thirds] == [2.0, 4.5, 6.5]


@given(texts())
def test_thirds_put_together_are_the_mean(text: tuple[np.ndarray, tuple[int, int]]) -> None:
    dense, _ = text
    whole, thirds = pool([codes(dense)], D_SAE), pool_strata([codes(dense)], D_SAE)
    assert sum(int(third.positions[0]) for third in thirds) == whole.positions[0]
    sizes = [int(third.positions[0]) for third in thirds]
    assert max(sizes) - min(sizes) <= 1
    total = sum(third.values.toarray() * third.positions[0] for third in thirds)
    np.testing.assert_allclose(total / whole.positions[0], whole.values.toarray(), rtol=1e-5, atol=1e-7)


def test_an_empty_answer_is_told_from_a_silent_one() -> None:
    dense = np.ones((3, 2), np.float32)
    found = pool([codes(dense, (3, 3)), codes(np.zeros((3, 2)), (1, 3))], 2, "answer")
    assert found.positions.tolist() == [0, 2]
    assert found.values.nnz == 0


def test_answers_that_were_never_asked_for_are_refused() -> None:
    with pytest.raises(InputError, match="needs what the model wrote"):
        row([[1.0]], "answer")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        row([[0.0], [bad]])


def test_what_no_encoder_gives_is_refused() -> None:
    one, value = np.array([1]), np.array([1.0], np.float32)
    with pytest.raises(ValueError, match="length"):
        PromptCodes(np.array([0, 1]), one, value, 2)
    with pytest.raises(ValueError, match="outside"):
        PromptCodes(one, one, value, 1)
    with pytest.raises(ValueError, match="answer"):
        PromptCodes(one, one, value, 2, (1, 3))
    with pytest.raises(ValueError, match="SAE with 1"):
        pool([PromptCodes(one, one, value, 2)], 1)


def test_many_latents_stay_sparse() -> None:
    rng = np.random.default_rng(0)
    n, latents = 64 * 50, 131_072
    prompts = [
        PromptCodes(
            np.repeat(np.arange(50), 64),
            np.concatenate([rng.choice(latents, 64, replace=False) for _ in range(50)]),
            rng.random(n).astype(np.float32),
            50,
        )
        for _ in range(20)
    ]
    found = pool(prompts, latents).values
    assert found.nnz <= 20 * 49 * 64
    assert found.has_canonical_format
