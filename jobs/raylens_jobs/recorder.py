"""The two ends of ``raylens record`` inside Ray: the reader that cuts text into blocks, and the recording actor.

Rows between them carry a block's tokens (4 bytes each); activations never leave the actor but into
its shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raylens.config import RecordConfig
from raylens.corpus.blocks import WindowBlock, block_name, shards
from raylens.corpus.windows import START, Cursor
from raylens.engine.load import load_model, load_tokenizer
from raylens.engine.tap import tap
from raylens.engine.text_windows import cut_windows
from raylens.ids import HookPoint
from raylens.sources import TextSource
from raylens.store.dense import DenseRecord, DenseTokens
from raylens_jobs.encoder import batches_of


def blocks_missing(
    record: DenseRecord, config: RecordConfig, sources: Sequence[TextSource]
) -> Iterator[tuple[str, WindowBlock]]:
    """Yield ``(shard name, block)`` of every shard that is not there yet, in corpus order.

    Goes on where the last whole shard before the first gap ended. A shard beyond the gap counts as
    there if its name, a hash of its tokens, is the same.
    """
    whole = [row for row in record.shards() if row.n_windows == record.info.shard_windows]
    cursor = Cursor(**whole[-1].cursor) if whole else START
    windows = cut_windows(
        load_tokenizer(config.model, revision=config.revision),
        sources,
        ctx_len=config.ctx_len,
        pack=config.pack,
        seed=config.seed,
        cursor=cursor,
    )
    if config.max_samples is not None:
        windows = islice(windows, max(0, config.max_samples - cursor.next_window))
    for block in shards(windows, record.info.shard_windows, cursor=cursor):
        name = block_name(record.info.identity, block)
        row = record.row(block.index)
        # A shorter block must not replace a longer one that an earlier run, with more samples, made.
        if row is None or (row.name != name and row.n_windows <= block.n_windows):
            yield name, block


class RecordSource(Datasource):
    """Missing blocks as a Ray Data source of one streaming read task, a row a block."""

    def __init__(self, record: DenseRecord, config: RecordConfig, sources: Sequence[TextSource]) -> None:
        super().__init__()
        self._args = (record, config, sources)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown, and small: tokens."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """One task, whatever ``parallelism`` asks: windows are numbered in corpus order."""
        record, config, sources = self._args

        def read() -> Iterator[pa.Table]:
            for name, block in blocks_missing(record, config, sources):
                yield _row(name, block)

        return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]


def _row(name: str, block: WindowBlock) -> pa.Table:
    return pa.table(
        {
            "index": [block.index],
            "name": [name],
            "window_first": [block.window_first],
            "cursor": [json.dumps(asdict(block.cursor))],
            # Bytes, as Ray would turn lists of two lengths into something else than it turns one into.
            "lengths": [block.lengths.tobytes()],
            "doc_ids": [block.doc_ids.tobytes()],
            "token_ids": [block.token_ids.tobytes()],
        }
    )


class ShardRecorder:
    """A Ray Data actor: one block of windows in, one committed shard out, and a row of figures."""

    def __init__(self, record: DenseRecord, config: RecordConfig, threads: int) -> None:
        # Every further thread than the cores it has makes torch slower, by up to six times.
        torch.set_num_threads(threads)
        self._record = record
        self._batch_size = config.batch_size
        self._points = [HookPoint.parse(hook) for hook in record.info.hooks]
        self._model = load_model(
            config.model,
            revision=config.revision,
            dtype=config.dtype,
            device=worker_device(config.device),
            quantization=config.quantization,
        )
        self._special = np.array(sorted(self._model.special_ids), np.int32)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Record and commit one block; a batch holds exactly one row of :class:`RecordSource`."""
        lengths, doc_ids, token_ids = (
            np.frombuffer(batch[name][0], np.int32) for name in ("lengths", "doc_ids", "token_ids")
        )
        window_first = int(batch["window_first"][0])
        starts = np.cumsum(lengths) - lengths
        tokens = DenseTokens(
            window_id=np.repeat(np.arange(window_first, window_first + len(lengths), dtype=np.int32), lengths),
            doc_id=np.repeat(doc_ids, lengths),
            position=(np.arange(len(token_ids)) - np.repeat(starts, lengths)).astype(np.int32),
            token_id=token_ids,
            special=np.isin(token_ids, self._special),
        )
        row = self._record.write(
            int(batch["index"][0]),
            str(batch["name"][0]),
            tokens,
            self._activations(np.split(token_ids, starts[1:])),
            window_first=window_first,
            n_windows=len(lengths),
            cursor=json.loads(str(batch["cursor"][0])),
        )
        figures = {"windows": row.n_windows, "tokens": row.n_text, "bytes": row.bytes}
        return {name: np.array([value]) for name, value in figures.items()}

    def _activations(self, windows: Sequence[NDArray[np.int32]]) -> dict[str, NDArray[np.floating]]:
        parts: dict[str, list[NDArray[np.floating]]] = {hook: [] for hook in self._record.info.hooks}
        for _, ids, mask in batches_of(windows, self._batch_size):
            states = tap(self._model, self._points, ids, mask)
            keep = mask.bool()
            for hook, point in zip(parts, self._points, strict=True):
                state = states[point]
                parts[hook].append(stored(state[keep.to(state.device)], self._record.info.stored_dtype))
        return {hook: np.concatenate(part) for hook, part in parts.items()}


def stored(states: torch.Tensor, dtype: str) -> NDArray[np.floating]:
    """``states`` on the CPU in the record's dtype; what is too large for it becomes infinite, and is refused later."""
    return states.to(torch.float32 if dtype == "float32" else torch.float16).cpu().numpy()


def worker_device(device: str) -> str:
    """The device for a worker of a pool: what was asked for, else the GPU that Ray gave it, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != "" else "cpu"
