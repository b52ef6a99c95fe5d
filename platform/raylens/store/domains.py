"""How much more strongly a feature fires on one part of a cache's text than on the rest (A1.01)."""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.ids import SaeId
from raylens.score.metrics import Metric
from raylens.score.specialization import specialization
from raylens.store.reader import CacheReader


class Domain:
    """The documents of a cache whose domain or path matches a glob.

    Args:
        reader: The cache.
        glob: Such as ``email`` or ``http/*``; capital letters matter.

    Raises:
        InputError: It matches no document, or every one, so that there is nothing to compare.
    """

    def __init__(self, reader: CacheReader, glob: str) -> None:
        rows = reader.documents(["doc_id", "domain", "path"])
        ids = rows["doc_id"].to_numpy()
        pairs = zip(rows["domain"].to_pylist(), rows["path"].to_pylist(), strict=True)
        matches = [any(fnmatchcase(one or "", glob) for one in pair) for pair in pairs]
        if not any(matches) or all(matches):
            domains = sorted({domain for domain in rows["domain"].to_pylist() if domain})
            raise InputError(
                f"{glob!r} matches {'every' if any(matches) else 'no'} document of cache {reader.cache_id}.",
                hint=f"--domain takes a glob over domains ({', '.join(domains[:8])} …) or paths, such as 'http/*'.",
            )
        self._inside = np.zeros(int(ids.max(initial=-1)) + 1, np.bool_)
        self._inside[ids] = matches
        self._reader = reader
        self._n_prefix = len(reader.info["prefix_ids"])
        self._document, n_tokens = reader.window_sizes()
        self._tokens = self._by_document(np.maximum(n_tokens - self._n_prefix, 0)).astype(np.int64)

    def specialization(self, sae: SaeId, feature: int, *, seed: int = 0) -> Metric:
        """Mean activation a token inside minus outside, special tokens left out.

        See :func:`raylens.score.specialization.specialization` for the interval; ``n`` counts documents.
        """
        window, position, activation = self._reader.rows(sae, feature)
        on_text = position >= self._n_prefix
        per_window = np.bincount(window[on_text], activation[on_text], minlength=len(self._document))
        return specialization(self._by_document(per_window), self._tokens, self._inside, seed=seed)

    def _by_document(self, per_window: NDArray[np.number]) -> NDArray[np.float64]:
        return np.bincount(self._document, per_window, minlength=len(self._inside)).astype(np.float64)
