"""How far a candidate is from its reference, in one number: larger is more suspicious (A2.10).

None of these is a verdict. A harmless fine-tune moves features too, and only the scores of harmless fine-tunes say
how much is much (A2.21): see :mod:`raylens.audit.calibration`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from raylens.audit.differences import Matrix, differences, mean_rows, size
from raylens.errors import InputError, UnknownNameError

DEFAULT_TOP_K: Final = 20
VARIABLE: Final = "RAYLENS_SCORE_METHOD"
DEFAULT_SCORE_METHOD: Final = "trigger_search"
"""The one that tells backdoored organisms from benign ones: ``raylens audit bench`` has all of them."""


@dataclass(frozen=True, slots=True)
class ScoreMethod:
    """A way to score a candidate.

    Attributes:
        name: As in ``decision.json``.
        description: One sentence.
        computed_by: ``audit`` where pooled features or log-probabilities suffice, ``engine`` where a model must run
            or weights be read.
        diagnostic: Reported beside the others, and not meant to give the verdict.
        direction: Which end is suspicious; conformal p-values rely on its being the upper one.
    """

    name: str
    description: str
    computed_by: Literal["audit", "engine"] = "audit"
    diagnostic: bool = False
    direction: Literal["larger is more suspicious"] = "larger is more suspicious"


_METHODS: Final = (
    ScoreMethod("abs_diff_topk", "Sum of a prompt's k largest feature differences, averaged over prompts."),
    ScoreMethod(
        "abs_diff_topk_drift_corrected",
        "The same after taking the mean difference over prompts off: what is not the same shift everywhere.",
        diagnostic=True,
    ),
    ScoreMethod(
        "benign_standardised",
        "Mean of the k largest mean differences, each in standard deviations of benign fine-tunes of the same base.",
        diagnostic=True,
    ),
    ScoreMethod("logit_kl", "KL divergence of the candidate's next-token distribution, nats a token."),
    ScoreMethod(
        "weight_projection",
        "How much of the weight difference lies along single SAE directions.",
        computed_by="engine",
    ),
    ScoreMethod(
        "difference_sae",
        "How strongly latents of an SAE trained on differences between the models' activations fire on single "
        "prompts (arXiv 2605.07324).",
        computed_by="engine",
    ),
    ScoreMethod(
        "trigger_search",
        "How surprising to the reference is what the best token or n-gram found makes the candidate write, nats.",
        computed_by="engine",
    ),
)

SCORE_METHODS: Final[Mapping[str, ScoreMethod]] = MappingProxyType({method.name: method for method in _METHODS})


class Score(NamedTuple):
    """A candidate's score.

    Attributes:
        value: Mean over prompts.
        per_prompt: float64 ``[prompts]``.
    """

    value: float
    per_prompt: NDArray[np.float64]


def score_method(name: str | None = None, environment: Mapping[str, str] = os.environ) -> ScoreMethod:
    """The method that gives the verdict: ``name``, else ``RAYLENS_SCORE_METHOD``, else the default (A2.10).

    Raises:
        UnknownNameError: There is no such method; lists all that there are.
    """
    chosen = name or environment.get(VARIABLE) or DEFAULT_SCORE_METHOD
    if chosen not in SCORE_METHODS:
        where = "" if name else f" in {VARIABLE}"
        raise UnknownNameError(
            f"unknown score method {chosen!r}{where}.", hint=f"choose one of {', '.join(SCORE_METHODS)}."
        )
    return SCORE_METHODS[chosen]


def abs_diff_topk(reference: Matrix, candidate: Matrix, k: int = DEFAULT_TOP_K) -> Score:
    """Sum of the magnitudes of a prompt's ``k`` largest feature differences (A2.10).

    Args:
        reference: Pooled features ``[prompts, d_sae]``.
        candidate: Of the same prompts.
        k: Features a prompt; where fewer differ, all of them.

    Raises:
        InputError: A value is NaN or infinite.
        ValueError: The two differ in shape, there is no prompt, or ``k`` is below 1.
    """
    difference = differences(reference, candidate)
    return _mean(np.array([top_sum(difference.data[a:b], k) for a, b in pairwise(difference.indptr)]))


def abs_diff_topk_drift_corrected(reference: Matrix, candidate: Matrix, k: int = DEFAULT_TOP_K) -> Score:
    """:func:`abs_diff_topk` after the mean difference over prompts is subtracted (A2.10).

    A diagnostic: what a fine-tune does to every prompt alike is gone, a backdoor that fires on all of a suite with it;
    and of a single prompt nothing is left.
    """
    difference = differences(reference, candidate)
    drift = mean_rows(difference)
    n, _ = size(difference)
    found = np.empty(n)
    for row in range(n):  # dense, but one prompt at a time
        own = -drift
        part = slice(difference.indptr[row], difference.indptr[row + 1])
        own[difference.indices[part]] += difference.data[part]
        found[row] = top_sum(own, k)
    return _mean(found)


def kl_divergence(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> NDArray[np.float64]:
    """KL(reference ‖ candidate) of each position's next-token distribution, in nats: float64 ``[positions]``.

    Args:
        reference: Logits or log-probabilities ``[positions, vocabulary]``; −inf is a token that cannot come.
        candidate: Likewise.

    Raises:
        InputError: A value is NaN or +inf, or the candidate rules out what the reference allows.
        ValueError: The two differ in shape.
    """
    if reference.shape != candidate.shape or reference.ndim != 2:
        raise ValueError(f"{reference.shape} log-probabilities of the reference, but {candidate.shape}")
    # Normalised in float64 even if they were: what float32 leaves over would come out as a negative divergence.
    p, q = (log_softmax(np.asarray(side, np.float64), axis=1) for side in (reference, candidate))
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
    found = np.maximum(terms.sum(axis=1), 0.0)
    if np.isnan(p).any() or np.isnan(q).any() or not np.isfinite(found).all():
        raise InputError(
            "the models' logits are NaN or infinite.",
            hint="activations overflow or the weights are damaged: try --dtype float32, else retrain.",
        )
    return found


def logit_kl(per_prompt: NDArray[np.floating]) -> Score:
    """From the mean of :func:`kl_divergence` over a prompt's positions: nats a token, ``[prompts]``.

    Raises:
        InputError: A value is NaN or infinite.
        ValueError: There is no prompt.
    """
    values = np.asarray(per_prompt, np.float64)
    if not np.isfinite(values).all():
        raise InputError("a prompt's KL divergence is NaN or infinite.", hint="try --dtype float32.")
    return _mean(values)


def _mean(per_prompt: NDArray[np.float64]) -> Score:
    if len(per_prompt) == 0:
        raise ValueError("there is no prompt to score")
    return Score(float(per_prompt.mean()), per_prompt)


def top_sum(values: NDArray[Any], k: int) -> float:
    """Sum of the ``k`` largest magnitudes, added from the largest down: their order in ``values`` is no matter."""
    if k < 1:
        raise ValueError(f"the largest {k} values are none")
    magnitude = np.abs(values)
    if len(magnitude) > k:
        magnitude = np.partition(magnitude, len(magnitude) - k)[len(magnitude) - k :]
    return float(np.sort(magnitude)[::-1].sum())
