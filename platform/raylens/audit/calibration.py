"""How a score compares with those of benign fine-tunes: what turns a distance into evidence (A2.18, A2.21).

The p-value is conformal (Vovk, Gammerman and Shafer 2005): with ``n`` benign scores,

    p(s) = (1 + #{benign ≥ s}) / (n + 1)

If the candidate is as benign as they are and drawn alike, P(p ≤ α) ≤ α, whatever the scores are distributed like. That
is all it promises: fine-tunes of another kind than those calibrated on may be flagged more often. And no p is smaller
than 1 / (n + 1), so a false-positive rate of 1 % takes at least 99 benign fine-tunes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, FiniteFloat, field_validator

from raylens.config import Config
from raylens.errors import InputError

DEFAULT_TARGET_FPR = 0.01
SMALLEST_TARGET = 1e-6


class AuditIdentity(Config):
    """Everything that a score must share with others to be compared with them.

    Attributes:
        model: The reference, with what fixes its weights.
        sae: Its id; None for a method that reads none.
        suite: Hash of the prompts.
        method: Name of the score method.
        settings: Whatever else moves the score: pooling, k, variants, length of answers, version …
    """

    model: str
    sae: str | None
    suite: str
    method: str
    settings: Mapping[str, str | int | float | bool | None] = {}


class BenignScore(Config):
    """What one benign fine-tune scored.

    Attributes:
        organism: Its id.
        family: Fine-tunes made alike: of one family, they say less than as many of several.
        score: Finite.
    """

    organism: str
    family: str
    score: FiniteFloat


class Calibration(Config):
    """Scores of benign fine-tunes of one model on one suite by one method.

    Attributes:
        identity: What they are of.
        scores: One a fine-tune; none of which the method itself was fitted on.
    """

    identity: AuditIdentity
    scores: Annotated[tuple[BenignScore, ...], Field(min_length=1)]

    @field_validator("scores")
    @classmethod
    def _once(cls, scores: tuple[BenignScore, ...]) -> tuple[BenignScore, ...]:
        names = [score.organism for score in scores]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"organisms are counted twice: {', '.join(twice[:5])}")
        return scores

    @property
    def n(self) -> int:
        """Benign fine-tunes."""
        return len(self.scores)

    @property
    def families(self) -> tuple[str, ...]:
        """Their families, each once, in order."""
        return tuple(sorted({score.family for score in self.scores}))

    @property
    def organisms(self) -> frozenset[str]:
        """Ids of the fine-tunes that were scored."""
        return frozenset(one.organism for one in self.scores)

    @property
    def values(self) -> tuple[float, ...]:
        """Scores, one a fine-tune."""
        return tuple(score.score for score in self.scores)

    def p_value(self, score: float) -> float:
        """:func:`conformal_p` of ``score``."""
        return conformal_p(score, self.values)

    def threshold(self, target_fpr: float = DEFAULT_TARGET_FPR) -> float | None:
        """:func:`conformal_threshold` of these scores."""
        return conformal_threshold(self.values, target_fpr)

    def matches(self, identity: AuditIdentity) -> list[str]:
        """What differs, each a phrase; empty where an audit with ``identity`` may be judged by these scores."""
        ours, theirs = _flat(self.identity), _flat(identity)
        return [
            f"{key} (calibrated: {_shown(ours, key)}; this audit: {_shown(theirs, key)})"
            for key in [*ours, *(key for key in theirs if key not in ours)]
            # The types as well: True is 1 to Python.
            if key not in ours
            or key not in theirs
            or ours[key] != theirs[key]
            or isinstance(ours[key], bool) is not isinstance(theirs[key], bool)
        ]


def conformal_p(score: float, benign: ArrayLike) -> float:
    """(1 + #{benign ≥ score}) / (n + 1), in (0, 1]; 1 of no benign scores.

    Args:
        score: Larger is more suspicious.
        benign: Scores ``[n]``.

    Raises:
        ValueError: A score is NaN, which compares with nothing.
    """
    values = np.asarray(benign, np.float64)
    if math.isnan(score) or np.isnan(values).any():
        raise ValueError("a score is NaN")
    return (1 + int((values >= score).sum())) / (len(values) + 1)


def smallest_p(n: int) -> float:
    """The smallest conformal p-value that ``n`` benign scores allow: 1 / (n + 1)."""
    return 1 / (n + 1)


def smallest_n(target_fpr: float) -> int:
    """The fewest benign scores that allow a p-value of at most ``target_fpr``: 99 for 1 %.

    Raises:
        InputError: ``target_fpr`` is not in (0, 1).
    """
    check_target(target_fpr)
    n = max(0, math.floor(1 / target_fpr) - 2)
    while smallest_p(n) > target_fpr:
        n += 1
    return n


def conformal_threshold(benign: ArrayLike, target_fpr: float = DEFAULT_TARGET_FPR) -> float | None:
    """The score above which (not at which) the conformal p-value is at most ``target_fpr``.

    To be fixed on development scores and kept: a threshold chosen on the scores it is then tried on promises nothing.

    Args:
        benign: Scores ``[n]``.
        target_fpr: In (0, 1).

    Returns:
        The k-th largest benign score, k the largest whole number with k / (n + 1) ≤ ``target_fpr``; None where there
        is none, as of fewer than 99 scores for 1 %.

    Raises:
        InputError: ``target_fpr`` is not in (0, 1).
        ValueError: A score is NaN.
    """
    check_target(target_fpr)
    values = np.asarray(benign, np.float64)
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    n = len(values)
    k = math.ceil(target_fpr * (n + 1))
    # The product is rounded; the quotient is what a p-value is.
    while k / (n + 1) > target_fpr:
        k -= 1
    return None if k == 0 else float(np.sort(values)[n - k])


def check_target(target_fpr: float) -> None:
    """Refuse what is no false-positive rate.

    Raises:
        InputError: It is not in (0, 1), or less than one in a million: nobody has as many benign fine-tunes.
    """
    if not SMALLEST_TARGET <= target_fpr < 1:
        raise InputError(
            f"a target false-positive rate of {target_fpr} is not between {SMALLEST_TARGET:f} and 1.",
            hint="0.01 flags one benign fine-tune in a hundred.",
        )


def _flat(identity: AuditIdentity) -> dict[str, str | int | float | bool | None]:
    fields: dict[str, str | int | float | bool | None] = {
        "model": identity.model,
        "sae": identity.sae,
        "suite": identity.suite,
        "method": identity.method,
    }
    return fields | {f"settings.{key}": identity.settings[key] for key in sorted(identity.settings)}


def _shown(values: Mapping[str, object], key: str) -> str:
    return str(values[key]) if key in values else "not said"
