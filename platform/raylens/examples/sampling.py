"""Which pieces are shown: by bands of strength, the strongest, at random, or a mix.

Every choice is a function of the feature and the seed, so that a rerun shows the same, and no two
features share an order.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Sampling = Literal["quantiles", "top", "random", "mix"]
SAMPLINGS: Final[tuple[Sampling, ...]] = ("quantiles", "top", "random", "mix")

_TOP_SHARE: Final = 0.2
"""Share of ``mix`` that is taken from the top; the rest is by quantiles, as in delphi."""


def feature_rng(seed: int, sae: str, feature: int, purpose: str) -> np.random.Generator:
    """The generator of one choice about one feature: independent between features, SAEs and purposes."""
    words = [*sae.encode(), 0, *purpose.encode()]
    return np.random.default_rng([seed & 0xFFFFFFFF, feature, *words])


def bands(peak: NDArray[np.floating], n_bands: int) -> NDArray[np.int64]:
    """``[p]``: which of ``n_bands`` equal-count bands of strength each value is in, 0 the weakest.

    Sizes differ by one at most; of equal values the earlier ones count as weaker.
    """
    order = _rising(peak)
    band = np.empty(len(peak), np.int64)
    band[order] = np.arange(len(peak)) * n_bands // max(1, len(peak))
    return band


def _rising(peak: NDArray[np.floating]) -> NDArray[np.int64]:
    """As ``np.argsort(peak, kind="stable")``, three times as fast: with its place, each value is unique."""
    # The bits of positive floats rise as they do.
    bits = np.ascontiguousarray(peak, np.float32).view(np.uint32).astype(np.int64)
    return np.argsort((bits << 32) + np.arange(len(peak)))


def choose(
    peak: NDArray[np.floating], n: int, how: Sampling, rng: np.random.Generator, n_bands: int = 10
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pick at most ``n`` of the values, none twice, strongest first.

    Args:
        peak: ``[p]``, how strongly the feature fires in each.
        n: How many; fewer where there are fewer.
        how: ``quantiles`` spreads them evenly over ``n_bands`` equal-count bands; ``top`` takes the
            strongest; ``random`` takes any; ``mix`` takes a fifth from the top and the rest by quantiles.
        rng: From :func:`feature_rng`.
        n_bands: Bands of ``quantiles``.

    Returns:
        Indices ``[m]``, and of each the band it is in, whatever way it was chosen.
    """
    band = bands(peak, n_bands)
    n = min(n, len(peak))
    if how == "top":
        chosen = np.argsort(-peak, kind="stable")[:n]
    elif how == "random":
        chosen = rng.permutation(len(peak))[:n]
    else:
        n_top = round(n * _TOP_SHARE) if how == "mix" else 0
        chosen = np.argsort(-peak, kind="stable")[:n_top] if n_top else np.zeros(0, np.int64)
        rest = np.setdiff1d(np.arange(len(peak)), chosen, assume_unique=True)
        chosen = np.concatenate([chosen, rest[_spread(band[rest], n - n_top, rng)]])
    chosen = chosen[np.argsort(-peak[chosen], kind="stable")]
    return chosen.astype(np.int64), band[chosen]


def _spread(band: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``n`` indices, as evenly over the bands as their sizes allow."""
    shuffled = rng.permutation(len(band))
    # How many of its band come before each, in shuffled order; taking the smallest ranks deals them out in turn.
    by_band = shuffled[np.argsort(band[shuffled], kind="stable")]
    _, first, size = np.unique(band[by_band], return_index=True, return_counts=True)
    rank = np.arange(len(band)) - np.repeat(first, size)
    # Whose turn is first differs, so that a remainder does not always fall to the weakest bands.
    turn = rng.permutation(len(first))
    return by_band[np.lexsort((np.repeat(turn, size), rank))[:n]]


def is_test_document(doc_id: NDArray[np.integer], seed: int, share: float = 0.5) -> NDArray[np.bool_]:
    """Which documents belong to scorers; explainers see the others.

    A hash of (seed, document) decides (SplitMix64, Steele et al. 2014), so that the split is the same for
    every feature and for a cache that grew.
    """
    with np.errstate(over="ignore"):
        x = doc_id.astype(np.uint64) + np.uint64(seed & 0xFFFFFFFF) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x < np.uint64(min(int(share * 2**64), 2**64 - 1))
