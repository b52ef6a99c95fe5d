"""Intervals: by hand where a formula is short, and by how often they cover a truth that is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raylens.score import intervals
from raylens.score.intervals import (
    Interval,
    auc_interval,
    auc_parts,
    bootstrap,
    clustered_interval,
    effective_n,
    f1_interval,
    mean_of_two,
    median_interval,
    precision_at_interval,
    proportion_interval,
    ratio,
    wilson,
)

ROUNDS = 600
LOWEST, HIGHEST = (float(x) for x in stats.binom.ppf([1e-4, 1 - 1e-4], ROUNDS, 0.95) / ROUNDS)
"""Where coverage of a true 95 % interval lies over so many rounds: about 0.911 to 0.98."""


def share(found: list[Interval | None], truth: float) -> float:
    inside = [interval is not None and interval[0] <= truth <= interval[1] for interval in found]
    return float(np.mean(inside))


def column(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)


def test_wilson_by_hand() -> None:
    # Newcombe (1998), table I: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=5e-5)
    assert wilson(0, 0) is None


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_value_and_is_symmetric(counts) -> None:
    k, n = counts
    found, mirrored = wilson(k, n), wilson(n - k, n)
    assert found is not None
    assert mirrored is not None
    assert 0 <= found[0] <= k / n <= found[1] <= 1
    assert found == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-9)


@pytest.mark.parametrize("p", [0.5, 0.85])
def test_proportions_and_what_is_made_of_them_cover(p: float) -> None:
    """Accuracy p on 50 positives and 50 negatives: each interval holds its truth in 95 % of rounds."""
    rng = np.random.default_rng(3)
    labels = np.repeat([True, False], 50)
    found: dict[str, list[Interval | None]] = {"recall": [], "balanced": [], "f1": [], "auc": [], "at": []}
    for _ in range(ROUNDS):
        answers = labels == (rng.random(100) < p)
        tp, fp = int((answers & labels).sum()), int((answers & ~labels).sum())
        tpr, tnr = wilson(tp, 50), wilson(50 - fp, 50)
        assert tpr is not None
        assert tnr is not None
        found["recall"].append(tpr)
        found["balanced"].append(mean_of_two((tp / 50, 1 - fp / 50), (tpr, tnr)))
        found["f1"].append(f1_interval(labels, answers))
        found["auc"].append(auc_interval(labels, answers.astype(float)))
        found["at"].append(precision_at_interval((tp, 50), (fp, 50), 0.01))
    truth = {"recall": p, "balanced": p, "f1": p, "auc": p, "at": 0.01 * p / (0.01 * p + 0.99 * (1 - p))}
    covered = {name: share(each, truth[name]) for name, each in found.items()}
    # Wilson on tp / (tp + fp + fn) takes a random n as given, and errs to the wide side.
    assert all(LOWEST <= value <= (1 if name == "f1" else HIGHEST) for name, value in covered.items()), covered


def test_precision_at_a_base_rate_does_not_trust_a_clean_sheet() -> None:
    """No false alarm in 50 leaves a false-positive rate of up to 5 %, and at one in a thousand that is decisive."""
    low, high = precision_at_interval((50, 50), (0, 50), 0.001)
    assert low < 0.05
    assert high == 1.0
    assert precision_at_interval((0, 50), (5, 50), 0.001)[0] == 0.0


@pytest.mark.parametrize("gap", [0.0, 1.2])
def test_auc_covers(gap: float) -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([True, False], [40, 60])
    truth = float(stats.norm.cdf(gap / 2**0.5))
    found = [auc_interval(labels, rng.normal(size=100) + gap * labels) for _ in range(ROUNDS)]
    assert LOWEST <= share(found, truth) <= HIGHEST


def test_auc_variance_is_delongs() -> None:
    """Against the textbook sum over pairs, for scores with ties."""
    rng = np.random.default_rng(5)
    labels, scores = rng.random(40) < 0.4, rng.integers(6, size=40).astype(np.float64)
    positive, negative = scores[labels], scores[~labels]
    psi = np.array([[(a > b) + 0.5 * (a == b) for b in negative] for a in positive])
    of_positive, of_negative = auc_parts(labels, scores)
    np.testing.assert_allclose(of_positive, psi.mean(axis=1))
    np.testing.assert_allclose(of_negative, psi.mean(axis=0))
    auc = psi.mean()
    sigma = (psi.mean(axis=1).var(ddof=1) / len(positive) + psi.mean(axis=0).var(ddof=1) / len(negative)) ** 0.5
    half = intervals.Z * sigma / (auc * (1 - auc))
    odds = np.log(auc / (1 - auc))
    assert auc_interval(labels, scores) == pytest.approx(
        (1 / (1 + np.exp(half - odds)), 1 / (1 + np.exp(-half - odds)))
    )


def test_auc_of_a_perfect_or_constant_judge_is_not_certain() -> None:
    labels = np.repeat([True, False], 20)
    low, high = auc_interval(labels, labels.astype(float)) or (0, 0)
    assert high == 1.0
    # Newcombe's equation, at its root.
    spread = 1 + 19 * ((1 - low) / (2 - low) + low / (1 + low))
    assert (1 - low) ** 2 == pytest.approx(intervals.Z**2 * low * (1 - low) / 400 * spread, rel=1e-6)
    assert 0.8 < low < 0.95
    assert auc_interval(labels, 1.0 - labels) == pytest.approx((0.0, 1 - low))
    constant = auc_interval(labels, np.zeros(40))
    assert constant is not None
    assert constant[0] < 0.4 < 0.6 < constant[1]
    assert constant[0] == pytest.approx(1 - constant[1])
    assert auc_interval(np.ones(3, bool), np.zeros(3)) is None


def test_repeated_documents_count_once() -> None:
    """Every item five times over: with documents the intervals are those of the items once, or near."""
    rng = np.random.default_rng(6)
    once = rng.random(60) < 0.7
    many, documents = np.repeat(once, 5), np.repeat(np.arange(60), 5)
    assert effective_n(once, np.arange(60)) == 60
    assert effective_n(many, documents) == pytest.approx(59, abs=0.1)
    assert effective_n(np.ones(20, bool), np.repeat([3, 9], 10)) == 2
    assert effective_n(once) == 60
    assert proportion_interval(many, documents) == pytest.approx(proportion_interval(once), abs=0.005)
    labels = rng.random(60) < 0.5
    scores = rng.normal(size=60) + labels
    spread = auc_interval(np.repeat(labels, 5), np.repeat(scores, 5), documents)
    assert spread == pytest.approx(auc_interval(labels, scores), abs=0.01)
    with pytest.raises(ValueError, match="clusters"):
        effective_n(once, [1, 2])


def test_clustered_proportions_cover_where_rows_alone_would_not() -> None:
    rng = np.random.default_rng(7)
    documents = np.repeat(np.arange(25), 4)
    naive: list[Interval | None] = []
    clustered: list[Interval | None] = []
    for _ in range(ROUNDS):
        outcomes = rng.random(100) < np.repeat(rng.beta(1.2, 0.8, size=25), 4)
        naive.append(proportion_interval(outcomes))
        clustered.append(proportion_interval(outcomes, documents))
    assert share(naive, 0.6) < 0.9
    assert 0.92 <= share(clustered, 0.6) <= HIGHEST


def test_bootstrap_covers_a_mean_and_a_correlation() -> None:
    rng = np.random.default_rng(8)
    means: list[Interval | None] = []
    correlations: list[Interval | None] = []
    rounds = 300

    def statistic(sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = sums.T
        return (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))

    for seed in range(rounds):
        values = rng.exponential(size=50)
        means.append(bootstrap(column(values), ratio, seed=seed, resamples=500))
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=60).T
        moments = np.stack([np.ones(60), x, y, x * x, y * y, x * y], axis=1)
        correlations.append(bootstrap(moments, statistic, seed=seed, resamples=500))
    # A bootstrap of 50 skewed values is known to fall a little short of its level.
    assert 0.89 <= share(means, 1.0) <= 0.99
    assert 0.89 <= share(correlations, 0.6) <= 0.99


def test_bca_is_scipys() -> None:
    values = np.random.default_rng(9).exponential(size=40)
    ours = bootstrap(column(values), ratio, seed=0, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    percentile = bootstrap(column(values), ratio, seed=0, resamples=20_000, method="percentile")
    assert percentile is not None
    assert ours is not None
    assert ours[1] > percentile[1], "skewed to the right, the corrected interval reaches further there"


def test_bootstrap_has_no_interval_where_there_is_nothing_to_resample() -> None:
    assert bootstrap(column(np.arange(5.0)), ratio, ["one"] * 5, seed=0) is None
    assert bootstrap(np.empty((0, 2)), ratio, seed=0) is None
    assert bootstrap(np.zeros((5, 2)), ratio, seed=0) is None
    assert bootstrap(column(np.ones(5)), ratio, seed=0) == (1.0, 1.0)
    values = np.arange(9.0)
    assert bootstrap(column(values), ratio, seed=1) == bootstrap(column(values), ratio, seed=1)
    assert bootstrap(column(values), ratio, seed=1) != bootstrap(column(values), ratio, seed=2)


def test_drawing_in_pieces_changes_nothing(monkeypatch) -> None:
    values = np.random.default_rng(0).normal(size=30)
    whole = bootstrap(column(values), ratio, seed=3)
    monkeypatch.setattr(intervals, "_CHUNK", 7 * 30)
    assert bootstrap(column(values), ratio, seed=3) == pytest.approx(whole)


def test_clustered_interval_is_over_groups() -> None:
    rng = np.random.default_rng(1)
    groups = [f"file{i // 50}" for i in range(1000)]
    alike = np.repeat(rng.normal(size=20), 50)
    low, high = clustered_interval(alike, groups)
    # 20 files, whatever the number of rows: the interval is about 2 · 1.96 · σ / √20 wide.
    assert 0.6 < (high - low) / (2 * 1.96 * alike.std() / 20**0.5) < 1.4
    assert clustered_interval(np.ones(10), ["a"] * 10) == [1.0, 1.0]
    assert clustered_interval(np.array([2.0, 6.0]), ["a", "b"], np.array([1.0, 2.0])) == [2.0, 3.0]


def test_median_interval_lies_between_order_statistics() -> None:
    # Of 6, the extremes: 1 − 2 / 2⁶ = 97 %; of 17, the 5th and the 13th (P = 95.1 %).
    assert median_interval(np.arange(6.0)) == (0.0, 5.0)
    assert median_interval(np.arange(17.0)[::-1]) == (4.0, 12.0)
    assert median_interval(np.arange(5.0)) is None
    rng = np.random.default_rng(10)
    found = [median_interval(rng.exponential(size=41)) for _ in range(ROUNDS)]
    assert LOWEST <= share(found, float(np.log(2))) <= HIGHEST
