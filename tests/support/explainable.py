"""A cache whose features can be explained and scored, made in a moment with the store's own writers: no model."""

from __future__ import annotations

import re

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

SAE = SaeId("words-res", "layer_3")
CACHE_ID = "fedcba9876543210"
N_FEATURES = 24
_N_WINDOWS, _LENGTH = 96, 32
_MARKED = re.compile(r"<<\s*word(\d+)\s*>>")


def make_explainable(workspace: Workspace) -> CacheStore:
    """Documents of one window of :data:`_LENGTH` words each; feature *n* fires on the word ``wordn``, and nowhere else.

    About every other document has a given word.
    """
    cache = workspace.cache(CACHE_ID)
    cache.write_info({"model": "words", "name": "words", "prefix_ids": [0], "identity": {"pack": False}})
    cache.write_sae(SAE, {"spec": {"layer": 3, "hook": "resid_post.3", "neuronpedia_id": None}})
    drawn = np.random.default_rng(1).integers(0, 2 * N_FEATURES, (_N_WINDOWS, _LENGTH))
    windows = [_window(at, [f" word{n}" for n in row]) for at, row in enumerate(drawn.tolist())]
    documents = [
        {"doc_id": at, "source": "words", "domain": "w", "path": f"{at}", "split": "train", "n_tokens": _LENGTH}
        for at in range(_N_WINDOWS)
    ]
    window, position = np.nonzero(drawn < N_FEATURES)
    feature = drawn[window, position]
    with cache.lock("test") as lock:
        shard = write_windows_shard(
            cache,
            0,
            pa.Table.from_pylist(windows, schema.WINDOWS),
            pa.Table.from_pylist(documents, schema.DOCUMENTS),
            n_special_tokens=_N_WINDOWS,
        )
        row = write_shard(
            cache,
            SAE,
            "abc",
            d_sae=N_FEATURES,
            window_first=0,
            n_windows=_N_WINDOWS,
            n_text_tokens=_N_WINDOWS * _LENGTH,
            n_special_tokens=_N_WINDOWS,
            feature=feature.astype(np.int32),
            window_id=window.astype(np.int32),
            position=(1 + position).astype(np.int16),
            activation=(5 + position / _LENGTH).astype(np.float32),
            special=np.zeros(len(feature), bool),
        )
        plan = plan_merge(SAE, [row])
        entries = [merge_windows(cache, [shard], 0), merge_documents(cache, [shard])]
        entries += [*merge_ranges(cache, plan, range(plan.n_ranges)), merge_statistics(cache, plan)]
        finish_merge(cache, lock, windows=[shard], merges=[plan], entries=entries)
    return cache


def feature_shown(prompt: str) -> int:
    """Of which feature an explainer's prompt shows excerpts."""
    found = _MARKED.search(prompt)
    assert found is not None, prompt
    return int(found[1])


def _window(at: int, words: list[str]) -> dict[str, object]:
    return {
        "window_id": at,
        "doc_id": at,
        "start": 0,
        "token_ids": [0, *(1 + int(word.removeprefix(" word")) for word in words)],
        "token_offsets": [0, *np.cumsum([0, *map(len, words[:-1])]).tolist()],
        "text": "".join(words),
    }
