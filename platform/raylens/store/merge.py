"""Merging the shards of one SAE into range files: one file a range of features, in the order people ask.

Rows are ordered by (feature, peak descending, window, position); ``schema`` says why. Statistics
are added up in the same pass. The result depends on the shards alone, not on their order, nor on
which of the two ways a range took:

* in memory: only the groups (feature, window) are sorted, by radix; rows are then gathered;
* beyond ``memory_rows``: :mod:`raylens.store.external_merge`, bounded memory at any size.

Files are named by what they are made of (:attr:`SaeMerge.folder`), so that a merge that was killed
goes on, and an SAE that did not change is not merged again when another is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from raylens.errors import RunError
from raylens.ids import SaeId, digest
from raylens.schema import ACTIVATIONS
from raylens.store import parquet
from raylens.store.external_merge import sorted_batches
from raylens.store.manifest import FileEntry
from raylens.store.parts import made, part
from raylens.store.ranges import feature_ranges
from raylens.store.shards import ShardRow, argsort_by_digits
from raylens.store.slices import Slice, read_slices
from raylens.store.statistics import RangeStatistics
from raylens.store.workspace import CacheStore

MEMORY_ROWS: Final = 4_000_000
"""Rows merged in memory: about 30 bytes each, 120 MB."""

_BLOCK_ROWS: Final = 131_072


class SaeMerge(BaseModel):
    """What one SAE's merge is made from; made by :func:`plan_merge`, small enough to send to tasks.

    Attributes:
        sae: Whose.
        d_sae: Its width.
        shards: Its shards, in window order, which cover windows 0 … ``n_windows - 1``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sae: str
    d_sae: int
    shards: tuple[ShardRow, ...]

    @property
    def id(self) -> SaeId:
        return SaeId.parse(self.sae)

    @property
    def n_ranges(self) -> int:
        return len(feature_ranges(self.d_sae))

    @property
    def n_windows(self) -> int:
        return sum(shard.n_windows for shard in self.shards)

    @property
    def n_text_tokens(self) -> int:
        return sum(shard.n_text_tokens for shard in self.shards)

    @property
    def folder(self) -> str:
        """Folder name of its merged files, a hash of what determines them."""
        shards = [[shard.name, shard.n_text_tokens, *shard.rows_per_range] for shard in self.shards]
        return digest({"sae": self.sae, "d_sae": self.d_sae, "shards": shards})[:16]

    @property
    def totals(self) -> dict[str, int | float]:
        """Counts for ``Manifest.sae_totals``."""
        return {
            "d_sae": self.d_sae,
            "n_activations": sum(shard.n_rows for shard in self.shards),
            "n_windows": self.n_windows,
            "n_text_tokens": self.n_text_tokens,
            "n_special_tokens": sum(shard.n_special_tokens for shard in self.shards),
        }

    def rows_of(self, index: int) -> int:
        """Activations in one range."""
        return sum(shard.rows_per_range[index] for shard in self.shards)

    def batches(self, rows: int = 2 * MEMORY_ROWS) -> list[list[int]]:
        """Ranges for one task each: neighbours, about ``rows`` together, so that each task is worth its start."""
        found: list[list[int]] = []
        held = rows
        for index in range(self.n_ranges):
            if held >= rows:
                found.append([])
                held = 0
            found[-1].append(index)
            held += self.rows_of(index)
        return found


def plan_merge(sae: SaeId, shards: Iterable[ShardRow]) -> SaeMerge:
    """Put shards, given in any order, in window order and check that they belong together.

    Raises:
        RunError: There are none, they are of several SAEs or widths, overlap, or leave a gap.
    """
    ordered = tuple(sorted(shards, key=lambda shard: shard.window_first))
    following = 0
    for shard in ordered:
        if shard.window_first != following or shard.sae != str(sae) or shard.d_sae != ordered[0].d_sae:
            raise RunError(
                f"the shards of {sae} do not fit together at window {following} (shard {shard.name}).",
                hint="run the same cache command again: it makes what is missing.",
            )
        following += shard.n_windows
    if not ordered:
        raise RunError(f"there are no shards of {sae} to merge.", hint="run raylens cache first.")
    return SaeMerge(sae=str(sae), d_sae=ordered[0].d_sae, shards=ordered)


def merge_ranges(
    cache: CacheStore,
    plan: SaeMerge,
    ranges: Sequence[int],
    *,
    memory_rows: int = MEMORY_ROWS,
    spill: Path | None = None,
) -> list[FileEntry]:
    """Merge some ranges, one after the other; what is there already is not made again.

    Args:
        cache: Where the shards are and the files go.
        plan: The SAE.
        ranges: Which ranges.
        memory_rows: Rows above which a range is sorted on disk.
        spill: Folder for that; the system's temporary folder by default.

    Returns:
        An entry for each range, of kind ``activations``.

    Raises:
        DamagedFileError: A shard is missing, truncated, or fails a checksum.
        DiskFullError: No space; nothing half-written is left.
    """
    entries = {index: made(cache, _range_path(cache, plan, index)) for index in ranges}
    missing = [index for index, entry in entries.items() if entry is None]
    for index, slices in zip(missing, read_slices(cache, plan.id, plan.shards, missing), strict=True):
        entries[index] = _merge(cache, plan, index, slices, memory_rows, spill)
    return [entry for entry in entries.values() if entry is not None]


