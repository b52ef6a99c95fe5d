"""Features without an explanation, by their nearest explained neighbours in decoder space (A2.14).

A proxy is a pointer, not a label: it says what a feature that writes in a similar direction is about. Its cosine
always stands beside it, and below :data:`LOW_SIMILARITY` it is called low.

The decoder is read in chunks, so that memory stays at a few megabytes whatever its width: one chunk as float32, its
similarities to the features asked about, and the few best so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raylens.errors import InputError

LOW_SIMILARITY: Final = 0.3
"""Cosine below which a neighbour says little."""

LOW_MARK: Final = "(low similarity)"

Decoder = NDArray[np.floating[Any]] | Callable[[], Iterable[NDArray[np.floating[Any]]]]
"""``[d_sae, d_in]``, a memory map say, or what gives its rows from the first on in chunks ``[n, d_in]`` each time."""

_CHUNK_BYTES: Final = 16 * 2**20
_AT_A_TIME: Final = 512


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A feature of the same SAE.

    Attributes:
        feature: Its index.
        cosine: Of its decoder row and the other's, from -1 to 1.
    """

    feature: int
    cosine: float

    @property
    def is_low(self) -> bool:
        """Whether it is too far away to say much."""
        return self.cosine < LOW_SIMILARITY


def nearest_explained(
    decoder: Decoder, features: Iterable[int], explained: Iterable[int], *, k: int = 3
) -> dict[int, tuple[Neighbour, ...]]:
    """The ``k`` explained features whose decoder rows are nearest by cosine, for each feature; the nearest first.

    A feature is no neighbour of itself. Rows that are zero or not finite have no direction and no neighbours. Equal
    cosines come in order of index.

    Args:
        decoder: float16 or float32.
        features: Which need neighbours.
        explained: Which may be some.
        k: How many at most.

    Raises:
        InputError: An index of ``features`` is beyond the decoder, or ``k`` is not positive.
    """
    if k < 1:
        raise InputError(f"{k} neighbours cannot be listed.", hint="ask for one at least.")
    wanted = np.unique(np.fromiter(features, np.int64))
    allowed = np.unique(np.fromiter(explained, np.int64))
    found: dict[int, tuple[Neighbour, ...]] = {}
    for first in range(0, len(wanted), _AT_A_TIME):
        part = wanted[first : first + _AT_A_TIME]
        cosines, neighbours = _best(decoder, part, unit_rows(decoder, part), allowed, k)
        for row, feature in enumerate(part.tolist()):
            kept = np.isfinite(cosines[row])
            pairs = zip(neighbours[row][kept].tolist(), cosines[row][kept].tolist(), strict=True)
            found[feature] = tuple(Neighbour(index, cosine) for index, cosine in pairs)
    return found


def unit_rows(decoder: Decoder, features: NDArray[np.int64]) -> NDArray[np.float32]:
    """``[n, d_in]`` unit rows of some features, which rise; NaN where a row has no direction."""
    parts: list[NDArray[np.float32]] = []
    n_rows = 0
    for first, chunk in _chunks(decoder):
        here = features[(features >= first) & (features < first + len(chunk))] - first
        if len(here):
            parts.append(_unit(chunk[here]))
        n_rows = first + len(chunk)
    if len(features) and (features[-1] >= n_rows or features[0] < 0):
        raise InputError(
            f"there is no feature {features[-1] if features[-1] >= n_rows else features[0]} in this decoder.",
            hint=f"it has features 0 to {n_rows - 1}.",
        )
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _best(
    decoder: Decoder, features: NDArray[np.int64], directions: NDArray[np.float32], allowed: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cosines and indices of the best ``k``, ``[n, k]`` each, falling; -inf where there are fewer."""
    cosines = np.full((len(features), k), -np.inf)
    neighbours = np.full((len(features), k), -1, np.int64)
    for first, chunk in _chunks(decoder):
        here = allowed[(allowed >= first) & (allowed < first + len(chunk))]
        if not len(here):
            continue
        with np.errstate(invalid="ignore"):
            similar = (directions @ _unit(chunk[here - first]).T).astype(np.float64)
        similar[features[:, None] == here[None, :]] = -np.inf
        similar[~np.isfinite(similar)] = -np.inf
        # The best of before come first, and have the lower indices: a stable sort keeps equal ones in order of index.
        both = np.concatenate([cosines, np.clip(similar, -np.inf, 1.0)], axis=1)
        names = np.concatenate([neighbours, np.broadcast_to(here, similar.shape)], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        cosines, neighbours = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)
    return cosines, neighbours


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Rows of length 1 as float32, NaN where a row is zero or not finite."""
    wide = rows.astype(np.float32)
    # By its largest value first, so that no square is too large or too small for float32.
    scale = np.max(np.abs(wide), axis=1, keepdims=True, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        wide /= scale
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def _chunks(decoder: Decoder) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
    """Rows of the decoder with the number of their first, a few megabytes at a time."""
    given: Sequence[NDArray[np.floating[Any]]] | Iterable[NDArray[np.floating[Any]]]
    given = [decoder] if isinstance(decoder, np.ndarray) else decoder()
    first = 0
    for chunk in given:
        step = max(1, _CHUNK_BYTES // max(1, 4 * chunk.shape[1]))
        for start in range(0, len(chunk), step):
            yield first + start, chunk[start : start + step]
        first += len(chunk)
