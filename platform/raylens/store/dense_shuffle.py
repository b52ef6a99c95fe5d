"""Recorded activations in random order, in bounded memory, as a function of the step alone.

Shards are taken in a new order each epoch; as many as fit the buffer form a block, whose rows are
shuffled together. Batch k depends on the seed and k only, so that training resumed at step k goes
on with exactly the rows it would have seen. (sae-lens's mixing buffer holds on to half of its rows and draws
from the global generator: to resume it, one would have to store the buffer.)
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.store.dense import DenseRecord, DenseShard


@dataclass(frozen=True, slots=True)
class _Block:
    """Shards shuffled together, and the steps they serve."""

    key: tuple[int, int]  # epoch, number within it
    shards: tuple[DenseShard, ...]
    first_step: int
    n_steps: int


class ShuffledRows:
    """Batches of one hook point of a record.

    Args:
        record: Where from.
        hook: Which point; None where one was recorded.
        batch_size: Rows per batch.
        seed: Of every order.
        buffer_bytes: What a block may hold; the next one is read ahead, so twice this is in memory.
        shards: The shards to use; all there are by default.

    Raises:
        InputError: There is not one batch of rows.
    """

    def __init__(
        self,
        record: DenseRecord,
        hook: str | None,
        *,
        batch_size: int,
        seed: int,
        buffer_bytes: int,
        shards: Sequence[DenseShard] | None = None,
    ) -> None:
        self._record = record
        self._hook = hook
        self._batch = batch_size
        self._seed = seed
        _, self.width = record.info.column(hook)
        row_bytes = self.width * np.dtype(record.info.stored_dtype).itemsize
        self._buffer_rows = max(1, buffer_bytes // row_bytes)
        self._shards = tuple(record.shards() if shards is None else shards)
        self.n_rows = sum(shard.n_text for shard in self._shards)
        if self.n_rows < batch_size:
            raise InputError(
                f"{record.files.native(record.folder)} holds {self.n_rows:,} tokens, fewer than a batch of "
                f"{batch_size:,}.",
                hint="record more text, or lower --batch-size.",
            )

    def batches(self, start: int = 0) -> Generator[NDArray[np.float32], None, None]:
        """Yield float32 ``[batch_size, width]`` for steps ``start``, ``start + 1`` … without end."""
        blocks = (block for block in self._blocks() if block.first_step + block.n_steps > start)
        with ThreadPoolExecutor(1, thread_name_prefix="dense-read-ahead") as pool:
            block = next(blocks)
            loading = pool.submit(self._load, block)
            for following in blocks:
                rows = loading.result()
                loading: Future[NDArray[np.floating]] = pool.submit(self._load, following)
                order = np.random.default_rng((self._seed, 1, *block.key)).permutation(len(rows))
                for step in range(max(start, block.first_step), block.first_step + block.n_steps):
                    at = (step - block.first_step) * self._batch
                    yield rows[order[at : at + self._batch]].astype(np.float32)
                block = following

    def sample(self, n_rows: int) -> NDArray[np.float32]:
        """About ``n_rows`` rows of the first block, float32: for means and norms before training."""
        block = next(self._blocks())
        rows = self._load(block)
        order = np.random.default_rng((self._seed, 2)).permutation(len(rows))
        return rows[order[:n_rows]].astype(np.float32)

    def _blocks(self) -> Iterator[_Block]:
        step = 0
        for epoch in count():
            order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._shards))
            for number, shards in enumerate(self._grouped([self._shards[i] for i in order])):
                n_steps = sum(shard.n_text for shard in shards) // self._batch
                if n_steps:
                    yield _Block((epoch, number), shards, step, n_steps)
                step += n_steps

    def _grouped(self, shards: Sequence[DenseShard]) -> Iterator[tuple[DenseShard, ...]]:
        """Cut a sequence of shards into blocks that fit the buffer and give a batch, as far as both can be."""
        group: list[DenseShard] = []
        rows = 0
        for shard in shards:
            if group and rows + shard.n_text > self._buffer_rows and rows >= self._batch:
                yield tuple(group)
                group, rows = [], 0
            group.append(shard)
            rows += shard.n_text
        if group:
            yield tuple(group)

    def _load(self, block: _Block) -> NDArray[np.floating]:
        return np.concatenate([self._record.read(shard.index, self._hook) for shard in block.shards])
