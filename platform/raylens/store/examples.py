"""A window as people read it: its tokens as text, and how strongly one feature fires on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Activity:
    """One feature's activations in one window, special tokens included.

    Attributes:
        window_id: Which window.
        peak: The largest on a token that is not special; 0 where it fires on special tokens only.
        positions: ``[n]`` int16, rising.
        activations: ``[n]`` float32.
    """

    window_id: int
    peak: float
    positions: NDArray[np.int16]
    activations: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Example:
    """One window with its text and one feature's activations.

    Attributes:
        window_id: Which window.
        doc_id: The document of its first token that is not special.
        source: The ``--text`` item that came from.
        path: The file, within it.
        text: The window's text.
        tokens: The piece of ``text`` each token stands for; empty for BOS, and where several tokens share
            a character for all but the last.
        activations: ``[len(tokens)]`` float32, 0 where it does not fire.
        peak: As in :class:`Activity`.
    """

    window_id: int
    doc_id: int
    source: str
    path: str
    text: str
    tokens: tuple[str, ...]
    activations: NDArray[np.float32]
    peak: float


def pieces(text: str, offsets: Sequence[int]) -> tuple[str, ...]:
    """Cut ``text`` where each token begins; the last token ends with the text."""
    ends = [*offsets[1:], len(text)]
    return tuple(text[begin:end] for begin, end in zip(offsets, ends, strict=True)) if offsets else ()


def spread(activity: Activity, n_tokens: int) -> NDArray[np.float32]:
    """``[n_tokens]`` float32: the activations at their positions, 0 elsewhere."""
    dense = np.zeros(n_tokens, np.float32)
    dense[activity.positions] = activity.activations
    return dense
