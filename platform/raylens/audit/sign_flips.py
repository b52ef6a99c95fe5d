"""Sign-flip permutation tests of many features at once, for the mean of paired differences being 0.

If a fine-tune moved a feature in neither direction, each prompt's difference could as well have had the other sign. So
the observed mean is compared with those under all sign patterns, or under many drawn ones. As Σx² is the same under
every pattern, the t statistic is a monotone function of r = Σx / √(n·Σx²), which lies in [−1, 1] and needs no variance:
ordering by |r| is ordering by |mean| of one feature, and by |t| over all of them.

The largest |r| over all features under each pattern gives the p-value of a feature that was picked for being the
largest (Westfall and Young 1993, single step): whoever takes a maximum over features must permute it over features too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from raylens.audit.differences import size
from raylens.audit.draws import SEED

EXACT_PATTERNS: Final = 4096
"""Up to so many sign patterns (12 prompts) all are gone through."""

_BLOCK: Final = 1024
"""Features, and patterns, at a time: 8 MB of products."""

_TIE: Final = 1e-9
"""Values of r this near are equal: sums in another order differ by about n · 1e−16."""


@dataclass(frozen=True, slots=True, eq=False)
class SignFlips:
    """What a test of ``features`` columns gives.

    Attributes:
        p_value: float64 ``[features]``, two-sided, in (0, 1].
        p_max: float64 ``[features]``, adjusted for all features together; at least ``p_value``.
        n_patterns: Sign patterns behind them.
        exact: All there are were gone through, none drawn.
    """

    p_value: NDArray[np.float64]
    p_max: NDArray[np.float64]
    n_patterns: int
    exact: bool

    @property
    def smallest_p(self) -> float:
        """No p-value can be below this, whatever the differences."""
        # A pattern and its mirror image give the same |r|; where they are drawn, the observed one counts as one more.
        return 2 / self.n_patterns if self.exact else 1 / (self.n_patterns + 1)


def sign_flip_test(differences: csr_array | csc_array, *, permutations: int = 9999, seed: int = SEED) -> SignFlips:
    """Test every column of ``differences`` ``[units, features]``; memory is bounded whatever the number of features.

    With ``b`` of ``B`` patterns at least as extreme as what was observed, p is b / B where all are gone through, and
    (1 + b) / (1 + B) where they are drawn (Phipson and Smyth 2010).

    Args:
        differences: A row an independent unit, finite. At least one row.
        permutations: Patterns to draw where there are too many to go through.
        seed: Of the draws. All features share them, so their order is no matter.

    Raises:
        ValueError: There is no unit, or ``permutations`` is below 1.
    """
    n, width = size(differences)
    if n < 1 or permutations < 1:
        raise ValueError(f"no test of {n} units with {permutations} permutations")
    patterns, exact = _patterns(n, permutations, seed)
    columns = csc_array(differences)
    observed = np.empty(width)
    as_extreme = np.zeros(width, np.int64)
    largest = np.zeros(len(patterns))
    for start in range(0, width, _BLOCK):
        part = slice(start, min(width, start + _BLOCK))
        unit = _unit(columns[:, part].toarray())
        observed[part] = np.abs(unit.sum(axis=0))
        for first in range(0, len(patterns), _BLOCK):
            rows = slice(first, first + _BLOCK)
            sums = np.abs(patterns[rows].astype(np.float64) @ unit)
            as_extreme[part] += (sums >= observed[part] - _TIE).sum(axis=0)
            np.maximum(largest[rows], sums.max(axis=1), out=largest[rows])
    extra = 0 if exact else 1
    beyond = len(patterns) - np.searchsorted(np.sort(largest), observed - _TIE, side="left")
    total = len(patterns) + extra
    n_patterns = 2**n if exact else len(patterns)
    return SignFlips((as_extreme + extra) / total, (beyond + extra) / total, n_patterns, exact)


def _patterns(n: int, permutations: int, seed: int) -> tuple[NDArray[np.int8], bool]:
    """Signs ``[patterns, n]``, and whether they are all there are."""
    if 2**n <= EXACT_PATTERNS:
        # The last sign stays: the other half is the mirror image, with the same |r|.
        flipped = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
        return (1 - 2 * flipped).astype(np.int8), True
    drawn = np.random.default_rng(seed).integers(2, size=(permutations, n), dtype=np.int8)
    return 2 * drawn - 1, False


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns over √n times their length, so that their sums are r; columns of zeros stay."""
    # By the largest first, so that squares neither overflow nor vanish.
    largest = np.abs(values).max(axis=0)
    scaled = values / np.where(largest == 0, 1.0, largest)
    length = np.sqrt(len(values) * (scaled**2).sum(axis=0))
    return scaled / np.where(length == 0, 1.0, length)
