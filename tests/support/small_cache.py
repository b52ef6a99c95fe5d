"""A small merged cache with statistics, logits and neighbours, made with the store's own writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from raylens import schema
from raylens.ids import SaeId
from raylens.store.compact import merge_documents, merge_windows
from raylens.store.merge import merge_ranges, merge_statistics, plan_merge
from raylens.store.publish import finish_merge, write_feature_table
from raylens.store.shards import write_shard
from raylens.store.windows import write_windows_shard
from raylens.store.workspace import CacheStore, Workspace

SAE = SaeId("tiny-res", "layer_3")
CACHE_ID = "0123456789abcdef"
D_SAE = 12


def make_cache(
    workspace: Workspace,
    *,
    sae: SaeId = SAE,
    cache_id: str = CACHE_ID,
    scale: float = 1.0,
    tokens: Mapping[int, Sequence[str]] | None = None,
    mapped: bool = False,
    shard_name: str = "abc",
    neuronpedia_id: str | None = None,
) -> CacheStore:
    """Four windows ``BOS w1 … w5``; ``tokens`` are what some features promote, and ``mapped`` ones lie on a grid.

    A cache that is there already gets another generation, where ``shard_name`` is another one.

    Feature f < 4 fires in windows from f on, at position 1 + f, with ``scale * (window + 1)``; feature 5 on BOS alone.
    """
    cache = workspace.cache(cache_id)
    cache.write_info({"model": "raylens/tiny", "name": "tiny", "prefix_ids": [0]})
    cache.write_sae(sae, {"spec": {"layer": 3, "hook": "resid_post.3", "neuronpedia_id": neuronpedia_id}})
    n, words = 4, [f"w{place} " for place in range(1, 6)]
    offsets = [0, *np.cumsum([0, *map(len, words)])[:-1].tolist()]
    windows = [
        {"window_id": w, "doc_id": w, "start": 0, "token_ids": [0, 1, 2, 3, 4, 5], "token_offsets": offsets}
        | {"text": "".join(words)}
        for w in range(n)
    ]
    documents = [
        {"doc_id": w, "source": "stdlib", "domain": "lib", "path": f"lib/{w}.py", "split": "train", "n_tokens": 5}
        for w in range(n)
    ]
    rows = [(w, 1 + f, f, scale * (w + 1)) for w in range(n) for f in range(4) if w >= f]
    rows += [(w, 0, 5, 90.0) for w in range(n)]  # feature 5 fires on BOS alone
    window, position, feature, activation = map(np.array, zip(*sorted(rows), strict=True))

    def promoted(feature: int, sign: str) -> Sequence[str]:
        return (tokens or {}).get(feature) or [f" {sign}{rank}" for rank in range(2)]

    logits = [
        {"feature": f, "sign": sign, "rank": rank, "token_id": rank, "token": promoted(f, sign)[rank], "logit": value}
        for f in range(D_SAE)
        for sign, value in (("top", 2.0), ("bottom", -2.0))
        for rank in range(2)
    ]
    near = [
        {"feature": f, "rank": r, "neighbour": (f + 1 + r) % D_SAE, "cosine": 0.5 - r / 4}
        for f in range(D_SAE)
        for r in range(2)
    ]
    with cache.lock("test") as lock:
        shard = write_windows_shard(
            cache,
            0,
            pa.Table.from_pylist(windows, schema.WINDOWS),
            pa.Table.from_pylist(documents, schema.DOCUMENTS),
            n_special_tokens=n,
        )
        row = write_shard(
            cache,
            sae,
            shard_name,
            d_sae=D_SAE,
            window_first=0,
            n_windows=n,
            n_text_tokens=5 * n,
            n_special_tokens=n,
            feature=feature.astype(np.int32),
            window_id=window.astype(np.int32),
            position=position.astype(np.int16),
            activation=activation.astype(np.float32),
            special=position == 0,
        )
        plan = plan_merge(sae, [row])
        entries = [merge_windows(cache, [shard], 0), merge_documents(cache, [shard])]
        entries += [*merge_ranges(cache, plan, range(plan.n_ranges)), merge_statistics(cache, plan)]
        entries += [
            write_feature_table(cache, sae, "logits", pa.Table.from_pylist(logits, schema.LOGITS), {"made": "test"}),
            write_feature_table(cache, sae, "neighbours", pa.Table.from_pylist(near, schema.NEIGHBOURS), {"made": "t"}),
        ]
        if mapped:
            places = [{"feature": f, "x": float(f % 4), "y": float(f // 4)} for f in range(D_SAE)]
            entries.append(write_feature_table(cache, sae, "map", pa.Table.from_pylist(places, schema.MAP), {"m": "t"}))
        finish_merge(cache, lock, windows=[shard], merges=[plan], entries=entries)
    return cache
