"""Hard negatives that read like activating examples and are silent: found by their sentence embedding.

The split between explainers and scorers, and which pieces a feature fires in, are known only when a feature is
drawn. So one index holds all pieces, and each search is told by a bitmap which may be found: nothing has to be
fetched in excess and thrown away, however dense the feature.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.errors import RunError
from raylens.examples.negatives import nearest_negatives
from raylens.examples.universe import Universe
from raylens.store.example_reader import Drawn, Negatives
from raylens.store.negative_sources import fill_up
from raylens.store.piece_index import PieceIndex

_MOST_QUERIES: Final = 128


class FaissNegatives:
    """Draws what the index finds nearest to many activating examples, shared out over them.

    Each example gives its nearest silent piece, then each its second, and so on, so that none dominates. An
    example that is shorter than a piece has no vector; where none has, other pieces in which the feature fires
    stand in for it. Where even they are missing, random pieces fill up, which are counted.

    Args:
        index: Of the full pieces of the cache.
        universe: The numbers of its pieces.

    Raises:
        RunError: The two are not about the same windows.
    """

    def __init__(self, index: PieceIndex, universe: Universe) -> None:
        self._index = index
        self._numbers = np.flatnonzero(universe.full)
        if len(self._numbers) != index.pieces:
            raise RunError(
                f"the index holds {index.pieces} pieces, and the cache {len(self._numbers)}.",
                hint="run the same command again: the cache was merged anew meanwhile.",
            )
        self._masks: list[tuple[NDArray[np.int64], NDArray[np.bool_]]] = []

    def __call__(self, drawn: Drawn) -> Negatives:
        allowed = self._mask(drawn.candidates).copy()
        allowed[self._rows(drawn.active)] = False
        queries = self._queries(drawn)
        found = np.zeros(0, np.int64)
        for reach in self._index.reaches if len(queries) else ():
            # n for each are always enough: if one example alone were to give all, it could.
            hands = self._index.nearest(queries, allowed, drawn.n, reach)
            found = nearest_negatives([self._numbers[hand] for hand in hands], drawn.active, drawn.n)
            if len(found) == drawn.n:
                break
        return fill_up(found, drawn)

    def _queries(self, drawn: Drawn) -> NDArray[np.float32]:
        """Vectors of activating examples, strongest first."""
        vectors = self._index.vectors(self._rows(drawn.shown)[:_MOST_QUERIES])
        vectors = vectors[vectors.any(axis=1)]
        if len(vectors):
            return vectors
        own = np.flatnonzero(self._mask(drawn.candidates))
        own = np.intersect1d(own, self._rows(drawn.active), assume_unique=True)
        vectors = self._index.vectors(drawn.rng.permutation(own)[:_MOST_QUERIES])
        return vectors[vectors.any(axis=1)]

    def _rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in the index of those of ``numbers`` that are full pieces, in their order."""
        place = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return place[self._numbers[place] == numbers]

    def _mask(self, candidates: NDArray[np.int64]) -> NDArray[np.bool_]:
        """``[pieces of the index]``, which are candidates; kept for the two sides of the split."""
        for known, mask in self._masks:
            if known is candidates:
                return mask
        mask = np.zeros(len(self._numbers), np.bool_)
        mask[self._rows(candidates)] = True
        self._masks = [*self._masks[-1:], (candidates, mask)]
        return mask
