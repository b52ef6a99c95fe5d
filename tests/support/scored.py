"""Passes of explanations with the scores of each, of the small cache's features, as the jobs leave them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from explained import explanation, score
from raylens import schema
from raylens.ids import SaeId
from raylens.store.findings import Findings
from raylens.store.workspace import CacheStore
from small_cache import SAE


def write_scored(
    cache: CacheStore,
    explainer: str,
    explanations: Sequence[dict[str, Any]],
    scores: Sequence[dict[str, Any]],
    sae: SaeId = SAE,
) -> None:
    """Rows of one explainer's pass, and of the pass that scored it."""
    said = Findings(cache, sae, "explanations", {"explainer": explainer})
    _write(said, pa.Table.from_pylist(list(explanations), schema.EXPLANATIONS))
    _write(
        Findings(cache, sae, "scores", {"explanations": said.pass_id}),
        pa.Table.from_pylist(list(scores), schema.SCORES),
    )


def two_explainers(cache: CacheStore) -> None:
    """``lexical``: four features, of which two are above the thresholds; ``default``: one, scored by surprisal."""
    shared = {"explainer": "lexical", "model": None}
    said = [explanation(f, f"words about {f}", **shared) for f in range(4)]
    said += [explanation(f, None, status="too_few", error=None, **shared) for f in (4, 5)]
    said += [explanation(6, None, error="<script>no answer</script>", **shared)]
    values = {0: (0.9, 0.95, 0.9), 1: (0.8, 0.9, 0.7), 2: (0.5, 0.4, 0.6), 3: (0.1, 0.2, 0.05)}
    scores = []
    for feature, (f1, precision, recall) in values.items():
        for metric, value in (("f1", f1), ("precision", precision), ("recall", recall)):
            row = {"scorer": "rule", "metric": metric, "judge": None, "explainer": "lexical", "n": 20, "n_failed": 1}
            scores.append(score(feature, value, **row))
            scores.append(score(feature, value / 10, control="shuffled", **row))
    write_scored(cache, "lexical", said, scores)
    gain = score(1, 0.25, scorer="surprisal", metric="gain", judge=None, explanation_id="d1")
    write_scored(cache, "default", [explanation(1, "other words", explanation_id="d1")], [gain])


def _write(found: Findings, rows: pa.Table) -> None:
    found.begin()
    found.write(sorted(set(rows["feature"].to_pylist())), rows)
