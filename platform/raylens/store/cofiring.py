"""Which latents fire on the same tokens: the ten closest others of each, by Jaccard index, on a sample.

With ``A[f, t] = 1`` where feature ``f`` fires on token ``t``, ``A @ A.T`` counts the tokens on which two
fire. It is taken block by block of rows, sparse, so memory follows the sample and never latents².
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from raylens.ids import SaeId
from raylens.schema import COFIRING
from raylens.store.parquet import TableFile
from raylens.store.shards import ShardRow, argsort_by_digits
from raylens.store.windows import REMEDY
from raylens.store.workspace import CacheStore

MAX_ACTIVATIONS: Final = 8_000_000
"""Activations in the sample: 32 MB as a sparse matrix, and as much again transposed."""

N_OTHERS: Final = 10

_BLOCK_PAIRS: Final = 4_000_000


def cofiring(
    cache: CacheStore,
    sae: SaeId,
    shards: Sequence[ShardRow],
    *,
    max_activations: int = MAX_ACTIVATIONS,
    n_others: int = N_OTHERS,
    seed: int = 0,
) -> pa.Table:
    """The table ``schema.COFIRING`` of one SAE; special tokens do not count.

    Args:
        cache: Where the shards are.
        sae: Whose.
        shards: All its shards; which are sampled follows from ``seed`` and their order in the corpus.
        max_activations: Size of the sample.
        n_others: Others kept for each feature; ties go to the smaller index.
        seed: Of the sample.

    Raises:
        DamagedFileError: A sampled shard is missing, truncated, or fails a checksum.
    """
    ordered = sorted(shards, key=lambda shard: shard.window_first)
    d_sae = ordered[0].d_sae
    sample = [_read(cache, sae, *chosen) for chosen in _choose(ordered, max_activations, seed)]
    feature = np.concatenate([feature for feature, _ in sample])
    _, token = np.unique(np.concatenate([token for _, token in sample]), return_inverse=True)
    order = argsort_by_digits(feature, d_sae)
    starts = np.searchsorted(feature[order], np.arange(d_sae + 1))
    shape = (d_sae, int(token.max(initial=-1)) + 1)
    fires = csr_array((np.ones(len(token), np.int32), token[order].astype(np.int32), starts.astype(np.int32)), shape)
    return _closest(fires, n_others)


def _choose(shards: Sequence[ShardRow], limit: int, seed: int) -> list[tuple[ShardRow, int]]:
    """Shards at random while they fit, each with the first window no longer taken; of one too large a part."""
    chosen: list[tuple[ShardRow, int]] = []
    held = 0
    for place in np.random.default_rng(seed).permutation(len(shards)).tolist():
        shard = shards[place]
        if held + shard.n_rows <= limit:
            chosen.append((shard, shard.window_first + shard.n_windows))
            held += shard.n_rows
    if not chosen:
        smallest = min(shards, key=lambda shard: shard.n_rows)
        chosen.append((smallest, smallest.window_first + max(1, smallest.n_windows * limit // smallest.n_rows)))
    return chosen


def _read(cache: CacheStore, sae: SaeId, shard: ShardRow, until: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Features and tokens (window and position in one number) of a shard's rows before window ``until``."""
    features, tokens = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    with TableFile(cache.files, cache.shard_path(sae, shard.name), remedy=REMEDY) as file:
        for group in range(file.n_groups):
            rows = file.read_group(group, ["feature", "window_id", "position", "special"])
            window = rows["window_id"].to_numpy()
            taken = ~rows["special"].to_numpy() & (window < until)
            features.append(rows["feature"].to_numpy()[taken])
            tokens.append((window[taken].astype(np.int64) << 16) + rows["position"].to_numpy()[taken])
    return np.concatenate(features), np.concatenate(tokens)


def _closest(fires: csr_array, n_others: int) -> pa.Table:
    """``[features, tokens]`` of 0 and 1 → ``schema.COFIRING``."""
    n_active = np.diff(fires.indptr).astype(np.int64)
    by_token = fires.T.tocsr()
    features, ranks, others, boths, jaccards = [], [], [], [], []
    for first, last in _blocks(fires, by_token):
        pairs = fires[first:last] @ by_token
        for feature, begin, end in zip(range(first, last), pairs.indptr[:-1], pairs.indptr[1:], strict=True):
            other, both = pairs.indices[begin:end], pairs.data[begin:end].astype(np.int64)
            jaccard = both / (n_active[feature] + n_active[other] - both)
            jaccard[other == feature] = -1
            if len(other) > n_others:
                # Everything as close as the n-th closest, so that ties are decided below, not by chance.
                near = jaccard >= np.partition(jaccard, -n_others)[-n_others]
                other, both, jaccard = other[near], both[near], jaccard[near]
            best = np.lexsort((other, -jaccard))[:n_others]
            best = best[jaccard[best] > 0]
            features.append(np.full(len(best), feature, np.int32))
            ranks.append(np.arange(len(best), dtype=np.int16))
            others.append(other[best].astype(np.int32))
            boths.append(both[best])
            jaccards.append(jaccard[best].astype(np.float32))
    columns = [np.concatenate(column) for column in (features, ranks, others, boths, jaccards)]
    return pa.table(columns, schema=COFIRING)


def _blocks(fires: csr_array, by_token: csr_array) -> Iterator[tuple[int, int]]:
    """Ranges of features whose rows of ``A @ A.T`` hold at most about ``_BLOCK_PAIRS`` entries together."""
    per_token = np.diff(by_token.indptr).astype(np.int64)
    work = np.concatenate([[0], np.cumsum(per_token[fires.indices])])
    d_sae = len(fires.indptr) - 1
    entries = np.minimum(np.diff(work[fires.indptr]), d_sae)
    first = 0
    total = np.concatenate([[0], np.cumsum(entries)])
    while first < d_sae:
        last = int(np.searchsorted(total, total[first] + _BLOCK_PAIRS, side="right")) - 1
        last = min(max(last, first + 1), d_sae)
        yield first, last
        first = last
