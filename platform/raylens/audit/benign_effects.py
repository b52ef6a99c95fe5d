"""What benign fine-tunes of a base do to each feature, and how unusual beside that what a candidate does is.

A candidate is standardised by all benign fine-tunes, and none of these was fitted on it. A benign one's own score has
to come from the others, or it would be smaller than a candidate's alike: it is left out, with its family, since
fine-tunes of one family know one another's effects (the jackknife of conformal prediction; Barber, Candès, Ramdas and
Tibshirani 2021). That errs on the side of calling a candidate benign: it has more fine-tunes to be like than each of
them had, by much where there are two or three families, and hardly where there are ten. So the score is evidence
beside others, and a guarantee is given for scores that are fitted on nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from raylens.audit.differences import Matrix, differences, mean_rows, size, sparse
from raylens.audit.scores import DEFAULT_TOP_K, top_sum
from raylens.errors import InputError

_FEWEST: Final = 2
"""Fine-tunes that show how much features vary."""


@dataclass(frozen=True, slots=True, eq=False)
class BenignEffects:
    """What benign fine-tunes of a base do to each feature on a suite.

    Scores of the fine-tunes it was fitted on are smaller than those of others alike. So calibrate on benign
    fine-tunes that it has not seen, or the conformal p-values are too small.

    Attributes:
        mean: float64 ``[d_sae]``, of the mean differences.
        scale: float64 ``[d_sae]``, positive: their standard deviation plus the median one of all features that any
            of them moves. The constant is the one of SAM (Tusher, Tibshirani and Chu 2001): without it, a feature
            that hardly ever moves would beat all others by moving at all.
        n: Fine-tunes that it is from.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    n: int

    @classmethod
    def fit(cls, effects: Matrix) -> Self:
        """From mean differences over prompts, a row a benign fine-tune: ``[fine-tunes, d_sae]``.

        Raises:
            InputError: There are fewer than two, none of them moves a feature, or a value is NaN or infinite.
        """
        rows = sparse(effects)
        n, d_sae = size(rows)
        mean = mean_rows(rows) if n else np.zeros(d_sae)
        # Centred before squaring, where something is stored, and all else is a mean away from 0.
        stored = rows.copy()
        stored.data = (rows.data - mean[rows.indices]) ** 2
        silent = n - np.bincount(rows.indices, minlength=d_sae)
        variance = (np.asarray(stored.sum(axis=0)).reshape(-1) + silent * mean**2) / max(1, n - 1)
        deviation = np.sqrt(variance)
        moved = deviation > 1e-12 * np.abs(mean)
        if n < 2 or not moved.any():
            raise InputError(
                f"{n} benign fine-tunes do not show how much features vary.",
                hint="make more of them with raylens organisms build, or choose another score method.",
            )
        return cls(mean, deviation + np.median(deviation[moved]), n)

    def standardise(self, effects: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mean differences ``[d_sae]`` in standard deviations of benign ones: float64 ``[d_sae]``.

        Raises:
            ValueError: They are of another number of features.
        """
        if effects.shape != self.mean.shape:
            raise ValueError(f"{effects.shape} features, but {self.mean.shape} of the benign fine-tunes")
        return (effects - self.mean) / self.scale

    def score(self, effects: NDArray[np.floating], k: int = DEFAULT_TOP_K) -> float:
        """Mean magnitude of the ``k`` most unusual mean differences (``[d_sae]``); with ``k=1`` their maximum.

        Raises:
            ValueError: They are of another number of features, or ``k`` is below 1.
        """
        unusual = self.standardise(effects)
        return top_sum(unusual, k) / min(k, len(unusual))


def benign_standardised(reference: Matrix, candidate: Matrix, benign: BenignEffects, k: int = DEFAULT_TOP_K) -> float:
    """:meth:`BenignEffects.score` of the mean differences over prompts of two models' pooled features.

    Args:
        reference: Pooled features ``[prompts, d_sae]``.
        candidate: Of the same prompts.
        benign: What benign fine-tunes do to each feature.
        k: Features that the mean is over.

    Raises:
        InputError: A value is NaN or infinite.
        ValueError: Shapes differ, there is no prompt, or ``k`` is below 1.
    """
    return benign.score(mean_rows(differences(reference, candidate)), k)


def cross_fitted(effects: Matrix, families: Sequence[str], k: int = DEFAULT_TOP_K) -> NDArray[np.float64]:
    """Each benign fine-tune's score, by what those of other families do: float64 ``[fine-tunes]``.

    Where no two are left then, as of a single family, all are standardised by the other fine-tunes.

    Args:
        effects: Mean differences over prompts, a row a fine-tune: ``[fine-tunes, d_sae]``.
        families: Of each.
        k: Features that a score is the mean of.

    Raises:
        InputError: Too few are left to standardise by, or a value is NaN or infinite.
        ValueError: There are not as many families as fine-tunes.
    """
    rows = sparse(effects)
    if len(families) != size(rows)[0]:
        raise ValueError(f"{len(families)} families of {size(rows)[0]} fine-tunes")
    alike = np.unique(np.array(families, dtype=np.str_), return_inverse=True)[1]
    if len(families) - np.bincount(alike).max(initial=0) < _FEWEST:
        alike = np.arange(len(families))
    found = np.empty(len(families))
    for group in np.unique(alike):
        own = np.flatnonzero(alike == group)
        benign = BenignEffects.fit(rows[alike != group])
        for row in own.tolist():
            found[row] = benign.score(rows[[row]].toarray()[0], k)
    return found
