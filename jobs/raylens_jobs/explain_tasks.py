"""Explaining and scoring without a language model, a batch of features a task; no torch is imported here.

A worker keeps the reader of the last few caches open, so that a batch costs its own examples and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray

from raylens import schema
from raylens.bundle.embedding import embed
from raylens.config import ExampleConfig
from raylens.examples.excerpt import ExampleSets
from raylens.explain.lexical import explain_lexically
from raylens.explain.matching import TokenBatch
from raylens.explain.rule import Rule
from raylens.ids import SaeId, digest
from raylens.score import embedding, rule
from raylens.score.metrics import Metric
from raylens.store.example_reader import ExampleReader, Unusable
from raylens.store.findings import FindingKind, Findings
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

SHUFFLED: Final = "shuffled"
"""``control`` of scores of another feature's explanation."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What all batches of one pass share; small enough to send with each."""

    url: str
    cache_id: str
    sae: str
    kind: FindingKind
    settings: dict[str, Any]
    config: ExampleConfig
    run_id: str

    def findings(self) -> Findings:
        cache = Workspace.open(self.url).cache(self.cache_id)
        return Findings(cache, SaeId.parse(self.sae), self.kind, self.settings)


@dataclass(frozen=True, slots=True)
class ToScore:
    """An explanation and the feature whose examples it is held against; its own, or as a control another's."""

    feature: int
    explanation_id: str
    explainer: str
    explanation: str
    rule: str | None
    control: str | None = None


@ray.remote(num_cpus=1)
def explain_batch(of: Pass, features: list[int]) -> dict[str, int]:
    """Explain some features by rules and store the rows; returns how many ended with each status."""
    rows: list[dict[str, Any]] = []
    now = datetime.now(UTC)
    for feature, sets in _examples(of).sets(features, len(features)):
        row: dict[str, Any] = {"feature": feature, "run_id": of.run_id, "explainer": "lexical", "created_at": now}
        if isinstance(sets, Unusable):
            rows.append(row | {"status": sets.status, "error": sets.reason, "n_examples": 0, "trimmed": False})
            continue
        found = explain_lexically(sets)
        row |= {"n_examples": len(sets.train), "trimmed": False}
        if found is None:
            rows.append(row | {"status": "not_found", "error": "no rule over tokens tells its excerpts from others"})
            continue
        said = {"explanation": found.phrase, "rule": found.rule.to_json()}
        key = {"cache": of.cache_id, "sae": of.sae, "feature": feature, **of.settings, **said}
        rows.append(row | said | {"status": "ok", "explanation_id": digest(key)[:16]})
    of.findings().write(features, pa.Table.from_pylist(rows, schema=schema.EXPLANATIONS))
    statuses = [row["status"] for row in rows]
    return {status: statuses.count(status) for status in set(statuses)}


@ray.remote(num_cpus=1)
def score_batch(of: Pass, items: list[ToScore], scorers: list[str]) -> int:
    """Score explanations of some features, their own and controls, and store the rows; returns how many features."""
    rows: list[dict[str, Any]] = []
    features = sorted({item.feature for item in items})
    for feature, sets in _examples(of).sets(features, len(features)):
        if isinstance(sets, Unusable):
            continue  # the cache has changed since; the explanation stays unscored
        for item in (item for item in items if item.feature == feature):
            about = {"feature": feature, "run_id": of.run_id, "explanation_id": item.explanation_id}
            about |= {"explainer": item.explainer, "control": item.control}
            for scorer in scorers:
                rows += [
                    about | {"scorer": scorer, "metric": one.name} | _values(one)
                    for one in _figures(scorer, item, sets)
                ]
    of.findings().write(features, pa.Table.from_pylist(rows, schema=schema.SCORES))
    return len(features)


def _values(metric: Metric) -> dict[str, Any]:
    return {key: value for key, value in asdict(metric).items() if key != "name"}


def _figures(scorer: str, item: ToScore, sets: ExampleSets) -> Sequence[Metric]:
    excerpts = [*sets.test, *sets.test_negatives]
    labels = np.array([one.is_active for one in excerpts], np.bool_)
    documents = np.array([one.doc_id for one in excerpts], np.int64)
    if scorer == "rule":
        if item.rule is None:
            return ()
        matches = TokenBatch.of(one.tokens for one in excerpts).matches(Rule.from_json(item.rule))
        rate = sets.rate if sets.rate is not None and 0 < sets.rate < 1 else None
        return rule.result(labels, matches, documents, base_rate=rate)
    vectors = embed([item.explanation, *(one.text for one in excerpts)])
    return embedding.result(vectors[0], vectors[1:], labels, documents)


def _examples(of: Pass) -> ExampleReader:
    return _opened(of.url, of.cache_id, of.sae, of.config.model_dump_json(), digest(of.settings))


@lru_cache(maxsize=4)
def _opened(url: str, cache_id: str, sae: str, config: str, _: str) -> ExampleReader:
    """Keyed by the pass's settings too, which name what the cache held: a merge since then is read anew."""
    reader = CacheReader(Workspace.open(url), cache_id)
    return ExampleReader(reader, SaeId.parse(sae), ExampleConfig.model_validate_json(config))
