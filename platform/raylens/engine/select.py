"""Selecting active latents from pre-activations, on a CPU: the inner loop of caching.

Everything runs on tiles of rows that stay in the processor's cache: bias, bound, comparison and
gathering each touch memory once. The ``k`` largest of a row are found exactly without sorting it:
the maxima of 2k interleaved groups of latents give a lower bound of the k-th largest value (each of
the k largest maxima is a value at least that large); what reaches the bound is about 1.3 k
candidates, of which a short sort finds the k-th. Rows where equal values straddle the k-th are
decided by ``torch.topk`` itself, as sae-lens decides them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Triplet = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]
"""Row, column and value of each selected element, sorted by row, then column."""

_TILE_BYTES: Final = 2 << 20


def above(hidden: Tensor, bias: Tensor, threshold: Tensor | None, floor: float) -> Triplet:
    """Elements of ``hidden + bias`` above ``threshold``, and above ``max(floor, 0)``.

    Args:
        hidden: ``[rows, columns]`` float32 on a CPU; overwritten.
        bias: ``[columns]``.
        threshold: ``[columns]``, or None for no threshold but the floor.
        floor: At least what every selected value exceeds.
    """
    least = np.float32(max(floor, 0.0))
    limit = least if threshold is None else np.maximum(threshold.numpy(), least)

    def select(tile: Tensor) -> NDArray[np.int64]:
        tile += bias
        return np.flatnonzero(tile.numpy() > limit)

    return _by_tile(hidden, select)


def largest(hidden: Tensor, bias: Tensor, scale: Tensor | None, k: int, floor: float) -> Triplet:
    """The ``k`` largest elements of each row of ``(hidden + bias) · scale`` that are above ``max(floor, 0)``.

    Args:
        hidden: ``[rows, columns]`` float32 on a CPU; overwritten.
        bias: ``[columns]``.
        scale: ``[columns]``, or None for 1.
        k: At most ``columns``.
        floor: As for :func:`above`.
    """
    columns = hidden.shape[1]
    least = np.nextafter(np.float32(max(floor, 0.0)), np.float32(np.inf))
    size = columns // (2 * k)
    groups = columns // size if size > 1 else 0

    def select(tile: Tensor) -> NDArray[np.int64]:
        tile += bias
        if scale is not None:
            tile *= scale
        if groups:
            maxima = tile[:, : size * groups].unflatten(1, (size, groups)).amax(1).numpy()
            maxima.sort(axis=1)
            bound = np.maximum(maxima[:, groups - k], least)
            found = np.flatnonzero(tile.numpy() >= bound[:, None])
        else:
            found = np.flatnonzero(tile.numpy() >= least)
        return _keep_largest(tile, found, k)

    return _by_tile(hidden, select)


def _keep_largest(tile: Tensor, found: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Of the flat positions ``found``, which hold every row's k largest and more, the k largest of each row."""
    rows, columns = tile.shape
    edges = np.searchsorted(found, np.arange(rows + 1) * columns)
    counts = np.diff(edges)
    widest = int(counts.max(initial=0))
    if widest <= k:
        return found
    values = tile.view(-1).numpy()[found]
    row = np.repeat(np.arange(rows), counts)
    padded = np.full((rows, widest), -np.inf, np.float32)
    padded[row, np.arange(len(found)) - edges[row]] = values
    padded.sort(axis=1)
    kept = values >= padded[row, widest - k]
    tied = np.flatnonzero(np.bincount(row[kept], minlength=rows) > k)
    if not len(tied):
        return found[kept]
    chosen = torch.topk(tile[torch.from_numpy(tied)], k, dim=-1, sorted=False).indices.numpy()
    others = found[kept & ~np.isin(row, tied)]
    return np.sort(np.concatenate([others, (chosen + tied[:, None] * columns).ravel()]))


def _by_tile(hidden: Tensor, select: Callable[[Tensor], NDArray[np.int64]]) -> Triplet:
    """Run ``select``, which gives flat positions within a tile, over tiles of rows."""
    columns = hidden.shape[1]
    height = max(1, _TILE_BYTES // (4 * columns))
    positions, values = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for start in range(0, len(hidden), height):
        tile = hidden[start : start + height]
        found = select(tile)
        values.append(tile.view(-1).numpy()[found])
        positions.append(found + start * columns)
    position = np.concatenate(positions)
    row = position // columns
    return row.astype(np.int32), (position - row * columns).astype(np.int32), np.concatenate(values)
