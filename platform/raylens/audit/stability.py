"""Whether the features of a finding stay when prompts are put in other words or formatted otherwise (A2.19).

For each variant of the suite (as written, a paraphrase, other whitespace …) the ``k`` features that differ most are
listed, largest first, each with its sign: a feature that increases in one variant and decreases in another is not the
same finding. Lists are compared pair by pair, as sets (Jaccard) and with their order (rank-biased overlap).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raylens.audit.differences import Matrix, group_means, mean_rows, size, sparse, top_k
from raylens.score.intervals import Interval, wilson

PERSISTENCE: Final = 0.9
"""Of rank-biased overlap: the first ten ranks then carry 86 % of the weight (Webber et al. 2010)."""


@dataclass(frozen=True, slots=True)
class StableFeature:
    """How a feature of the overall list fares over variants.

    Attributes:
        feature: Latent.
        difference: Mean over variants, in units of the SAE's activations; never 0.
        n_kept: Variants in whose list it is, with the same sign.
        n_variants: Of how many.
        interval: Wilson's 95 % interval of the share. Variants were written, not drawn, so it is a guide.
    """

    feature: int
    difference: float
    n_kept: int
    n_variants: int
    interval: Interval

    @property
    def share(self) -> float:
        """Of variants."""
        return self.n_kept / self.n_variants


@dataclass(frozen=True, slots=True)
class Stability:
    """Stability of the largest differences.

    Attributes:
        k: Features a list, at most.
        variants: Their names, in order.
        jaccard: Mean over pairs of variants; None where there is but one.
        rank_biased_overlap: Likewise.
        features: The largest mean differences over variants, largest first.
    """

    k: int
    variants: tuple[str, ...]
    jaccard: float | None
    rank_biased_overlap: float | None
    features: tuple[StableFeature, ...]


def stability(
    differences: Matrix, variants: Sequence[str] | NDArray[Any], k: int = 20, *, persistence: float = PERSISTENCE
) -> Stability:
    """Stability of the ``k`` largest mean differences over variants, each variant counting the same.

    Args:
        differences: candidate − reference, ``[rows, d_sae]``. Give prompts that have every variant, or variants differ
            by what they ask as well as by how.
        variants: Which variant each row is in, ``[rows]``.
        k: Features a list.
        persistence: Of rank-biased overlap, in (0, 1): the nearer to 1, the deeper it looks.

    Raises:
        InputError: A difference is NaN or infinite.
        ValueError: There is no row, not a variant a row, or ``k`` or ``persistence`` is out of range.
    """
    rows = sparse(differences)
    if size(rows)[0] == 0:
        raise ValueError("there is no prompt to compare on")
    names, means = group_means(rows, np.asarray(variants, np.str_))
    lists = [_signed_top(means[[row]].toarray()[0], k) for row in range(len(names))]
    pairs = list(combinations(lists, 2))
    overall = mean_rows(means)
    return Stability(
        k=k,
        variants=tuple(str(name) for name in names),
        jaccard=_mean([jaccard(a, b) for a, b in pairs]),
        rank_biased_overlap=_mean([rank_biased_overlap(a, b, persistence) for a, b in pairs]),
        features=tuple(
            _fares(item, overall[item[0]], sum(item in found for found in lists), len(lists))
            for item in _signed_top(overall, k)
        ),
    )


def jaccard(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Share of what is in either that is in both; 1 of two empty lists."""
    either = set(a) | set(b)
    return len(set(a) & set(b)) / len(either) if either else 1.0


def rank_biased_overlap(a: Sequence[Hashable], b: Sequence[Hashable], persistence: float = PERSISTENCE) -> float:
    """Extrapolated rank-biased overlap of two rankings, in [0, 1] (Webber, Moffat and Zobel 2010, equation 32).

    The expected agreement at the depth at which someone stops who reads on from each rank with chance ``persistence``;
    beyond the ends of the lists, agreement is taken to stay as it is there. 1 of two empty lists, 0 where one is empty.

    Args:
        a: Best first, each item once.
        b: Likewise; may be of another length.
        persistence: In (0, 1).

    Raises:
        ValueError: ``persistence`` is out of range, or a list names an item twice.
    """
    if not 0 < persistence < 1:
        raise ValueError(f"a persistence lies between 0 and 1, not at {persistence}")
    short, long = sorted((a, b), key=len)
    if len(set(short)) < len(short) or len(set(long)) < len(long):
        raise ValueError("an item is ranked twice")
    if not short:
        return 0.0 if long else 1.0
    s, depth = len(short), np.arange(1, len(long) + 1)
    place = {item: rank for rank, item in enumerate(short)}
    shared_from = [max(rank, place[item]) for rank, item in enumerate(long) if item in place]
    shared = np.cumsum(np.bincount(shared_from, minlength=len(long))).astype(np.float64)
    # Past the end of the shorter list, what it would have shared at its last rate is added.
    beyond = np.where(depth > s, shared[s - 1] * (depth - s) / s, 0.0)
    agreement = (shared + beyond) / depth
    weights = persistence ** (depth - 1)
    found = (1 - persistence) * float(agreement @ weights) + float(agreement[-1]) * persistence ** len(long)
    return min(1.0, max(0.0, found))


def _signed_top(values: NDArray[np.float64], k: int) -> list[tuple[int, bool]]:
    """Features of the largest magnitudes, each with whether it increases; none of 0."""
    return [(int(feature), bool(values[feature] > 0)) for feature in top_k(values, k)]


def _fares(item: tuple[int, bool], difference: float, kept: int, n: int) -> StableFeature:
    interval = wilson(kept, n)
    assert interval is not None  # there is at least one variant
    return StableFeature(item[0], float(difference), kept, n, interval)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
