"""Explaining a batch of features a task: by rules, or as requests to a language model; no torch is imported here.

A worker keeps the reader of the last few caches open, so that a batch costs its own examples and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray

from raylens import schema
from raylens.chat import Request
from raylens.config import ExampleConfig
from raylens.errors import InputError
from raylens.explain.explainers import EXPLAINERS, FeatureFacts
from raylens.explain.lexical import explain_lexically
from raylens.explain.prompts import Prompts
from raylens.ids import SaeId, digest
from raylens.store.example_reader import TRAIN, ExampleReader, Part, Unusable
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace
from raylens_jobs.negatives import negative_source
from raylens_jobs.passes import Pass


@dataclass(frozen=True, slots=True)
class ToAsk:
    """What is asked about one feature, or why nothing is.

    Attributes:
        feature: Which.
        request: None where the feature is settled without asking.
        n_examples: Activating excerpts that it shows.
        trimmed: Whether more would have been shown, were there room.
        n_tokens: Of the request and its answer, as estimated.
        status: Of a feature that is settled.
        error: Likewise.
        n_random: Silent excerpts shown that are random where nearer ones were wanted.
    """

    feature: int
    request: Request | None
    n_examples: int
    trimmed: bool
    n_tokens: int = 0
    status: str = ""
    error: str = ""
    n_random: int = 0


@ray.remote(num_cpus=1)
def explain_batch(of: Pass, features: list[int]) -> tuple[dict[str, int], int]:
    """Explain some features by rules and store the rows.

    Returns:
        How many ended with each status, and how many silent excerpts were random where nearer ones were wanted.
    """
    rows: list[dict[str, Any]] = []
    n_random = 0
    now = datetime.now(UTC)
    for feature, sets in examples_of(of).sets(features, len(features), TRAIN):
        row: dict[str, Any] = {"feature": feature, "run_id": of.run_id, "explainer": "lexical", "created_at": now}
        if isinstance(sets, Unusable):
            rows.append(row | {"status": sets.status, "error": sets.reason, "n_examples": 0, "trimmed": False})
            continue
        n_random += sets.n_random
        found = explain_lexically(sets)
        row |= {"n_examples": len(sets.train), "trimmed": False}
        if found is None:
            rows.append(row | {"status": "not_found", "error": "no rule over tokens tells its excerpts from others"})
            continue
        said = {"explanation": found.phrase, "rule": found.rule.to_json()}
        rows.append(row | said | {"status": "ok", "explanation_id": explanation_id(of, feature, said)})
    of.findings().write(features, pa.Table.from_pylist(rows, schema=schema.EXPLANATIONS))
    statuses = [row["status"] for row in rows]
    return {status: statuses.count(status) for status in set(statuses)}, n_random


def explanation_id(of: Pass, feature: int, said: dict[str, Any]) -> str:
    """16 hexadecimal digits of what is said, of what, and how that was made."""
    return digest({"cache": of.cache_id, "sae": of.sae, "feature": feature, **of.settings, **said})[:16]


@ray.remote(num_cpus=1)
def requests_batch(of: Pass, features: list[int], explainer: str, prompts: Prompts, max_len: int) -> list[ToAsk]:
    """What a language model is asked about some features, each with as many examples as fit in ``max_len`` tokens."""
    asks = EXPLAINERS[explainer]
    facts = _facts(of, features, promoted=asks.shows_promoted)
    found: list[ToAsk] = []
    parts: tuple[Part, ...] = TRAIN if asks.n_negatives else ("train",)
    for feature, sets in examples_of(of).sets(features, len(features), parts):
        if isinstance(sets, Unusable):
            found.append(ToAsk(feature, None, 0, trimmed=False, status=sets.status, error=sets.reason))
            continue
        try:
            fitted = asks.fitted(facts.get(feature, FeatureFacts()), sets, prompts, max_len, estimated_tokens)
        except InputError as error:
            found.append(ToAsk(feature, None, 0, trimmed=False, status="failed", error=error.message))
            continue
        needs = fitted.n_tokens + fitted.request.max_tokens
        found.append(
            ToAsk(
                feature,
                fitted.request,
                fitted.n_shown,
                trimmed=fitted.trimmed,
                n_tokens=needs,
                n_random=sets.n_random,
            )
        )
    return found


def estimated_tokens(text: str) -> int:
    """Tokens of ``text`` in whatever tokenizer the other side has, rather too many than too few: a third of its bytes.

    An endpoint does not tell before it is asked; where it says that a request was too long after all, the
    request is trimmed further.
    """
    return -(-len(text.encode("utf-8", "replace")) // 3)


def _facts(of: Pass, features: list[int], *, promoted: bool) -> dict[int, FeatureFacts]:
    reader, sae = examples_of(of).reader, SaeId.parse(of.sae)
    stats = reader.rows_of("feature_stats", sae, features, ["feature", "density"])
    assert stats is not None
    density = dict(zip(stats["feature"].to_pylist(), stats["density"].to_pylist(), strict=True))
    tokens: dict[int, list[str]] = {}
    logits = reader.rows_of("logits", sae, features) if promoted else None
    if logits is not None:
        for row in logits.sort_by("rank").to_pylist():
            if row["sign"] == "top":
                tokens.setdefault(row["feature"], []).append(row["token"])
    return {feature: FeatureFacts(density[feature], tuple(tokens.get(feature, ()))) for feature in density}


def examples_of(of: Pass) -> ExampleReader:
    """The examples of a pass, of a reader that stays open."""
    return _opened(of.url, of.cache_id, of.sae, of.config.model_dump_json(), digest(of.settings))


@lru_cache(maxsize=4)
def _opened(url: str, cache_id: str, sae: str, config: str, _: str) -> ExampleReader:
    """Keyed by the pass's settings too, which name what the cache held: a merge since then is read anew."""
    reader, sae_id = CacheReader(Workspace.open(url), cache_id), SaeId.parse(sae)
    how = ExampleConfig.model_validate_json(config)
    return ExampleReader(reader, sae_id, how, negative_source(reader, sae_id, how))
