"""Which features a fine-tune changed, and by how much: paired effects over prompts.

The unit is the prompt. Paraphrases of one prompt say the same thing over, so they are one cluster: their differences
are averaged first, and everything here counts clusters.

==================  ==================================================================================================
figure              is
==================  ==================================================================================================
mean difference     of candidate − reference, in units of the SAE's activations
effect              Cohen's d_z, mean over standard deviation of the differences, with Hedges' correction for few
                    prompts: J(n − 1) · d_z (Hedges 1981, the exact J)
firing rate         share of prompts on which the feature fires; a cluster counts by the share of its members
rate ratio          (n · candidate's + ½) / (n · reference's + ½), which exists where either never fires
p value             sign-flip permutation of the mean difference, two-sided
q value             Benjamini and Hochberg (1995) over all tested features: the share of false ones among those with
                    a q this small or smaller
max-t p value       Westfall and Young (1993): chance that the most extreme of *all* tested features is as extreme
==================  ==================================================================================================

A feature that is silent in both models on every prompt cannot differ and is not tested.

These are evidence of what changed, not that the change is harmful: in any fine-tune, most features that fire at all
do change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import gammaln

from raylens.audit.differences import NOISE, Matrix, differences, group_means, mean_rows, size, sparse, top_k
from raylens.audit.draws import SEED
from raylens.audit.sign_flips import sign_flip_test


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """A row a tested feature, in ascending order; the arrays are ``[tested]`` and float64 but for ``feature``.

    Attributes:
        feature: int64.
        mean_difference: In units of the SAE's activations.
        effect: NaN where it has no value: fewer than three clusters, or equal differences other than 0.
        rate_reference: Share of clusters.
        rate_candidate: Likewise.
        rate_ratio: Positive.
        p_value: In (0, 1].
        q_value: In (0, 1], at least ``p_value``.
        p_max_t: In (0, 1], at least ``p_value``.
        d_sae: Latents of the SAE; those not in ``feature`` are silent and were not tested.
        n_prompts: Rows that were given, variants counting each.
        n_clusters: Prompts as units.
        n_patterns: Sign patterns behind the p-values.
        exact: Whether these are all patterns there are.
        smallest_p: No p-value could be below this with so few clusters or patterns.
        identical: Not one feature differs on one prompt.
    """

    feature: NDArray[np.int64]
    mean_difference: NDArray[np.float64]
    effect: NDArray[np.float64]
    rate_reference: NDArray[np.float64]
    rate_candidate: NDArray[np.float64]
    rate_ratio: NDArray[np.float64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    p_max_t: NDArray[np.float64]
    d_sae: int
    n_prompts: int
    n_clusters: int
    n_patterns: int
    exact: bool
    smallest_p: float
    identical: bool

    @property
    def n_tested(self) -> int:
        """Features that fire in either model."""
        return len(self.feature)

    def largest(self, k: int) -> NDArray[np.intp]:
        """Rows of the ``k`` largest mean differences in magnitude, largest first; never one of 0."""
        return top_k(self.mean_difference, k)


def paired_effects(
    reference: Matrix,
    candidate: Matrix,
    clusters: NDArray[Any] | None = None,
    *,
    permutations: int = 9999,
    seed: int = SEED,
) -> Effects:
    """Effects of every feature that fires in either model; what rounding leaves is none.

    Args:
        reference: Pooled features ``[prompts, d_sae]``, dense or sparse.
        candidate: Likewise, of the same prompts in the same order.
        clusters: Which prompt each row is a variant of, ``[prompts]``; None where every row stands alone.
        permutations: Sign patterns to draw where there are more than 4096.
        seed: Of the draws.

    Raises:
        InputError: A value is NaN or infinite.
        ValueError: Shapes differ, or there is no prompt.
    """
    difference = differences(reference, candidate, noise=NOISE)
    n_prompts, d_sae = size(difference)
    groups = np.arange(n_prompts) if clusters is None else np.asarray(clusters)
    before, after = sparse(reference), sparse(candidate)
    feature = np.union1d(before.indices, after.indices).astype(np.int64)
    _, by_cluster = group_means(difference, groups)
    tested = by_cluster.tocsc()[:, feature]
    n, _ = size(by_cluster)
    flips = sign_flip_test(tested, permutations=permutations, seed=seed)
    rates = [mean_rows(group_means(_fires(side), groups)[1])[feature] for side in (before, after)]
    mean = mean_rows(by_cluster)[feature]
    return Effects(
        feature=feature,
        mean_difference=mean,
        effect=_hedges(tested, mean),
        rate_reference=rates[0],
        rate_candidate=rates[1],
        rate_ratio=(n * rates[1] + 0.5) / (n * rates[0] + 0.5),
        p_value=flips.p_value,
        q_value=benjamini_hochberg(flips.p_value),
        p_max_t=flips.p_max,
        d_sae=d_sae,
        n_prompts=n_prompts,
        n_clusters=n,
        n_patterns=flips.n_patterns,
        exact=flips.exact,
        smallest_p=flips.smallest_p,
        identical=difference.nnz == 0,
    )


def benjamini_hochberg(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """q-values, float64 ``[n]``: the smallest false-discovery rate at which each would be called (step-up, 1995)."""
    from scipy.stats import false_discovery_control  # takes a second to import, which only this pays

    return np.asarray(false_discovery_control(p_values, method="bh")) if len(p_values) else np.empty(0)


def hedges_correction(n: int) -> float:
    """J of n paired differences: Γ(m/2) / (√(m/2) · Γ((m − 1)/2)) with m = n − 1, for n of at least 3."""
    m = n - 1
    return float(np.exp(gammaln(m / 2) - gammaln((m - 1) / 2)) / np.sqrt(m / 2))


def _hedges(tested: Any, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corrected d_z of the columns of ``tested`` ``[clusters, features]`` (CSC), without making them dense."""
    n, width = tested.shape
    stored = np.diff(tested.indptr)
    at = np.repeat(np.arange(width), stored)
    squares = np.bincount(at, (tested.data - mean[at]) ** 2, minlength=width) + (n - stored) * mean**2
    effect = np.where(mean == 0, 0.0, np.nan)
    if n < 3:
        return effect
    deviation = np.sqrt(squares / (n - 1))
    # Equal differences leave rounding error here, which is no deviation.
    spread = deviation > 1e-12 * np.abs(mean)
    effect[spread] = hedges_correction(n) * mean[spread] / deviation[spread]
    return effect


def _fires(values: csr_array) -> csr_array:
    return csr_array((np.ones(len(values.data)), values.indices, values.indptr), shape=values.shape)