def published(cache: CacheStore, plan: SaeMerge) -> list[FileEntry] | None:
    """The entries of this very merge if readers see it already, so that nothing is left to do; else None.

    Housekeeping may have removed the rows of its parts, and then only the manifest knows. A file that is
    missing or truncated is no reason to stop: None, and the ranges that are whole are found by their rows.
    """
    manifest = cache.manifest()
    if manifest is None:
        return None
    folder = f"{cache.generation_folder(plan.folder)}/"
    found = [entry for entry in manifest.entries if entry.path.startswith(folder)]
    sizes = {one.path: one.size for one in cache.files.scan(folder.rstrip("/"))}
    whole = all(sizes.get(entry.path) == entry.bytes for entry in found)
    return found if whole and len(found) == plan.n_ranges + 1 else None


def merge_statistics(cache: CacheStore, plan: SaeMerge) -> FileEntry:
    """Put the ranges' statistics into one ``feature_stats`` file, row ``f`` for feature ``f``; after all ranges.

    Raises:
        RunError: A range has not been merged yet.
    """
    path = f"{cache.generation_folder(plan.folder)}/feature_stats.parquet"
    if entry := made(cache, path):
        return entry
    tables: list[pa.Table] = []
    for index in range(plan.n_ranges):
        if not made(cache, _range_path(cache, plan, index)):
            raise RunError(f"range {index} of {plan.sae} is not merged.", hint="run the same cache command again.")
        with parquet.TableFile(cache.files, _statistics_path(cache, plan, index), remedy=_REMEDY) as file:
            tables.append(file.read())
    with part(cache, path, parquet.FEATURE_STATS, kind="feature_stats", sae=plan.sae) as writer:
        writer.append(pa.concat_tables(tables))
    return writer.entry


_REMEDY: Final = "remove its folder, then run the same cache command again: it merges anew from the shards."


def _range_path(cache: CacheStore, plan: SaeMerge, index: int) -> str:
    return f"{cache.generation_folder(plan.folder)}/activations/{index:04d}.parquet"


def _statistics_path(cache: CacheStore, plan: SaeMerge, index: int) -> str:
    return f"{cache.generation_folder(plan.folder)}/statistics/{index:04d}.parquet"


def _merge(
    cache: CacheStore, plan: SaeMerge, index: int, slices: Iterator[Slice], memory_rows: int, spill: Path | None
) -> FileEntry:
    low, high = feature_ranges(plan.d_sae)[index]
    statistics = RangeStatistics(low, high)

    def counted() -> Iterator[Slice]:
        for rows in slices:
            statistics.add(rows)
            yield rows

    n_rows = plan.rows_of(index)
    bounds = {"feature_first": low, "feature_last": high - 1}
    path = _range_path(cache, plan, index)
    with part(cache, path, parquet.ACTIVATIONS, kind="activations", sae=plan.sae, **bounds) as writer:
        if n_rows <= memory_rows:
            tables = _in_memory(counted(), n_rows)
        else:
            tables = sorted_batches(counted(), memory=f"{max(64, memory_rows * 32 // 1_000_000)}MB", spill=spill)
        for group in whole_windows(tables, parquet.ACTIVATIONS.group_rows):
            writer.group(group)
        # Committed before the range's own row, so that a range that exists has its statistics.
        parquet.write_table(
            cache.files,
            _statistics_path(cache, plan, index),
            statistics.table(plan.n_text_tokens),
            parquet.FEATURE_STATS,
        )
    return writer.entry


def _in_memory(slices: Iterable[Slice], n_rows: int) -> Iterator[pa.Table]:
    """Rows of ``schema.ACTIVATIONS`` in file order, in blocks.

    Groups arrive in window order within a feature, so two stable sorts, by falling peak and then by
    feature, put them in file order; rows within a group already are.
    """
    position = np.empty(n_rows, np.int16)
    activation = np.empty(n_rows, np.float32)
    groups: list[tuple[NDArray[np.generic], ...]] = []
    filled = 0
    for rows in slices:
        until = filled + rows.n_rows
        position[filled:until] = rows.position
        activation[filled:until] = rows.activation
        first = rows.group_first.astype(np.int64) + filled
        groups.append((rows.group_feature, rows.group_window, rows.group_peak, first, rows.group_rows))
        filled = until
    if not groups:
        return
    feature, window, peak, first, count = (np.concatenate(column) for column in zip(*groups, strict=True))
    groups.clear()
    # The bits of a non-negative float rise with its value.
    order = argsort_by_digits(~peak.view(np.uint32), 1 << 32)
    order = order[argsort_by_digits(feature[order] - feature.min(), int(feature.max() - feature.min()) + 1)]
    edges = np.searchsorted(np.cumsum(count[order]), np.arange(_BLOCK_ROWS, n_rows + _BLOCK_ROWS, _BLOCK_ROWS))
    begin = 0
    for end in np.minimum(edges + 1, len(order)).tolist():
        block = order[begin:end]
        begin = end
        times = count[block]
        ends = np.cumsum(times)
        row = np.arange(int(times.sum())) + np.repeat(first[block] - ends + times, times)
        yield pa.table(
            [
                np.repeat(feature[block], times),
                np.repeat(peak[block], times),
                np.repeat(window[block], times),
                position[row],
                activation[row],
            ],
            schema=ACTIVATIONS,
        )


def whole_windows(tables: Iterable[pa.Table], most: int) -> Iterator[pa.Table]:
    """Cut rows in file order into row groups of at most ``most`` rows, each ending where a window's rows end.

    Greedy and blind to how the rows arrive, so both ways of merging give the same groups.
    """
    held = ACTIVATIONS.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        feature, window = held["feature"].to_numpy(), held["window_id"].to_numpy()
        ends = np.flatnonzero((feature[1:] != feature[:-1]) | (window[1:] != window[:-1])) + 1
        begin = 0
        while held.num_rows - begin > most:
            end = int(ends[np.searchsorted(ends, begin + most, side="right") - 1])
            yield held.slice(begin, end - begin)
            begin = end
        held = held.slice(begin)
    if held.num_rows:
        yield held
