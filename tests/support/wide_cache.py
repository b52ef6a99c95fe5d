"""A cache of an SAE as wide as is wanted: a few thousand features fire, all others are dead."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raylens import schema
from raylens.ids import SaeId
from raylens.store.compact import merge_documents, merge_windows
from raylens.store.merge import merge_ranges, merge_statistics, plan_merge
from raylens.store.publish import finish_merge
from raylens.store.shards import write_shard
from raylens.store.windows import write_windows_shard
from raylens.store.workspace import CacheStore, Workspace

WIDE = SaeId("wide-res", "layer_3")
WIDE_CACHE = "f" * 16


def make_wide_cache(workspace: Workspace, d_sae: int, n_firing: int = 5000) -> CacheStore:
    """Feature ``i * (d_sae // n_firing)`` fires in window ``i % 8``, with ``1 + i / n_firing``."""
    cache = workspace.cache(WIDE_CACHE)
    cache.write_info({"model": "raylens/tiny", "name": "wide", "prefix_ids": [0]})
    cache.write_sae(WIDE, {"spec": {"layer": 3, "hook": "resid_post.3", "neuronpedia_id": None}})
    n, words = 8, [f"w{place} " for place in range(1, 6)]
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
    at = np.arange(n_firing)
    window, feature = (at % n).astype(np.int32), (at * (d_sae // n_firing)).astype(np.int32)
    order = np.lexsort((window, feature))
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
            WIDE,
            "abc",
            d_sae=d_sae,
            window_first=0,
            n_windows=n,
            n_text_tokens=5 * n,
            n_special_tokens=n,
            feature=feature[order],
            window_id=window[order],
            position=np.ones(n_firing, np.int16),
            activation=(1 + at / n_firing).astype(np.float32)[order],
            special=np.zeros(n_firing, np.bool_),
        )
        plan = plan_merge(WIDE, [row])
        entries = [merge_windows(cache, [shard], 0), merge_documents(cache, [shard])]
        entries += [*merge_ranges(cache, plan, range(plan.n_ranges)), merge_statistics(cache, plan)]
        finish_merge(cache, lock, windows=[shard], merges=[plan], entries=entries)
    return cache
