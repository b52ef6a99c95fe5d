"""One value a feature from the SAE codes of a prompt: a reduction over positions (A2.09).

==========  =====================================================  ==========================================
pooling     reduces                                                over
==========  =====================================================  ==========================================
``mean``    to the mean, silent positions counting as 0            all positions
``max``     to the largest activation                              all positions
``last``    nothing: one position                                  the last position
``answer``  to the mean                                            what the model wrote
``prompt``  to the mean                                            what comes before that
==========  =====================================================  ==========================================

The first position of a text is an attention sink: what a fine-tune does there is its own thing, and large enough to
hide the rest. So position 0 is left out of every range that holds any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from raylens.errors import InputError

Pooling = Literal["mean", "max", "last", "answer", "prompt"]
POOLINGS: Final[tuple[Pooling, ...]] = get_args(Pooling)
DEFAULT_POOLING: Final[Pooling] = "mean"

STRATA: Final = ("first third", "second third", "last third")
"""Names of what :func:`pool_strata` gives, in its order."""

Span = tuple[int, int]
"""First position, and one past the last."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptCodes:
    """Activations of one prompt that are not 0; each (position, feature) at most once.

    Attributes:
        position: int ``[n]``, from 0.
        feature: int ``[n]``.
        activation: float32 ``[n]``, in units of the SAE's activations.
        n_positions: Tokens of the text, silent ones and the answer included.
        answer: Positions that the model wrote; None where it was not asked to write, and empty where it wrote nothing.

    Raises:
        ValueError: The arrays differ in length, or a position or the answer lies outside the text.
        InputError: An activation is NaN or infinite.
    """

    position: NDArray[np.integer]
    feature: NDArray[np.integer]
    activation: NDArray[np.floating]
    n_positions: int
    answer: Span | None = None

    def __post_init__(self) -> None:
        """Refuse what no encoder gives."""
        if not self.position.shape == self.feature.shape == self.activation.shape:
            raise ValueError("positions, features and activations differ in length")
        if len(self.position) and not 0 <= self.position.min() <= self.position.max() < self.n_positions:
            raise ValueError(f"a position lies outside the {self.n_positions} of the text")
        if self.answer is not None and not 0 <= self.answer[0] <= self.answer[1] <= self.n_positions:
            raise ValueError(f"the answer at {self.answer} lies outside the {self.n_positions} positions of the text")
        if not np.isfinite(self.activation).all():
            raise InputError(
                "features of a prompt are NaN or infinite.",
                hint="the model's activations overflow or its weights are damaged: try --dtype float32, else retrain.",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """Prompts by features.

    Attributes:
        values: float32 ``[prompts, d_sae]``, only what is not 0: a prompt fires a few hundred of 131 072 latents.
        positions: int64 ``[prompts]``: how many positions each row was reduced from. Where it is 0 (an empty answer)
            the row is all 0 for want of anything to reduce, so leave that prompt out of a comparison.
    """

    values: csr_array
    positions: NDArray[np.int64]


def pool(prompts: Iterable[PromptCodes], d_sae: int, pooling: Pooling = DEFAULT_POOLING) -> Pooled:
    """A row a prompt.

    Args:
        prompts: Read once, and held one at a time.
        d_sae: Latents of the SAE.
        pooling: As in the table above.

    Raises:
        InputError: ``answer`` where a prompt was not answered at all.
        ValueError: A feature is not of the SAE.
    """
    largest = pooling == "max"
    return _stacked(((codes, _range(codes, pooling)) for codes in prompts), d_sae, largest=largest)


def pool_strata(prompts: Iterable[PromptCodes], d_sae: int) -> tuple[Pooled, Pooled, Pooled]:
    """Means over the first, second and last third of positions, which show where in a text an effect sits.

    Of fewer than three positions the later thirds are empty.

    Raises:
        ValueError: A feature is not of the SAE.
    """
    held = [(codes, _thirds(codes)) for codes in prompts]
    first, second, last = (
        _stacked(((codes, thirds[place]) for codes, thirds in held), d_sae, largest=False) for place in range(3)
    )
    return first, second, last


def _range(codes: PromptCodes, pooling: Pooling) -> Span:
    n = codes.n_positions
    if pooling == "last":
        return max(0, n - 1), n
    if pooling == "answer":
        if codes.answer is None:
            raise InputError(
                "pooling 'answer' needs what the model wrote, and these prompts were only read.",
                hint="choose another pooling, or let the audit generate answers.",
            )
        return _without_first(codes.answer)
    if pooling == "prompt" and codes.answer is not None:
        return _without_first((0, codes.answer[0]))
    return _without_first((0, n))


def _without_first(span: Span) -> Span:
    low, high = span
    return (1, high) if low == 0 and high > 1 else span


def _thirds(codes: PromptCodes) -> tuple[Span, Span, Span]:
    low, high = _without_first((0, codes.n_positions))
    # Position j of m lies in third ⌊3j / m⌋, so third t begins at ⌈t·m / 3⌉.
    one, two = (low + (t * (high - low) + 2) // 3 for t in (1, 2))
    return (low, one), (one, two), (two, high)


def _stacked(rows: Iterable[tuple[PromptCodes, Span]], d_sae: int, *, largest: bool) -> Pooled:
    features: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float32]] = []
    positions: list[int] = []
    for codes, span in rows:
        feature, value = _row(codes, span, largest=largest)
        if len(feature) and not 0 <= feature[0] <= feature[-1] < d_sae:
            raise ValueError(f"features {feature[0]} to {feature[-1]} of an SAE with {d_sae}")
        features.append(feature)
        values.append(value.astype(np.float32))
        positions.append(span[1] - span[0])
    starts = np.concatenate([[0], np.cumsum([len(feature) for feature in features], dtype=np.int64)])
    columns = np.concatenate([np.empty(0, np.int64), *features])
    data = np.concatenate([np.empty(0, np.float32), *values])
    matrix = csr_array((data, columns, starts), shape=(len(positions), d_sae))
    matrix.eliminate_zeros()
    return Pooled(matrix, np.array(positions, np.int64))


def _row(codes: PromptCodes, span: Span, *, largest: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Features in ascending order, and the value of each over ``span``."""
    low, high = span
    kept = (codes.position >= low) & (codes.position < high)
    feature, at, times = np.unique(codes.feature[kept], return_inverse=True, return_counts=True)
    activation = codes.activation[kept].astype(np.float64)
    if not largest:
        sums = np.bincount(at, activation, minlength=len(feature))
        return feature.astype(np.int64), sums / max(1, high - low)
    values = np.full(len(feature), -np.inf)
    np.maximum.at(values, at, activation)
    # Where a feature is silent anywhere, 0 is among what the maximum is of.
    return feature.astype(np.int64), np.where(times < high - low, np.maximum(values, 0.0), values)
