"""A small corpus with activations full of ties, dead features and special tokens, stored and merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from raylens import schema
from raylens.ids import SaeId
from raylens.store.compact import merge_documents, merge_windows, n_window_files
from raylens.store.manifest import FileEntry, Manifest
from raylens.store.merge import SaeMerge, merge_ranges, merge_statistics, plan_merge
from raylens.store.publish import finish_merge
from raylens.store.shards import ShardRow, write_shard
from raylens.store.windows import WindowsShard, write_windows_shard
from raylens.store.workspace import CacheStore, Workspace

SAE = SaeId.parse("pico-res/layer_3")
CACHE_ID = "0123456789abcdef"


@dataclass(frozen=True)
class Rows:
    """Activations in token order, before rounding."""

    feature: NDArray[np.int32]
    window_id: NDArray[np.int32]
    position: NDArray[np.int16]
    activation: NDArray[np.float32]
    special: NDArray[np.bool_]

    def within(self, first: int, last: int) -> Rows:
        kept = (self.window_id >= first) & (self.window_id <= last)
        return Rows(*(column[kept] for column in self.columns()))

    def columns(self) -> tuple[NDArray, ...]:
        return self.feature, self.window_id, self.position, self.activation, self.special

    def table(self) -> pa.Table:
        feature, window_id, position, activation, special = self.columns()
        rounded = schema.round_activation(activation)
        return pa.table([feature, window_id, position, rounded, special], schema=schema.SHARD)


@dataclass(eq=False)
class Corpus:
    """What was put in, and where it is."""

    cache: CacheStore
    sae: SaeId
    d_sae: int
    rows: Rows
    lengths: NDArray[np.int64]
    windows: tuple[WindowsShard, ...]
    shards: tuple[ShardRow, ...]

    @property
    def plan(self) -> SaeMerge:
        return plan_merge(self.sae, self.shards)

    @property
    def n_text_tokens(self) -> int:
        return int((self.lengths - 1).sum())

    def merge(self, tables: Iterable[FileEntry] = (), **options: object) -> Manifest:
        """Merge everything and publish it, with ``tables`` about its features."""
        entries = merge_ranges(self.cache, self.plan, range(self.plan.n_ranges), **options)  # pyright: ignore[reportArgumentType]
        entries.append(merge_statistics(self.cache, self.plan))
        entries += [merge_windows(self.cache, self.windows, index) for index in range(n_window_files(self.windows))]
        entries += [merge_documents(self.cache, self.windows), *tables]
        with self.cache.lock("test") as lock:
            return finish_merge(self.cache, lock, windows=self.windows, merges=[self.plan], entries=entries)

    @cached_property
    def ordered(self) -> list[tuple]:
        """The oracle of a merge: every row of ``schema.ACTIVATIONS`` in file order, by one plain SQL query."""
        with duckdb.connect() as connection:
            connection.register("rows", self.rows.table())
            return connection.execute(
                """
                SELECT feature,
                       max(CASE WHEN special THEN 0 ELSE activation END) OVER (PARTITION BY feature, window_id) AS peak,
                       window_id, position, activation
                FROM rows ORDER BY feature, peak DESC, window_id, position
                """
            ).fetchall()


def random_rows(seed: int, lengths: NDArray[np.int64], d_sae: int, density: float) -> Rows:
    """Each token fires each living feature with ``density``; few distinct strengths, so that peaks tie."""
    random = np.random.default_rng(seed)
    window = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(window)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    fires = random.random((len(window), d_sae)) < density
    fires[:, random.random(d_sae) < 0.2] = False  # dead
    fires[:, 0] = position == 0  # fires on BOS only
    token, feature = np.nonzero(fires)
    activation = (random.integers(1, 12, len(token)) / 7).astype(np.float32)
    activation[position[token] == 0] *= 50  # an attention sink
    return Rows(
        feature.astype(np.int32),
        window[token].astype(np.int32),
        position[token].astype(np.int16),
        activation,
        position[token] == 0,
    )


def text_tables(first: int, lengths: NDArray[np.int64]) -> tuple[pa.Table, pa.Table]:
    """Windows ``first …``, three a document; token 0 is BOS, token k stands for ``w<k> ``."""
    ids = np.arange(first, first + len(lengths))
    texts, offsets = [], []
    for length in lengths.tolist():
        words = [f"w{place} " for place in range(1, length)]
        offsets.append([0, *np.cumsum([0, *map(len, words)])[:-1].tolist()])
        texts.append("".join(words))
    windows = pa.table(
        [ids, ids // 3, ids % 3 * 100, [list(range(length)) for length in lengths.tolist()], offsets, texts],
        names=schema.WINDOWS.names,
    ).cast(schema.WINDOWS)
    docs = np.unique(ids // 3)
    counts = np.bincount(ids // 3 - docs[0], weights=lengths - 1).astype(np.int32)
    names = [f"lib/{doc}.py" for doc in docs]
    split = pa.array(["train"] * len(docs))
    documents = pa.table(
        [docs, pa.array(["stdlib"] * len(docs)), pa.array(["lib"] * len(docs)), pa.array(names), split, counts],
        names=schema.DOCUMENTS.names,
    ).cast(schema.DOCUMENTS)
    return windows, documents


@pytest.fixture
def local_workspace(tmp_path: Path) -> Workspace:
    """A new workspace on the local disk, for what does not depend on the storage."""
    return Workspace.open(tmp_path / "local-workspace", create=True)


@pytest.fixture(scope="session")
def build() -> Callable[..., Corpus]:
    """Writes a random corpus into a workspace, cut into shards; nothing is merged yet."""

    def make(
        workspace: Workspace,
        *,
        seed: int = 0,
        d_sae: int = 40,
        shard_windows: tuple[int, ...] = (7, 5, 9),
        context: int = 12,
        density: float = 0.15,
        sae: SaeId = SAE,
        cache_id: str = CACHE_ID,
    ) -> Corpus:
        cache = workspace.cache(cache_id)
        if not cache.exists():
            cache.write_info({"name": f"cache-{cache_id[:4]}", "model": "raylens/pico"})
        lengths = np.random.default_rng(seed + 1).integers(2, context + 1, sum(shard_windows))
        rows = random_rows(seed, lengths, d_sae, density)
        windows, shards = [], []
        first = 0
        for index, n_windows in enumerate(shard_windows):
            here = lengths[first : first + n_windows]
            tables = text_tables(first, here)
            windows.append(write_windows_shard(cache, index, *tables, n_special_tokens=n_windows))
            shards.append(store_shard(cache, sae, f"s{seed}-{index}", d_sae, first, here, rows))
            first += n_windows
        return Corpus(cache, sae, d_sae, rows, lengths, tuple(windows), tuple(shards))

    return make


def store_shard(
    cache: CacheStore, sae: SaeId, name: str, d_sae: int, first: int, lengths: NDArray[np.int64], rows: Rows
) -> ShardRow:
    own = rows.within(first, first + len(lengths) - 1)
    return write_shard(
        cache,
        sae,
        name,
        d_sae=d_sae,
        window_first=first,
        n_windows=len(lengths),
        n_text_tokens=int((lengths - 1).sum()),
        n_special_tokens=len(lengths),
        feature=own.feature,
        window_id=own.window_id,
        position=own.position,
        activation=own.activation,
        special=own.special,
    )
