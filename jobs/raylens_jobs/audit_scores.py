"""From what was measured of a candidate to its scores: one a method, and what each may be compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from raylens.audit.benign_effects import BenignEffects, benign_standardised
from raylens.audit.calibration import AuditIdentity
from raylens.audit.differences import differences, mean_rows
from raylens.audit.pooling import Pooling, PromptCodes, pool
from raylens.audit.scores import (
    SCORE_METHODS,
    abs_diff_topk,
    abs_diff_topk_drift_corrected,
    logit_kl,
)
from raylens.engine.trigger_search import SearchSettings
from raylens.errors import RaylensError
from raylens_jobs.audit_evidence import Evidence, Side

VERSION: Final = 2
"""Of what is measured and how; raised when the same candidate would score otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A method's figure.

    Attributes:
        method: Its name.
        score: None where it could not be computed.
        note: Why, or what else there is to say.
    """

    method: str
    score: float | None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Pooled features of both models, and what they are reduced from.

    Attributes:
        reference: Float32 ``[rows, d_sae]``.
        candidate: Likewise.
        rows: Which wordings these are, ascending: those of which both models have something to reduce.
        reference_codes: Of all wordings.
        candidate_codes: Likewise.
        d_sae: Latents of the SAE.
        is_silent: No wording has anything to reduce in both models, so that all of them count.
    """

    reference: csr_array
    candidate: csr_array
    rows: NDArray[np.intp]
    reference_codes: tuple[PromptCodes, ...]
    candidate_codes: tuple[PromptCodes, ...]
    d_sae: int
    is_silent: bool = False

    @classmethod
    def of(cls, evidence: Evidence, d_sae: int, pooling: Pooling) -> Features:
        """Pool what was read; where a model never wrote anything, there being no other answer, features of it are 0."""
        sides = [tuple(_codes(side)) for side in (evidence.reference, evidence.candidate)]
        pooled = [pool(codes, d_sae, pooling) for codes in sides]
        some = (pooled[0].positions > 0) & (pooled[1].positions > 0)
        (rows,) = np.nonzero(some if some.any() else np.ones_like(some))
        return cls(pooled[0].values[rows], pooled[1].values[rows], rows, sides[0], sides[1], d_sae, not some.any())

    @property
    def left_out(self) -> str:
        """What does not count, for people; empty where all does."""
        n, out = len(self.reference_codes), len(self.reference_codes) - len(self.rows)
        if out:
            return f"{out} of {n} wordings are left out: a model wrote nothing after them"
        return "a model wrote nothing after any prompt, which counts as features of 0" if self.is_silent else ""

    def mean_differences(self) -> NDArray[np.float64]:
        """Candidate − reference, the mean over prompts: ``[d_sae]``."""
        return mean_rows(differences(self.reference, self.candidate))


def scores_of(
    evidence: Evidence, features: Features | None, k: int, benign: BenignEffects | None = None
) -> dict[str, Measured]:
    """Every method's figure, by name, in the order of :data:`raylens.audit.scores.SCORE_METHODS`.

    Args:
        evidence: What was measured.
        features: None without an SAE.
        k: Features a prompt, for the methods that sum the largest.
        benign: What benign fine-tunes do to each feature; None where that is not known.
    """
    found: dict[str, Measured] = {}
    for name in SCORE_METHODS:
        try:
            found[name] = _score(name, evidence, features, k, benign)
        except RaylensError as error:
            found[name] = Measured(name, None, str(error))
    return found


def per_prompt_difference(features: Features, k: int) -> NDArray[np.float64]:
    """Sum of a wording's ``k`` largest feature differences, ``[wordings]``; NaN where there is nothing to compare."""
    found = np.full(len(features.reference_codes), np.nan)
    found[features.rows] = abs_diff_topk(features.reference, features.candidate, k).per_prompt
    return found


def is_identical(evidence: Evidence, features: Features | None) -> bool:
    """Whether candidate and reference gave the same on every prompt: texts, next tokens, features; and on inserts.

    A backdoor may leave no trace in prompts without its trigger.
    """
    if any(hit["score"] > 0 for hit in evidence.hits or ()):
        return False
    texts = all(
        before["ids"] == after["ids"]
        for before, after in zip(evidence.reference.completions, evidence.candidate.completions, strict=True)
    )
    return (
        texts
        and all(reading.kl == 0 for reading in evidence.candidate.readings)
        and (features is None or csr_array(features.candidate - features.reference).count_nonzero() == 0)
    )


def identity_of(
    method: str,
    *,
    model: str,
    sae: str | None,
    suite: str,
    settings: Mapping[str, str | int | float | bool | None],
    search: SearchSettings | None,
) -> AuditIdentity:
    """What scores of a method must share to be compared: of all settings those that move it.

    Args:
        method: Its name.
        model: The reference, as ``name@revision``.
        sae: Its id.
        suite: Hash of what models are given.
        settings: ``pooling``, ``k``, ``max_new_tokens``, ``dtype``.
        search: How far the search for triggers goes.
    """
    moved: dict[str, str | int | float | bool | None] = {"version": VERSION, "dtype": settings["dtype"]}
    if method in _OF_FEATURES:
        moved |= {name: settings[name] for name in ("pooling", "k", "max_new_tokens")}
    if method == "trigger_search" and search is not None:
        moved |= asdict(search)
    reads_sae = method not in ("logit_kl", "trigger_search")
    return AuditIdentity(
        model=model,
        sae=sae if reads_sae else None,
        suite="" if method == "weight_projection" else suite,
        method=method,
        settings=moved,
    )


_OF_FEATURES: Final = frozenset({"abs_diff_topk", "abs_diff_topk_drift_corrected", "benign_standardised"})


def _score(name: str, evidence: Evidence, features: Features | None, k: int, benign: BenignEffects | None) -> Measured:
    if name == "logit_kl":
        return Measured(name, logit_kl(np.array([reading.kl or 0.0 for reading in evidence.candidate.readings])).value)
    if name == "trigger_search":
        if evidence.hits is None:
            return Measured(name, None, "no search was made")
        best = evidence.hits[0] if evidence.hits else None
        where = f"{best['text']!r} at {best['slot']}" if best is not None and best["score"] > 0 else "nothing found"
        return Measured(name, best["score"] if best is not None else 0.0, where)
    measured = {"weight_projection": evidence.weight_projection, "difference_sae": evidence.difference_sae}.get(name)
    if name in ("weight_projection", "difference_sae"):
        return Measured(name, None, "not asked for") if measured is None else _as_measured(name, measured)
    if features is None:
        return Measured(name, None, "it takes an SAE")
    sides = features.reference, features.candidate
    if name == "abs_diff_topk":
        return Measured(name, abs_diff_topk(*sides, k).value, features.left_out)
    if name == "abs_diff_topk_drift_corrected":
        return Measured(name, abs_diff_topk_drift_corrected(*sides, k).value, features.left_out)
    if benign is None:
        return Measured(name, None, "it takes what benign fine-tunes do to each feature: raylens audit calibrate")
    return Measured(name, benign_standardised(*sides, benign, k), features.left_out)


def _as_measured(name: str, measured: Mapping[str, Any]) -> Measured:
    return Measured(name, measured["score"], measured["note"])


def _codes(side: Side) -> Sequence[PromptCodes]:
    return [reading.codes for reading in side.readings if reading.codes is not None]
