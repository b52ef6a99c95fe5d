"""The encoder actor: one block of windows in, one shard per SAE out.

An actor runs two threads. One holds ``_encode_lock`` and keeps the device busy; the other sorts,
compresses and commits the shards of the block before. What reaches the driver is a row of figures.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from raylens.config import CacheConfig
from raylens.engine.encode import encode_sparse
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.sae_choice import SaeChoice
from raylens.engine.saes import LoadedSae
from raylens.engine.tap import tap
from raylens.store.shards import write_shard
from raylens.store.windows import read_windows_shard
from raylens.store.workspace import Workspace
from raylens_jobs.memory import release
from raylens_jobs.processes import this_process


@dataclass(frozen=True, slots=True)
class Encoded:
    """Activations of one SAE over one block, sorted by (window, position, feature); all ``[nnz]``."""

    feature: NDArray[np.int32]
    window_id: NDArray[np.int32]
    position: NDArray[np.int16]
    activation: NDArray[np.float32]
    special: NDArray[np.bool_]


def batches_of(
    windows: Sequence[NDArray[np.int32]], batch_size: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield ``(first row, input_ids, attention_mask)``, int64 ``[rows, longest]``, padded on the right.

    Consecutive windows form a batch, so a block always gives the same batches, and with them the same
    floating-point results.
    """
    for first in range(0, len(windows), batch_size):
        rows = windows[first : first + batch_size]
        lengths = np.array([len(row) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = np.concatenate(rows)
        yield first, torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def encode_block(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    windows: Sequence[NDArray[np.int32]],
    window_first: int,
    config: CacheConfig,
) -> list[Encoded]:
    """Encode every window of a block with every SAE, one forward a batch.

    Args:
        model: The language model.
        saes: SAEs on any hook points of it; the forward stops at the last of them.
        windows: int32 token ids of each window, BOS included.
        window_first: Id of the first window.
        config: Batch size, ``filter_bos`` and ``min_activation``.

    Returns:
        One :class:`Encoded` for each SAE, in their order.
    """
    points = sorted({sae.spec.hook for sae in saes}, key=str)
    special_ids = np.array(sorted(model.special_ids), np.int64)
    parts: list[list[Encoded]] = [[] for _ in saes]
    for first, ids, mask in batches_of(windows, config.batch_size):
        special = np.isin(ids.numpy(), special_ids)
        wanted = mask.numpy().astype(bool)
        if config.filter_bos:
            wanted &= ~special
        rows, positions = np.nonzero(wanted)
        special_of_token = special[rows, positions]
        states = tap(model, points, ids, mask)
        keep = torch.from_numpy(wanted)
        for part, sae in zip(parts, saes, strict=True):
            state = states[sae.spec.hook]
            sparse = encode_sparse(sae, state[keep.to(state.device)], config.min_activation)
            token = sparse.token
            part.append(
                Encoded(
                    feature=sparse.feature,
                    window_id=(rows[token] + (window_first + first)).astype(np.int32),
                    position=positions[token].astype(np.int16),
                    activation=sparse.activation,
                    special=special_of_token[token],
                )
            )
    return [_concatenate(part) for part in parts]


def _concatenate(parts: Sequence[Encoded]) -> Encoded:
    columns = ("feature", "window_id", "position", "activation", "special")
    return Encoded(**{c: np.concatenate([getattr(p, c) for p in parts]) for c in columns})


class ShardEncoder:
    """A Ray Data actor: a block's number and missing shards → figures of the shards it wrote."""

    def __init__(
        self, workspace_url: str, cache_id: str, config: CacheConfig, saes: Mapping[str, SaeChoice], threads: int
    ) -> None:
        # Every further thread than the cores it has makes torch slower, by up to six times.
        torch.set_num_threads(threads)
        device = "auto" if torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != "" else "cpu"
        device = config.device if config.device != "auto" else device
        self._config = config
        self._cache = Workspace.open(workspace_url).cache(cache_id)
        self._model = load_model(
            config.model,
            revision=config.revision,
            dtype=config.dtype,
            device=device,
            quantization=config.quantization,
        )
        self._saes = {sae: choice.load(str(self._model.device)) for sae, choice in saes.items()}
        self._encode_lock = threading.Lock()
        self._ready_at = time.time()
        self._process = this_process()

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Encode and commit one block; a batch holds exactly one row of :class:`BlockSource`."""
        missing = [line.split("\t") for line in str(batch["missing"][0]).split("\n")]
        block = read_windows_shard(self._cache, int(batch["block"][0]))
        windows = token_lists(block)
        window_first = int(block["window_id"][0].as_py())
        with self._encode_lock:
            began = time.perf_counter()
            parts = encode_block(
                self._model, [self._saes[sae] for sae, _ in missing], windows, window_first, self._config
            )
            release()
            encode_seconds = time.perf_counter() - began
        began = time.perf_counter()
        special = np.isin(np.concatenate(windows), np.fromiter(self._model.special_ids, np.int32))
        n_text = int((~special).sum())
        shards = [
            write_shard(
                self._cache,
                self._saes[sae].id,
                name,
                d_sae=self._saes[sae].spec.d_sae,
                window_first=window_first,
                n_windows=len(windows),
                n_text_tokens=n_text,
                n_special_tokens=int(special.sum()),
                feature=part.feature,
                window_id=part.window_id,
                position=part.position,
                activation=part.activation,
                special=part.special,
            )
            for (sae, name), part in zip(missing, parts, strict=True)
        ]
        del parts, windows, special
        release()
        figures = {
            "block": int(batch["block"][0]),
            "tokens": n_text,
            "rows": sum(shard.n_rows for shard in shards),
            "bytes": sum(shard.bytes for shard in shards),
            "encode_seconds": encode_seconds,
            "write_seconds": time.perf_counter() - began,
            "ready_at": self._ready_at,
            "done_at": time.time(),
            "process": self._process,
        }
        return {name: np.array([value]) for name, value in figures.items()}


def token_lists(windows: pa.Table) -> list[NDArray[np.int32]]:
    """The ``token_ids`` column as one int32 array a window, without copying."""
    column = windows["token_ids"].combine_chunks()
    bounds = column.offsets.to_numpy()
    return np.split(column.values.to_numpy()[bounds[0] : bounds[-1]], bounds[1:-1] - bounds[0])
