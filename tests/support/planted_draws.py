"""Excerpts of the planted features drawn over and over as a run draws them, without a model and without a cache.

The features follow rules, so that their activations are known from the text alone (:func:`planted.strengths`); all else
is what a run does: :class:`~raylens.store.example_reader.ExampleReader` splits, samples and cuts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import planted
from raylens.config import ExampleConfig
from raylens.examples.excerpt import ExampleSets
from raylens.ids import SaeId
from raylens.store.example_reader import ExampleReader
from raylens.store.reader import CacheReader

Rows = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


class Written:
    """What :class:`ExampleReader` asks of a cache, answered from the documents: a window each, after one prefix token.

    Args:
        documents: As :func:`planted.documents` makes them.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self.cache_id = "written"
        self.holds_all = True
        self.info: dict[str, Any] = {"prefix_ids": [0], "identity": {"pack": False}}
        self.texts = list(documents)
        self._tokens = [planted.tokenize(text) for text in documents]
        self._strengths = planted.strengths(documents)

    def d_sae(self, _: SaeId) -> int:
        return planted.DEAD + 1

    def window_sizes(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        sizes = np.array([len(tokens) + 1 for tokens in self._tokens], np.int32)
        return np.arange(len(sizes), dtype=np.int32), sizes

    def rows(self, _: SaeId, feature: int) -> Rows:
        fires = [np.flatnonzero(strength[:, feature]) for strength in self._strengths]
        window = np.repeat(np.arange(len(fires), dtype=np.int32), [len(at) for at in fires])
        activation = [strength[at, feature] for strength, at in zip(self._strengths, fires, strict=True)]
        return window, np.concatenate(fires).astype(np.int32) + 1, np.concatenate(activation)

    def windows(self, window_ids: Sequence[int], _: Sequence[str]) -> pa.Table:
        starts = [np.cumsum([0, 0, *map(len, self._tokens[i])])[:-1].astype(np.int32) for i in window_ids]
        return pa.table(
            {
                "doc_id": pa.array(window_ids, pa.int32()),
                "start": pa.array([0] * len(window_ids), pa.int32()),
                "token_ids": pa.array([np.zeros(len(one), np.int32) for one in starts], pa.list_(pa.int32())),
                "token_offsets": pa.array(starts, pa.list_(pa.int32())),
                "text": [self.texts[i] for i in window_ids],
            }
        )


def draws(n: int, texts: int = 4, n_documents: int = 800) -> Iterator[list[ExampleSets]]:
    """Example sets of every planted feature, by number, with a run's defaults; ``n`` times.

    Each time other excerpts are drawn, and of other documents: of ``texts`` corpora in turn, split otherwise whenever
    one is used again.
    """
    corpora = [Written(planted.documents(n_documents, seed=7 + text)) for text in range(min(texts, n))]
    for draw in range(n):
        cache = cast(CacheReader, corpora[draw % len(corpora)])
        config = ExampleConfig(min_examples=100, seed=22 + draw // len(corpora))
        reader = ExampleReader(cache, SaeId.parse(f"planted/{draw}"), config)
        found = [one for _, one in reader.sets(range(planted.DEAD))]
        assert all(isinstance(one, ExampleSets) for one in found)
        yield cast(list[ExampleSets], found)
