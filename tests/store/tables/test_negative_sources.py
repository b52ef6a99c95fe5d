"""Hard negatives: where relatives fire, never where the feature does, filled up at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raylens import schema
from raylens.config import ExampleConfig
from raylens.errors import InputError
from raylens.examples.excerpt import ExampleSets
from raylens.ids import SaeId
from raylens.store.example_reader import ExampleReader
from raylens.store.negative_sources import NeighbourNegatives, given_relatives, stored_relatives
from raylens.store.publish import write_feature_table
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")
CONFIG = ExampleConfig(example_ctx_len=4, center_examples=False, n_non_activating=8, min_examples=10, seed=3)


def relative_of(feature: int) -> list[int]:
    return [(feature + 1) % 24, (feature + 2) % 24]


@pytest.fixture
def reader(local_workspace: Workspace, build: Callable[..., Any]) -> CacheReader:
    corpus = build(local_workspace, shard_windows=(40, 41, 39), d_sae=24, density=0.05)
    corpus.cache.write_info({"identity": {"pack": False}, "prefix_ids": [0], "name": None})
    rows = [(f, rank, other, 5, 0.5) for f in range(24) for rank, other in reversed(list(enumerate(relative_of(f))))]
    table = pa.Table.from_pylist(
        [dict(zip(schema.COFIRING.names, row, strict=True)) for row in rows], schema=schema.COFIRING
    )
    corpus.merge(tables=[write_feature_table(corpus.cache, SAE, "cofiring", table, {})])
    return CacheReader(local_workspace, corpus.cache.cache_id)


def drawn(reader: CacheReader, source: Callable[[ExampleReader], Any]) -> tuple[ExampleReader, dict[int, ExampleSets]]:
    plain = ExampleReader(reader, SAE, CONFIG)
    found = ExampleReader(reader, SAE, CONFIG, lambda _: source(plain)).sets(range(24))
    return plain, {feature: one for feature, one in found if isinstance(one, ExampleSets)}


def numbers(reader: ExampleReader, excerpts: Any) -> list[int]:
    return [int(reader.universe.first[one.window_id]) + one.start // 4 for one in excerpts]


def test_co_firing_features_give_the_negatives(reader: CacheReader) -> None:
    plain, found = drawn(
        reader, lambda plain: NeighbourNegatives(stored_relatives(reader, SAE, "co-occurrence"), plain.active_numbers)
    )
    assert len(found) > 10
    exact = 0
    for feature, sets in found.items():
        own = set(plain.active_numbers(feature).tolist())
        related = set(np.concatenate([plain.active_numbers(one) for one in relative_of(feature)]).tolist())
        for silent in (sets.train_negatives, sets.test_negatives):
            taken = numbers(plain, silent)
            assert len(taken) == len(set(taken)) == 8
            assert not own & set(taken)
            if not sets.n_random:
                assert set(taken) <= related
                exact += 1
    assert exact > 10


def test_too_few_are_filled_up_at_random_and_counted(reader: CacheReader) -> None:
    _, found = drawn(
        reader, lambda plain: NeighbourNegatives(given_relatives({3: [3], 4: [4, 5]}), plain.active_numbers)
    )
    assert found[3].n_random == 16, "a feature's own pieces are no negatives"
    assert 4 not in found or found[4].n_random < 16
    assert all(len(sets.test_negatives) == 8 for sets in found.values())
    assert not any(one.is_active for sets in found.values() for one in sets.test_negatives)


def test_a_table_that_was_not_made_is_said(reader: CacheReader) -> None:
    with pytest.raises(InputError, match="has no neighbours of pico-res/layer_3"):
        stored_relatives(reader, SAE, "decoder")
    with pytest.raises(InputError, match="has no encoder_neighbours of pico-res/layer_3"):
        stored_relatives(reader, SAE, "encoder")
