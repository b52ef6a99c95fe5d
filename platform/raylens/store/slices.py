"""One range's slice of one shard, and the groups in it: the rows of one feature in one window.

A slice is sorted by (feature, window, position), and a window lies in one shard only, so a group is
a run of neighbours and its peak is known as soon as the slice is read, whatever else there is to merge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.errors import RunError
from raylens.ids import SaeId
from raylens.store.parquet import TableFile
from raylens.store.shards import ShardRow
from raylens.store.windows import REMEDY
from raylens.store.workspace import CacheStore

# A footer of 256 ranges takes 1 MB parsed and 0.5 ms to parse, so a few are kept for the next range.
_KEPT_OPEN: Final = 16


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of one range from one shard; ``n`` rows in ``g`` groups.

    Attributes:
        window_id: ``[n]`` int32.
        position: ``[n]`` int16.
        activation: ``[n]`` float32.
        special: ``[n]`` bool.
        group_feature: ``[g]`` int32.
        group_window: ``[g]`` int32.
        group_peak: ``[g]`` float32, the largest activation on a token that is not special; 0 where there is none.
        group_first: ``[g]`` int32, index of its first row.
        group_rows: ``[g]`` int32, how many rows it has.
    """

    window_id: NDArray[np.int32]
    position: NDArray[np.int16]
    activation: NDArray[np.float32]
    special: NDArray[np.bool_]
    group_feature: NDArray[np.int32]
    group_window: NDArray[np.int32]
    group_peak: NDArray[np.float32]
    group_first: NDArray[np.int32]
    group_rows: NDArray[np.int32]

    @property
    def n_rows(self) -> int:
        return len(self.window_id)

    @classmethod
    def of(
        cls,
        feature: NDArray[np.int32],
        window_id: NDArray[np.int32],
        position: NDArray[np.int16],
        activation: NDArray[np.float32],
        special: NDArray[np.bool_],
    ) -> Slice:
        """Find the groups of rows sorted by (feature, window, position)."""
        changes = (feature[1:] != feature[:-1]) | (window_id[1:] != window_id[:-1])
        first = np.flatnonzero(np.concatenate([[len(feature) > 0], changes]))
        counted = np.where(special, np.float32(0), activation)
        return cls(
            window_id=window_id,
            position=position,
            activation=activation,
            special=special,
            group_feature=feature[first],
            group_window=window_id[first],
            group_peak=np.maximum.reduceat(counted, first) if len(first) else counted,
            group_first=first.astype(np.int32),
            group_rows=np.diff(first, append=len(feature)).astype(np.int32),
        )


def read_slices(
    cache: CacheStore, sae: SaeId, shards: Sequence[ShardRow], ranges: Sequence[int]
) -> Iterator[Iterator[Slice]]:
    """For each of ``ranges``, its slices, one a shard in the order given; each reads that row group only.

    Raises:
        DamagedFileError: A shard is missing, truncated, or not what its row says.
    """
    with ExitStack() as stack:
        kept: dict[str, TableFile] = {}

        def slices(index: int) -> Iterator[Slice]:
            for shard in shards:
                if not shard.rows_per_range[index]:
                    continue
                if (file := kept.get(shard.name)) is not None:
                    yield _read(file, shard, index)
                    continue
                file = TableFile(cache.files, cache.shard_path(sae, shard.name), remedy=REMEDY)
                if len(kept) < _KEPT_OPEN:
                    kept[shard.name] = stack.enter_context(file)
                    yield _read(file, shard, index)
                else:
                    with file:
                        yield _read(file, shard, index)

        for index in ranges:
            yield slices(index)


def _read(file: TableFile, shard: ShardRow, index: int) -> Slice:
    rows = file.read_group(index)
    if rows.num_rows != shard.rows_per_range[index]:
        raise RunError(
            f"shard {shard.name} of {shard.sae} holds {rows.num_rows} activations of range {index}, "
            f"and its row says {shard.rows_per_range[index]}.",
            hint=REMEDY,
        )
    return Slice.of(*(rows[name].to_numpy() for name in ("feature", "window_id", "position", "activation", "special")))
