"""All pieces of a cache, numbered: what negatives are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylens.examples.pieces import Pieces, n_pieces
from raylens.examples.sampling import is_test_document


@dataclass(frozen=True, eq=False)
class Universe:
    """Pieces of all windows, numbered in order of (window, piece).

    Attributes:
        length: Tokens in a piece.
        first: ``[windows + 1]`` int64, number of each window's first piece; the last is how many there are.
        doc_id: ``[windows]`` int32.
        n_text_tokens: ``[windows]`` int32, tokens of each window without its prefix.
        is_test: ``[windows]`` bool, whether the window's document belongs to scorers.
        full: ``[pieces]`` bool, whether the piece has all its tokens; only such are drawn as negatives, so that
            length gives nothing away.
    """

    length: int
    first: NDArray[np.int64]
    doc_id: NDArray[np.int32]
    n_text_tokens: NDArray[np.int32]
    is_test: NDArray[np.bool_]
    full: NDArray[np.bool_]

    @classmethod
    def of(
        cls, doc_id: NDArray[np.int32], n_text_tokens: NDArray[np.integer], length: int, seed: int, share: float = 0.5
    ) -> Universe:
        """The universe of windows ``0 … n - 1``, of their documents and lengths (prefix tokens not counted).

        ``seed`` and ``share`` split documents as :func:`~raylens.examples.sampling.is_test_document`.
        """
        counts = n_pieces(n_text_tokens, length)
        first = np.concatenate([[0], np.cumsum(counts)])
        full = np.ones(int(first[-1]), np.bool_)
        short = np.flatnonzero((n_text_tokens % length != 0) & (counts > 0))
        full[first[short + 1] - 1] = False
        return cls(
            length,
            first,
            doc_id,
            n_text_tokens.astype(np.int32, copy=False),
            is_test_document(doc_id, seed, share),
            full,
        )

    def __len__(self) -> int:
        return int(self.first[-1])

    def numbers(self, pieces: Pieces) -> NDArray[np.int64]:
        """Number of each of some pieces, ``[p]``."""
        return self.first[pieces.window_id] + pieces.piece

    def places(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Window and piece of each number, ``[p]`` each."""
        window = np.searchsorted(self.first, numbers, side="right") - 1
        return window.astype(np.int32), (numbers - self.first[window]).astype(np.int32)

    def candidates(self, *, test: bool) -> NDArray[np.int64]:
        """Numbers of the full pieces of scorers' documents, or of explainers', rising."""
        of_window = self.is_test == test
        per_piece = np.repeat(of_window, np.diff(self.first))
        return np.flatnonzero(per_piece & self.full)
