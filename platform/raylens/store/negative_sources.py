"""Hard negatives out of a cache: pieces in which a relative of the feature fires and the feature does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.examples.negatives import neighbour_negatives
from raylens.ids import SaeId
from raylens.store.example_reader import Drawn, Negatives, at_random
from raylens.store.manifest import Kind
from raylens.store.reader import CacheReader

_NEIGHBOURS: Final = 10
_TABLES: Final[Mapping[str, tuple[Kind, str]]] = {
    "co-occurrence": ("cofiring", "other"),
    "decoder": ("neighbours", "neighbour"),
    "encoder": ("encoder_neighbours", "neighbour"),
}


class NeighbourNegatives:
    """Draws from the pieces of a feature's nearest relatives, shared out over them; the rest at random.

    A relative that is the same feature twice leaves nothing: where relatives give fewer than are wanted,
    random pieces fill up, which are counted.

    Args:
        relatives: Relatives of a feature, the nearest first.
        active_numbers: Numbers of the pieces in which a feature fires
            (:meth:`raylens.store.example_reader.ExampleReader.active_numbers`).
        kept: For how many features those numbers are remembered.
    """

    def __init__(
        self,
        relatives: Callable[[int], Sequence[int]],
        active_numbers: Callable[[int], NDArray[np.int64]],
        kept: int = 256,
    ) -> None:
        self._relatives = relatives
        self._numbers = lru_cache(maxsize=kept)(active_numbers)

    def __call__(self, drawn: Drawn) -> Negatives:
        hands = [self._numbers(one) for one in self._relatives(drawn.feature)[:_NEIGHBOURS]]
        found = neighbour_negatives(drawn.candidates, drawn.active, hands, drawn.n, drawn.rng)
        return fill_up(found, drawn)


def fill_up(found: NDArray[np.int64], drawn: Drawn) -> Negatives:
    """``found`` and as many random pieces as are still wanted."""
    if len(found) == drawn.n:
        return Negatives(found)
    others = np.setdiff1d(drawn.candidates, found)
    rest = at_random(replace(drawn, candidates=others, n=drawn.n - len(found))).numbers
    return Negatives(np.concatenate([found, rest]), len(rest))


def stored_relatives(reader: CacheReader, sae: SaeId, kind: str) -> Callable[[int], Sequence[int]]:
    """Relatives of each feature from the table that the merge made.

    ``kind`` is ``co-occurrence``, ``decoder`` or ``encoder``.

    Raises:
        InputError: The cache has no such table.
    """
    table, column = _TABLES[kind]
    if next(reader.manifest.of(table, sae), None) is None:
        raise InputError(
            f"cache {reader.cache_id} has no {table} of {sae}, which {kind} neighbours are taken from.",
            hint="run raylens merge again, which makes it, or choose another --neighbours_type.",
        )

    def relatives(feature: int) -> list[int]:
        rows = reader.rows_of(table, sae, [feature], ["rank", column])
        assert rows is not None
        return rows.sort_by("rank")[column].to_pylist()

    return relatives


def given_relatives(table: Mapping[int, Sequence[int]]) -> Callable[[int], Sequence[int]]:
    """Relatives computed elsewhere."""
    return lambda feature: table.get(feature, ())
