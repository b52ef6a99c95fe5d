"""Explanations and scores in a cache, as explainers and scorers leave them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raylens import schema
from raylens.ids import SaeId
from raylens.store.findings import Findings
from raylens.store.workspace import CacheStore
from small_cache import SAE

AT = datetime(2026, 1, 2, tzinfo=UTC)


def explanation(feature: int, text: str | None, **more: Any) -> dict[str, Any]:
    """A row of ``schema.EXPLANATIONS``; one without a text failed."""
    row = {"feature": feature, "explanation_id": f"e{feature}", "run_id": "explain-1", "explainer": "default"}
    row |= {"model": "llm", "explanation": text, "status": "ok" if text else "failed", "created_at": AT}
    return row | more


def score(feature: int, value: float | None, **more: Any) -> dict[str, Any]:
    """A row of ``schema.SCORES``."""
    row = {"feature": feature, "explanation_id": f"e{feature}", "run_id": "score-1", "explainer": "default"}
    row |= {"scorer": "detection", "judge": "llm", "control": None, "metric": "f1", "value": value}
    return row | {"ci_low": None, "ci_high": None, "n": 10, "n_failed": 0} | more


def write(
    cache: CacheStore,
    name: str,
    explanations: Sequence[dict[str, Any]] = (),
    scores: Sequence[dict[str, Any]] = (),
    sae: SaeId = SAE,
) -> None:
    """Write rows as one pass called ``name``, a file of each kind."""
    for kind, rows, table in (
        ("explanations", explanations, schema.EXPLANATIONS),
        ("scores", scores, schema.SCORES),
    ):
        if rows:
            found = Findings(cache, sae, kind, {"name": name})  # pyright: ignore[reportArgumentType]  (a kind)
            found.begin()
            found.write(sorted({row["feature"] for row in rows}), pa.Table.from_pylist(list(rows), table))
