"""Co-firing features equal a count over all pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raylens.errors import DamagedFileError
from raylens.schema import COFIRING
from raylens.store import cofiring as module
from raylens.store.cofiring import cofiring
from raylens.store.workspace import Workspace


def oracle(corpus: Any, n_others: int, kept: np.ndarray | None = None) -> list[tuple]:
    """Every pair of features counted over dense arrays, ties by index."""
    rows = corpus.rows
    keep = ~rows.special if kept is None else ~rows.special & kept
    fires = np.zeros((corpus.d_sae, len(corpus.lengths) * 1000), bool)
    fires[rows.feature[keep], rows.window_id[keep].astype(int) * 1000 + rows.position[keep]] = True
    found = []
    for feature in range(corpus.d_sae):
        others = []
        for other in range(corpus.d_sae):
            both = int((fires[feature] & fires[other]).sum())
            if other != feature and both:
                others.append((-both / int((fires[feature] | fires[other]).sum()), other, both))
        for rank, (jaccard, other, both) in enumerate(sorted(others)[:n_others]):
            found.append((feature, rank, other, both, np.float32(-jaccard)))
    return found


def rows_of(table: Any) -> list[tuple]:
    assert table.schema.equals(COFIRING)
    return list(zip(*table.to_pydict().values(), strict=True))


@pytest.mark.parametrize("n_others", [1, 10, 100])
def test_equals_a_count_over_all_pairs(workspace: Workspace, build: Callable[..., Any], n_others: int) -> None:
    corpus = build(workspace)
    found = cofiring(corpus.cache, corpus.sae, corpus.shards, n_others=n_others)
    assert rows_of(found) == oracle(corpus, n_others)
    assert rows_of(cofiring(corpus.cache, corpus.sae, corpus.shards[::-1], n_others=n_others)) == rows_of(found)


def test_blocks_of_any_size_give_the_same(
    local_workspace: Workspace, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = build(local_workspace)
    for pairs in (1, 50, 500):
        monkeypatch.setattr(module, "_BLOCK_PAIRS", pairs)
        assert rows_of(cofiring(corpus.cache, corpus.sae, corpus.shards)) == oracle(corpus, 10)


def test_a_sample_is_of_whole_shards(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, shard_windows=(3, 3, 3, 3))
    largest = max(shard.n_rows for shard in corpus.shards)
    found = rows_of(cofiring(corpus.cache, corpus.sae, corpus.shards, max_activations=largest))
    possible = [
        oracle(corpus, 10, (corpus.rows.window_id >= first) & (corpus.rows.window_id < first + 3))
        for first in (0, 3, 6, 9)
    ]
    assert found in possible
    drawn = {
        str(rows_of(cofiring(corpus.cache, corpus.sae, corpus.shards, max_activations=largest, seed=seed)))
        for seed in range(8)
    }
    assert len(drawn) > 1


def test_of_one_shard_too_large_a_part_is_taken(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, shard_windows=(20,))
    limit = corpus.shards[0].n_rows // 4
    found = rows_of(cofiring(corpus.cache, corpus.sae, corpus.shards, max_activations=limit))
    assert found == oracle(corpus, 10, corpus.rows.window_id < 20 * limit // corpus.shards[0].n_rows)


def test_nothing_fires(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, density=0.0)
    assert cofiring(corpus.cache, corpus.sae, corpus.shards).num_rows == 0


def test_a_damaged_shard_is_named(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, shard_windows=(4,))
    corpus.cache.files.commit(corpus.cache.shard_path(corpus.sae, "s0-0"), b"PAR1")
    with pytest.raises(DamagedFileError, match="s0-0"):
        cofiring(corpus.cache, corpus.sae, corpus.shards)
