"""Pieces on which a feature is silent: at random, where its neighbours fire, or where the text is alike.

All three draw without replacement, from candidates of one side of the split, and never a piece in which
the feature fires. How hard they are differs: scores on them are reported with the source's name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def random_negatives(
    candidates: NDArray[np.int64], active: NDArray[np.int64], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``n`` of ``candidates`` that are not ``active`` (rising piece numbers both), each as likely; or all of them."""
    taken = _places(candidates, active)
    n_silent = len(candidates) - len(taken)
    drawn = rng.choice(n_silent, size=min(n, n_silent), replace=False)
    # The j-th place that is not taken lies behind as many taken ones as have at most j free places before them.
    return candidates[drawn + np.searchsorted(taken - np.arange(len(taken)), drawn, side="right")]


def neighbour_negatives(
    candidates: NDArray[np.int64],
    active: NDArray[np.int64],
    neighbours: Sequence[NDArray[np.int64]],
    n: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """``n`` candidates in which a neighbour fires and the feature does not, shared out over the neighbours.

    Args:
        candidates: Rising piece numbers.
        active: Rising numbers of the pieces in which the feature fires.
        neighbours: Of each neighbour, the nearest first, the pieces in which it fires, rising.
        n: How many.
        rng: Chooses among a neighbour's pieces.
    """
    inside = [candidates[_places(candidates, pieces)] for pieces in neighbours]
    return deal([rng.permutation(pieces[~_among(active, pieces)]) for pieces in inside], n)


def nearest_negatives(nearest: Sequence[NDArray[np.int64]], active: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """``n`` pieces that read like activating ones and are silent, from the neighbourhoods of many of them.

    Args:
        nearest: Of each activating example, the candidates that resemble it, the most alike first.
        active: Rising numbers of the pieces in which the feature fires.
        n: How many.
    """
    return deal([pieces[~_among(active, pieces)] for pieces in nearest], n)


def deal(hands: Sequence[NDArray[np.int64]], n: int) -> NDArray[np.int64]:
    """At most ``n`` distinct numbers: the first of each hand, then the second of each, and so on."""
    if not hands:
        return np.zeros(0, np.int64)
    rank = np.concatenate([np.arange(len(hand)) for hand in hands])
    hand_of = np.repeat(np.arange(len(hands)), [len(hand) for hand in hands])
    order = np.lexsort((hand_of, rank))
    dealt = np.concatenate(hands).astype(np.int64)[order]
    _, first = np.unique(dealt, return_index=True)
    return dealt[np.sort(first)][:n]


def _among(rising: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ``values`` are in ``rising``: a search for each, where NumPy's own sets would sort or hash it all."""
    if not len(rising):
        return np.zeros(len(values), np.bool_)
    return rising[np.minimum(np.searchsorted(rising, values), len(rising) - 1)] == values


def _places(candidates: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places in ``candidates`` of those of ``values`` that it holds; both are rising."""
    place = np.searchsorted(candidates, values)
    inside = place < len(candidates)
    place, values = place[inside], values[inside]
    return place[candidates[place] == values]
