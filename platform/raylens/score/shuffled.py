"""The shuffled-explanation control: every feature is scored with the explanation of another.

What a scorer gives to another feature's explanation is what it gives for nothing; a figure means something by how far
it stands above that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from raylens.errors import InputError


def derangement(n: int, seed: int) -> NDArray[np.intp]:
    """A permutation of 0 … n − 1 without a fixed point, each such one equally likely: ``[n]``.

    Drawn until one has none, which takes e tries on average.

    Raises:
        InputError: ``n`` is 1, of which there is none.
    """
    if n == 1:
        raise InputError(
            "one feature alone has no other's explanation to be scored with.", hint="score two or more, or no control."
        )
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        if not (order == np.arange(n)).any():
            return order


def givers(explanations: Sequence[Hashable], seed: int) -> NDArray[np.intp]:
    """Whose explanation each feature is scored with: a :func:`derangement`, mended where the two read the same.

    Two features may share an explanation, and swapping those controls nothing. Such pairs are swapped away as long as
    a swap helps; where one explanation is most features', some are left, to be recognised by being equal.

    Args:
        explanations: ``[n]``, anything comparable.
        seed: Of the derangement.

    Raises:
        InputError: There is one feature.
    """
    order = [int(giver) for giver in derangement(len(explanations), seed)]
    rng = np.random.default_rng([seed, 1])

    def same(feature: int, giver: int) -> bool:
        return explanations[feature] == explanations[giver]

    for i in range(len(order)):
        if not same(i, order[i]):
            continue
        for j in (int(feature) for feature in rng.permutation(len(order))):
            # Unequal texts also rule out fixed points.
            if not same(i, order[j]) and not same(j, order[i]):
                order[i], order[j] = order[j], order[i]
                break
    return np.array(order, np.intp)
