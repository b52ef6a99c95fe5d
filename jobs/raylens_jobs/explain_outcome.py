"""What came of asking a model what features mean, by the figures that :func:`raylens_jobs.explain.run_explain` returns.

Without Ray, so that whoever shows figures starts without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylens.errors import RunError


def without_explanation(figures: Mapping[str, Any]) -> int:
    """How many features a model was asked about in vain."""
    return _statuses(figures).get("failed", 0) + figures["unanswered"]


def nothing_explained(figures: Mapping[str, Any]) -> RunError | None:
    """The error of a run that asked a model and came out with no explanation at all; None of any other.

    So too where an earlier run had asked, and what it was answered could not be read: nothing is asked again.
    """
    failed = without_explanation(figures)
    if not failed or _statuses(figures).get("ok"):
        return None
    said = f"none of {failed:,} features that a model was asked about has an explanation"
    if "settled" in figures:
        return RunError(
            f"{said}: what it answered before could not be read.", hint="another seed, explainer or model asks anew."
        )
    reason = next(iter(figures.get("lost", {})), "no reason was noted").rstrip(".")
    return RunError(
        f"{said}: {reason}.",
        hint="see whether the endpoint and its model are what you meant; unanswered ones are asked about again.",
    )


def _statuses(figures: Mapping[str, Any]) -> Mapping[str, int]:
    return figures.get("settled", figures["statuses"])
