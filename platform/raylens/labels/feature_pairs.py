"""Two features beside one another: how alike they write, and how often they fire on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.catalog import Catalog
from raylens.ids import FeatureId, SaeId
from raylens.labels.decoders import decoder_of
from raylens.labels.proxies import unit_rows
from raylens.store.reader import CacheReader

_POSITIONS: Final = 1 << 16
"""More than a position can be: it is stored in 16 bits."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Tokens of one cache on which two features fire, beginnings of texts left out.

    Attributes:
        n_first: Tokens on which the first does.
        n_second: Likewise the second.
        n_both: On which both do.
    """

    n_first: int
    n_second: int
    n_both: int

    @property
    def jaccard(self) -> float | None:
        """``n_both`` as a share of the tokens on which either fires; None where neither does."""
        either = self.n_first + self.n_second - self.n_both
        return self.n_both / either if either else None


def overlap(reader: CacheReader, first: FeatureId, second: FeatureId) -> Overlap:
    """Exact, from all rows of both: 14 bytes a row while they are compared.

    Raises:
        UnknownNameError: The cache does not hold their SAEs.
        InputError: An SAE has no such feature.
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    n_prefix = len(reader.info["prefix_ids"])
    some, others = (_tokens(reader, one.sae, one.index, n_prefix) for one in (first, second))
    return Overlap(len(some), len(others), len(np.intersect1d(some, others, assume_unique=True)))


def decoder_cosine(first: FeatureId, second: FeatureId, catalog: Catalog) -> float | None:
    """Cosine of decoder rows; None where weights are not at hand, of different widths, or a row has no direction.

    Raises:
        DamagedFileError: Weights are there, and cannot be what they should be.
    """
    rows: list[NDArray[np.float32]] = []
    for one in (first, second):
        decoder = decoder_of(one.sae, catalog)
        if decoder is None:
            return None
        rows.append(unit_rows(decoder, np.array([one.index], np.int64))[0])
    if rows[0].shape != rows[1].shape:
        return None
    cosine = float(rows[0] @ rows[1])
    return min(max(cosine, -1.0), 1.0) if np.isfinite(cosine) else None


def _tokens(reader: CacheReader, sae: SaeId, index: int, n_prefix: int) -> NDArray[np.int64]:
    """A number for each token of text on which a feature fires."""
    window, position, _ = reader.rows(sae, index)
    kept = position >= n_prefix
    return window[kept].astype(np.int64) * _POSITIONS + position[kept]
