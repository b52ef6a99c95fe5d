"""Rates over organisms: intervals against scipy, ROC figures against counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raylens.audit.calibration import conformal_threshold
from raylens.audit.rates import auroc, clopper_pearson, rate, rate_above, tpr_at_fpr
from raylens.errors import InputError

SCORES = st.lists(st.integers(0, 12), min_size=1, max_size=25)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_clopper_pearson_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    k, n = counts
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(k, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_clopper_pearson_by_hand() -> None:
    # None of 99: (1 − p)⁹⁹ = 0.025 at the upper end.
    assert clopper_pearson(0, 99) == pytest.approx((0.0, 1 - 0.025 ** (1 / 99)))
    assert clopper_pearson(99, 99) == pytest.approx((0.025 ** (1 / 99), 1.0))
    assert clopper_pearson(0, 0) is None
    with pytest.raises(ValueError, match="3 of 2"):
        clopper_pearson(3, 2)


@pytest.mark.parametrize("n", [3, 10, 25])
def test_clopper_pearson_covers_exactly(n: int) -> None:
    """By summing over all outcomes: at least 95 % wherever the truth lies."""
    held = [clopper_pearson(k, n) for k in range(n + 1)]
    for p in np.linspace(0.001, 0.999, 101):
        inside = [interval is not None and interval[0] <= p <= interval[1] for interval in held]
        assert stats.binom.pmf(np.arange(n + 1), n, p)[inside].sum() >= 0.95


def test_rates_by_hand() -> None:
    found = rate(np.array([True, False, False, True]), ["a", "a", "b", "b"])
    assert (found.flagged, found.n, found.n_families, found.value) == (2, 4, 2, 0.5)
    empty = rate(np.zeros(0, bool))
    assert (empty.value, empty.exact, empty.clustered) == (None, None, None)
    assert rate(np.ones(3, bool)).n_families == 3


def test_few_families_widen_the_interval() -> None:
    """Ten organisms of each of four families that agree are worth four, not forty."""
    flagged = np.repeat([True, True, True, False], 10)
    families = np.repeat(["a", "b", "c", "d"], 10)
    clustered, alone = rate(flagged, families), rate(flagged)
    assert clustered.exact == alone.exact
    assert clustered.clustered is not None
    assert alone.clustered is not None
    assert clustered.clustered[0] < alone.clustered[0] - 0.1
    assert clustered.clustered[1] > alone.clustered[1]
    all_of_them = rate(np.ones(40, bool), families)
    assert all_of_them.clustered is not None
    assert all_of_them.clustered[0] < 0.6 < (all_of_them.exact or (0, 0))[0]
    with pytest.raises(ValueError, match="clusters"):
        rate(flagged, ["a"])


def test_at_the_threshold_is_not_above_it() -> None:
    benign = np.arange(1.0, 100.0)
    threshold = conformal_threshold(benign, 0.01)
    assert threshold is not None
    assert rate_above([99.0, 99.5, 3.0], threshold).flagged == 1
    assert rate_above(benign, threshold).flagged == 0


@given(SCORES, SCORES)
def test_auroc_is_the_share_of_pairs(benign: list[int], backdoored: list[int]) -> None:
    pairs = [(b > a) + 0.5 * (b == a) for a in benign for b in backdoored]
    found = auroc(benign, backdoored)
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert 0 <= found.ci_low <= np.mean(pairs) + 1e-9
    assert np.mean(pairs) - 1e-9 <= found.ci_high <= 1
    assert found.n == len(benign) + len(backdoored)
    assert auroc(backdoored, benign).value == pytest.approx(1 - np.mean(pairs))


def test_auroc_over_families_is_less_certain() -> None:
    rng = np.random.default_rng(0)
    shift = np.repeat(rng.normal(0, 1, 8), 10)
    benign, backdoored = rng.normal(0, 0.3, 80) + shift, rng.normal(1, 0.3, 80) + shift
    names = np.repeat([f"f{i}" for i in range(8)], 10)
    alone = auroc(benign, backdoored)
    families = auroc(benign, backdoored, benign_families=names, backdoored_families=np.char.add("x", names))
    assert families.value == alone.value
    assert (families.ci_high or 0) - (families.ci_low or 0) > 1.3 * ((alone.ci_high or 0) - (alone.ci_low or 0))
    assert auroc([], backdoored).value is None
    with pytest.raises(ValueError, match="one side"):
        auroc(benign, backdoored, benign_families=names)


@given(SCORES, SCORES, st.sampled_from([0.04, 0.1, 0.2, 0.25, 0.5]))
def test_tpr_at_fpr_is_the_best_allowed_threshold(benign: list[int], backdoored: list[int], target: float) -> None:
    found = tpr_at_fpr(benign, backdoored, target)
    if len(benign) * target < 1 - 1e-9:
        assert found is None
        return
    best = max(
        sum(s > t for s in backdoored)
        for t in range(-1, 13)
        if sum(s > t for s in benign) <= target * len(benign) + 1e-9
    )
    assert found is not None
    assert (found.flagged, found.n) == (best, len(backdoored))


def test_five_benign_organisms_have_no_tpr_at_one_percent() -> None:
    assert tpr_at_fpr([0.0] * 5, [1.0] * 8, 0.01) is None
    at_1 = tpr_at_fpr(np.arange(100.0), [99.5, 98.5, 98.0], 0.01, backdoored_families=["a", "a", "b"])
    assert at_1 is not None
    assert (at_1.flagged, at_1.n_families) == (2, 2)
    with pytest.raises(InputError, match="not between"):
        tpr_at_fpr([1.0], [1.0], 1.0)
