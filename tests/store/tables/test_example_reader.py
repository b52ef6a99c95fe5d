"""Example sets out of a cache equal what a filter over all its rows gives, and never mix documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raylens.config import ExampleConfig
from raylens.errors import InputError
from raylens.examples.excerpt import ExampleSets, Excerpt
from raylens.examples.sampling import is_test_document
from raylens.ids import SaeId
from raylens.store import parquet
from raylens.store.example_reader import Drawn, ExampleReader, Negatives, Unusable
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")
LENGTH = 4
CONFIG = ExampleConfig(
    example_ctx_len=LENGTH, center_examples=False, n_examples_train=6, n_examples_test=5, n_non_activating=7,
    min_examples=10, seed=3,
)  # fmt: skip


@pytest.fixture
def corpus(local_workspace: Workspace, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(parquet, "ACTIVATIONS", replace(parquet.ACTIVATIONS, group_rows=30))
    made = build(local_workspace, shard_windows=(30, 31, 29), d_sae=24, density=0.06)
    made.cache.write_info({"identity": {"pack": False}, "prefix_ids": [0], "name": None})
    made.merge()
    return made


def examples(workspace: Workspace, corpus: Any, config: ExampleConfig = CONFIG, **options: Any) -> ExampleReader:
    return ExampleReader(CacheReader(workspace, corpus.cache.cache_id), SAE, config, **options)


def pieces_of(corpus: Any, feature: int) -> dict[tuple[int, int], float]:
    """The oracle: peak by (window, piece)."""
    found: dict[tuple[int, int], float] = {}
    for one, _, window, position, activation in corpus.ordered:
        if one == feature and position > 0:
            key = (window, (position - 1) // LENGTH)
            found[key] = max(found.get(key, 0.0), activation)
    return found


def check(corpus: Any, feature: int, excerpt: Excerpt) -> None:
    """Tokens and activations are those of the cache at that place."""
    first = 1 + excerpt.start
    ids = range(first, min(first + LENGTH, int(corpus.lengths[excerpt.window_id])))
    assert excerpt.token_ids.tolist() == list(ids)
    assert excerpt.tokens == tuple(f"w{k} " for k in ids)
    stored = {
        position: activation
        for one, _, window, position, activation in corpus.ordered
        if (one, window) == (feature, excerpt.window_id)
    }
    assert excerpt.activations.tolist() == [stored.get(k, 0.0) for k in ids]


def test_every_excerpt_is_what_the_cache_holds(local_workspace: Workspace, corpus: Any) -> None:
    usable = 0
    for feature, found in examples(local_workspace, corpus).sets(range(24), batch=5):
        pieces = pieces_of(corpus, feature)
        if isinstance(found, Unusable):
            assert found.n_pieces == len(pieces) < CONFIG.min_examples
            assert found.status == ("too_few" if pieces else "dead")
            continue
        usable += 1
        assert found.max_activation == max(pieces.values())
        assert found.rate == len(pieces) / sum(-(-(int(n) - 1) // LENGTH) for n in corpus.lengths)
        sides = ((found.train, found.train_negatives, False, 6), (found.test, found.test_negatives, True, 5))
        for shown, silent, is_test, n in sides:
            own = {
                key: peak for key, peak in pieces.items() if is_test_document(np.array([key[0] // 3]), 3)[0] == is_test
            }
            assert len(shown) == min(n, len(own))
            assert len({(one.window_id, one.start) for one in shown}) == len(shown)
            assert [one.peak for one in shown] == sorted((one.peak for one in shown), reverse=True)
            assert len({(one.window_id, one.start) for one in silent}) == len(silent) == 7
            for one in [*shown, *silent]:
                assert is_test_document(np.array([one.doc_id]), 3)[0] == is_test
                assert one.doc_id == one.window_id // 3
                check(corpus, feature, one)
            assert all(one.is_active and one.quantile is not None for one in shown)
            assert not any(one.is_active for one in silent)
            assert all(len(one.tokens) == LENGTH for one in silent), "a short one would give itself away"
    assert usable > 10


def test_batches_and_reruns_give_the_same_and_features_differ(local_workspace: Workspace, corpus: Any) -> None:
    def places(batch: int, features: range, seed: int = 3) -> list[Any]:
        reader = examples(local_workspace, corpus, CONFIG.model_copy(update={"seed": seed}))
        found = reader.sets(features, batch)
        return [
            [(e.window_id, e.start) for e in (*one.train, *one.test, *one.test_negatives)]
            for _, one in found
            if isinstance(one, ExampleSets)
        ]

    whole = places(32, range(24))
    assert places(1, range(24)) == places(7, range(24)) == whole
    assert places(4, range(24), seed=4) != whole


def test_centred_excerpts_reach_into_the_windows_beside(local_workspace: Workspace, corpus: Any) -> None:
    centred = CONFIG.model_copy(update={"center_examples": True})
    reader = examples(local_workspace, corpus, centred)
    found = next(one for _, one in reader.sets(range(24)) if isinstance(one, ExampleSets))
    # Windows of this corpus do not go on in one another, so that an excerpt ends with its window.
    for one in (*found.train, *found.test):
        assert one.is_active
        assert len(one.tokens) == min(LENGTH, int(corpus.lengths[one.window_id]) - 1)
        assert one.token_ids.tolist() == list(range(1 + one.start, 1 + one.start + len(one.tokens)))


def test_another_source_of_negatives_is_asked(local_workspace: Workspace, corpus: Any) -> None:
    asked: list[Drawn] = []

    def last(drawn: Drawn) -> Negatives:
        asked.append(drawn)
        return Negatives(np.setdiff1d(drawn.candidates, drawn.active)[-drawn.n :], len(asked))

    reader = examples(local_workspace, corpus, negatives=lambda _: last)
    found = next(one for _, one in reader.sets(range(24)) if isinstance(one, ExampleSets))
    train, test = asked[:2]
    assert found.n_random == 1 + 2, "of both sides"
    assert (np.isin(train.shown, train.active)).all()
    assert not np.isin(train.candidates, test.candidates).any()
    assert reader.active_numbers(train.feature).tolist() == train.active.tolist()
    silent = np.setdiff1d(test.candidates, test.active)[-7:]
    windows, _ = reader.universe.places(silent)
    assert [one.window_id for one in found.test_negatives] == windows.tolist()
    for one, plain in zip(found.test_negatives, reader.excerpts(silent), strict=True):
        assert (one.tokens, plain.is_active) == (plain.tokens, False)


def test_what_cannot_be_split_is_refused(local_workspace: Workspace, corpus: Any) -> None:
    corpus.cache.write_info({"identity": {"pack": True}, "prefix_ids": [0], "name": None})
    with pytest.raises(InputError, match="was packed"):
        examples(local_workspace, corpus)
    corpus.cache.write_info({"identity": {"pack": False}, "prefix_ids": [0], "name": None})
    with pytest.raises(InputError, match=r"excerpts of 32 tokens do not fit.*has \d+ tokens of text"):
        examples(local_workspace, corpus, CONFIG.model_copy(update={"example_ctx_len": 32}))
    with pytest.raises(InputError, match="features of this SAE are 0 to 23"):
        list(examples(local_workspace, corpus).sets([24]))
