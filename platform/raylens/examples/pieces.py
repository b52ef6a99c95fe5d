"""Windows cut into pieces of the excerpt's length: on which a feature fires, and how strongly.

A cached window (128 or 256 tokens) is more than an explainer needs, and a dense feature fires in every
one. So sampling works on pieces: tokens ``[k·length, (k+1)·length)`` of a window, its prefix (BOS) left
out. Pieces do not overlap, and each lies in one document unless the cache was packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """One feature's activations on text tokens, in order of (window, position).

    Attributes:
        window_id: ``[n]`` int32.
        position: ``[n]`` int32, of the token within its window, prefix included.
        activation: ``[n]`` float32, above 0.
    """

    window_id: NDArray[np.int32]
    position: NDArray[np.int32]
    activation: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        window_id: NDArray[np.integer],
        position: NDArray[np.integer],
        activation: NDArray[np.floating],
        n_prefix: int,
    ) -> FeatureRows:
        """Rows in any order, those on prefix tokens left out."""
        text = np.flatnonzero(position >= n_prefix)
        order = text[np.argsort(_place(window_id[text], position[text]))]
        return cls(
            window_id[order].astype(np.int32, copy=False),
            position[order].astype(np.int32, copy=False),
            activation[order].astype(np.float32, copy=False),
        )

    def __len__(self) -> int:
        return len(self.window_id)

    def within(self, window_id: int, first: int, last: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Positions in ``[first, last)`` of one window on which it fires, and the activations there."""
        if not len(self.window_id):
            return self.position, self.activation
        low, high = self._places.searchsorted([(window_id << 32) + first, (window_id << 32) + last])
        return self.position[low:high], self.activation[low:high]

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        return _place(self.window_id, self.position)


def _place(window_id: NDArray[np.integer], position: NDArray[np.integer]) -> NDArray[np.int64]:
    """Window and position as one number, which rises as they do."""
    return (window_id.astype(np.int64) << 32) + position


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces on which a feature fires, in order of (window, piece).

    Attributes:
        window_id: ``[p]`` int32.
        piece: ``[p]`` int32, which piece of that window.
        peak: ``[p]`` float32, the largest activation in it.
        position: ``[p]`` int32, where that is, within the window; the first, of equals.
    """

    window_id: NDArray[np.int32]
    piece: NDArray[np.int32]
    peak: NDArray[np.float32]
    position: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.window_id)

    def take(self, which: NDArray[np.integer] | NDArray[np.bool_]) -> Pieces:
        """Some of them."""
        return Pieces(self.window_id[which], self.piece[which], self.peak[which], self.position[which])


def active_pieces(rows: FeatureRows, length: int, n_prefix: int) -> Pieces:
    """Pieces of ``length`` tokens that hold at least one of ``rows``."""
    piece = (rows.position - n_prefix) // length
    if not len(rows):
        empty = np.zeros(0, np.int32)
        return Pieces(empty, empty, np.zeros(0, np.float32), empty)
    changes = (rows.window_id[1:] != rows.window_id[:-1]) | (piece[1:] != piece[:-1])
    first = np.flatnonzero(np.concatenate([[True], changes]))
    peak = np.maximum.reduceat(rows.activation, first)
    size = np.diff(first, append=len(rows))
    # The first row of each piece that reaches its peak.
    is_peak = rows.activation == np.repeat(peak, size)
    row = np.where(is_peak, np.arange(len(rows)), len(rows))
    at = np.minimum.reduceat(row, first)
    return Pieces(rows.window_id[first], piece[first], peak, rows.position[at])


def n_pieces(n_text_tokens: NDArray[np.integer], length: int) -> NDArray[np.int64]:
    """How many pieces windows of so many text tokens have; a last, shorter one counts."""
    return -(-n_text_tokens.astype(np.int64) // length)
