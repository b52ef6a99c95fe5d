"""Cutting excerpts out of windows: at a piece's own place, or around the peak, into the windows beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylens.examples.excerpt import Excerpt
from raylens.examples.pieces import FeatureRows


@dataclass(frozen=True, eq=False)
class WindowTokens:
    """One cached window.

    Attributes:
        window_id: Which.
        doc_id: Its document.
        start: Index, within the document's tokens, of its first token after the prefix.
        token_ids: ``[n]`` int32, prefix included.
        offsets: ``[n]`` int32, first character of each token in ``text``.
        text: The window's text.
        n_prefix: Tokens at its beginning that are no text (BOS).
    """

    window_id: int
    doc_id: int
    start: int
    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    text: str
    n_prefix: int

    @property
    def n_text_tokens(self) -> int:
        return len(self.token_ids) - self.n_prefix

    def spelled(self, first: int, last: int) -> str:
        """Text of the tokens ``[first, last)``, positions within the window, at least one."""
        end = self.offsets[last] if last < len(self.offsets) else None
        return self.text[self.offsets[first] : end]


Look = Callable[[int], WindowTokens | None]
"""Gives a window by id; None where the cache has none."""


def peak_place(length: int) -> int:
    """Where the peak sits in a centred excerpt: three quarters in, since what explains it stands mostly before."""
    return length * 3 // 4


def cut_piece(rows: FeatureRows, look: Look, window_id: int, piece: int, length: int, band: int | None) -> Excerpt:
    """The excerpt of one piece of a window."""
    window = look(window_id)
    assert window is not None
    first = window.n_prefix + piece * length
    return _join(rows, [(window, first, min(first + length, len(window.token_ids)))], window, band)


def cut_around(rows: FeatureRows, look: Look, window_id: int, position: int, length: int, band: int | None) -> Excerpt:
    """``length`` tokens with ``position`` of a window at :func:`peak_place`, also out of the windows beside it.

    Where the document begins or ends sooner, the excerpt moves rather than shrinks, and the peak stands
    elsewhere; it is shorter only where the document is.
    """
    window = look(window_id)
    assert window is not None
    before, after = peak_place(length), length - peak_place(length)  # ``after`` counts the peak itself
    if window.n_prefix <= position - before and position + after <= len(window.token_ids):
        return _join(rows, [(window, position - before, position + after)], window, band)
    lefts, n_left = _beside(window, look, length - (position - window.n_prefix), -1)
    rights, n_right = _beside(window, look, length - (len(window.token_ids) - position), +1)
    # Counted along the document: ``origin`` is the first token that was gathered.
    at = n_left + position - window.n_prefix
    total = n_left + window.n_text_tokens + n_right
    begin = max(0, min(at - before, total - length))
    end = min(total, max(at + after, length))
    parts: list[tuple[WindowTokens, int, int]] = []
    here = 0
    for one in [*lefts, window, *rights]:
        first, last = max(begin - here, 0), min(end - here, one.n_text_tokens)
        if first < last:
            parts.append((one, one.n_prefix + first, one.n_prefix + last))
        here += one.n_text_tokens
    return _join(rows, parts, window, band)


def _beside(window: WindowTokens, look: Look, n_tokens: int, step: int) -> tuple[list[WindowTokens], int]:
    """Windows before (``step`` -1) or after that go on in the same document, until they hold ``n_tokens``."""
    found: list[WindowTokens] = []
    n, last = 0, window
    while n < n_tokens:
        other = look(last.window_id + step)
        if other is None or other.doc_id != window.doc_id:
            break
        earlier, later = (other, last) if step < 0 else (last, other)
        if earlier.start + earlier.n_text_tokens != later.start:
            break
        found.append(other)
        n, last = n + other.n_text_tokens, other
    return (found[::-1] if step < 0 else found), n


def _join(
    rows: FeatureRows, parts: list[tuple[WindowTokens, int, int]], home: WindowTokens, band: int | None
) -> Excerpt:
    window, first, last = parts[0]
    start = window.start + first - window.n_prefix - home.start
    if len(parts) == 1:
        ids, starts = window.token_ids[first:last], window.offsets[first:last]
        activations = np.zeros(last - first, np.float32)
        positions, values = rows.within(window.window_id, first, last)
        if len(values):
            activations[positions - first] = values
        text = window.spelled(first, last)
        return Excerpt(home.window_id, home.doc_id, start, text, starts, ids, activations, band)
    each = [_join(rows, [part], home, band) for part in parts]
    return Excerpt.of(
        home.window_id,
        home.doc_id,
        start,
        [token for one in each for token in one.tokens],
        np.concatenate([one.token_ids for one in each]),
        np.concatenate([one.activations for one in each]),
        band,
    )
