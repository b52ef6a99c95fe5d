"""Explanations and scores that delphi wrote, as passes of their own.

Its own figures are aggregates over all latents, in which failed answers vanish; here they are computed anew from
its answers, a latent at a time, with intervals and with what was not answered counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pyarrow as pa

from raylens.config import ExampleConfig
from raylens.ids import digest
from raylens.schema import EXPLANATIONS, SCORES
from raylens.score.metrics import classification
from raylens.store.findings import Findings
from raylens.store.workspace import CacheStore
from raylens_jobs.delphi_plan import ImportPlan

EXPLAINER: Final = "delphi"
_FINDINGS: Final = 4096
_OVERALL: Final = 0  # the group of a simulation that holds all of its excerpts


def write_findings(cache: CacheStore, plan: ImportPlan, number: int, run_id: str) -> dict[str, Any]:
    """Explanations and scores of one SAE as passes of their own; returns how many there are."""
    sae, explained, scored = plan.saes[number], plan.explained[number], plan.scored[number]
    model = plan.run.config.get("explainer_model")
    settings: dict[str, Any] = {
        "explainer": EXPLAINER,
        "model": model,
        "imported": digest({"texts": [[one.latent, one.text] for one in explained]})[:16],
        # Which rows delphi's explainer saw is not known; scorers of RayLens use these.
        "examples": ExampleConfig().model_dump(mode="json"),
    }
    counts: dict[str, Any] = {
        "explanations": sum(one.text is not None for one in explained),
        "unparsed": sum(one.text is None for one in explained),
        "scores": {},
        "unknown": [],
    }
    rows: dict[int, dict[str, Any]] = {}
    for one in explained:
        about = {"feature": one.latent, "run_id": run_id, "explainer": EXPLAINER, "model": model, "created_at": one.at}
        about["trimmed"] = False
        if one.text is None:
            rows[one.latent] = about | {"status": "failed", "error": "delphi could not parse the reply"}
        else:
            key = {"cache": cache.cache_id, "sae": str(sae), "feature": one.latent, "text": one.text, **settings}
            rows[one.latent] = about | {
                "status": "ok",
                "explanation": one.text,
                "explanation_id": digest(key)[:16],
            }
    if rows:
        _write(
            Findings(cache, sae, "explanations", settings), rows, {f: [row] for f, row in rows.items()}, EXPLANATIONS
        )
    for scorer, by_latent in scored.items():
        found = {latent: score_rows(answers) for latent, answers in by_latent.items()}
        if any(one is None for one in found.values()):
            counts["unknown"].append(scorer)
            continue
        # What was scored in place of an explanation that could not be parsed says nothing.
        kept = {latent: one for latent, one in found.items() if latent in rows and rows[latent]["status"] == "ok"}
        of_latent = {
            latent: [
                {
                    "feature": latent,
                    "explanation_id": rows[latent]["explanation_id"],
                    "run_id": run_id,
                    "explainer": EXPLAINER,
                    "scorer": scorer,
                    "judge": model,
                    **figure,
                }
                for figure in figures or ()
            ]
            for latent, figures in kept.items()
        }
        if of_latent:
            content = digest({"scores": [[latent, by_latent[latent]] for latent in sorted(of_latent)]})[:16]
            pass_ = Findings(cache, sae, "scores", {**settings, "scorers": [scorer], "scored": content})
            _write(pass_, of_latent, of_latent, SCORES)
        counts["scores"][scorer] = len(of_latent)
    return counts


def _write(findings: Findings, features: Any, rows: dict[int, list[dict[str, Any]]], schema: pa.Schema) -> None:
    findings.begin()
    settled, ordered = findings.settled(), sorted(features)
    missing = [feature for feature in ordered if feature not in settled]
    for begin in range(0, len(missing), _FINDINGS):
        some = missing[begin : begin + _FINDINGS]
        findings.write(some, pa.Table.from_pylist([row for one in some for row in rows[one]], schema))


def score_rows(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Columns ``metric``, ``value``, ``ci_low``, ``ci_high``, ``n``, ``n_failed`` of one latent's answers.

    Args:
        answers: As delphi wrote them: an excerpt each (detection, fuzz), or a group of excerpts (simulation).

    Returns:
        None where the answers are of a kind whose figures cannot be told: ``embedding`` and ``surprisal`` do not
        say which excerpts fire.
    """
    if all("activating" in one and "prediction" in one for one in answers):
        return _classified(answers)
    if all("ev_correlation_score" in one for one in answers):
        return _simulated(answers)
    return None


def _classified(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    answered = [one for one in answers if one["prediction"] is not None]
    probabilities = np.array([_number(one.get("probability")) for one in answered], np.float64)
    found = classification(
        np.array([bool(one["activating"]) for one in answered], np.bool_),
        np.array([bool(one["prediction"]) for one in answered], np.bool_),
        probabilities=probabilities if len(probabilities) and not np.isnan(probabilities).all() else None,
        n_failed=len(answers) - len(answered),
    )
    rows = [asdict(one) for one in found]
    return [{"metric": row.pop("name"), **row} for row in rows]


def _simulated(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups = [one for one in answers if one.get("distance") == _OVERALL] or list(answers)[:1]
    if not groups:
        return []
    value = _number(groups[0]["ev_correlation_score"])
    n = len(groups[0].get("scored_sequence_simulations") or ())
    known = None if math.isnan(value) else value
    return [{"metric": "correlation", "value": known, "ci_low": None, "ci_high": None, "n": n, "n_failed": 0}]


def _number(value: object) -> float:
    """NaN of what is none, as delphi writes ``"nan"`` and null."""
    try:
        return float(value)  # pyright: ignore[reportArgumentType]  (whatever JSON holds)
    except (TypeError, ValueError):
        return math.nan
