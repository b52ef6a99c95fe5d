"""Scorers that ask nobody, and what is made of many features: cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raylens.score import aggregate, embedding, rule, surprisal
from raylens.score.aggregate import FeatureScore, is_good
from raylens.score.metrics import Metric
from raylens.score.questions import ScorerSettings
from raylens.score.shuffled import givers
from raylens.score.specialization import specialization


def test_surprisal_by_hand() -> None:  # A1.05
    untold = [np.array([2.0, 4.0]), np.array([3.0]), np.array([1.0, 1.0]), np.array([2.0]), None, np.array([np.inf])]
    told = [
        np.array([1.0, 2.0]),
        np.array([2.5]),
        np.array([1.5, 1.0]),
        np.array([2.0]),
        np.array([1.0]),
        np.array([1.0]),
    ]
    labels = np.array([True, True, False, False, True, False])
    found = {metric.name: metric for metric in surprisal.result(told, untold, labels)}
    # Saved: 1.5 and 0.5 where it fires, −0.25 and 0 where not; the mean is over excerpts, not over tokens.
    assert found["loss_reduction"].value == pytest.approx(1.0)
    assert found["loss_reduction_negatives"].value == pytest.approx(-0.125)
    assert found["auc"].value == 1.0
    assert [(metric.n, metric.n_failed) for metric in found.values()] == [(2, 1), (2, 1), (4, 2)]
    uneven = surprisal.result([np.zeros(2)], [np.zeros(3)], np.array([True]))
    assert [(m.value, m.n, m.n_failed) for m in uneven[:1]] == [(None, 0, 1)], "a token across the border of one alone"
    nothing = surprisal.result([], [], np.array([], bool))
    assert [metric.value for metric in nothing] == [None, None, None]


def test_surprisal_is_paired() -> None:
    """A saving far below the spread of losses between excerpts shows, as each is compared with itself."""
    rng = np.random.default_rng(0)
    untold = [rng.gamma(2, 2, size=20) + 5 * rng.random() for _ in range(60)]
    told = [row - 0.05 + 0.02 * rng.normal(size=20) for row in untold]
    found = surprisal.result(told, untold, np.ones(60, bool))[0]
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert 0.04 < found.ci_low < 0.05 < found.ci_high + 0.002 < 0.06


def test_surprisal_contexts_differ_in_the_explanation_only(settings: ScorerSettings) -> None:
    told, untold = surprisal.contexts("names of months", settings)
    assert told.replace("names of months", surprisal.NEUTRAL) == untold != told
    assert told.endswith("\n")


def test_embedding_by_hand() -> None:  # A1.05
    texts = np.array([[2.0, 0], [1, 1], [0, 5], [-1, 0], [0, 0]])
    cosines = embedding.similarities(np.array([3.0, 0]), texts)
    assert cosines[:4] == pytest.approx([1, 2**-0.5, 0, -1])
    labels = np.array([True, False, True, False, True])
    (found,) = embedding.result(np.array([3.0, 0]), texts, labels)
    # Pairs: 1 > 0.7, 1 > −1, 0 < 0.7, 0 > −1.
    assert (found.value, found.n, found.n_failed) == (0.75, 4, 1)
    (perfect,) = embedding.result(np.array([1.0, 0]), texts[[0, 1, 2, 3]], np.array([True, True, False, False]))
    (inverted,) = embedding.result(np.array([-1.0, 0]), texts[[0, 1, 2, 3]], np.array([True, True, False, False]))
    assert (perfect.value, inverted.value) == (1.0, 0.0)
    (blank,) = embedding.result(np.zeros(2), texts, labels)
    assert blank == Metric("auc", None, None, None, 0, 5)


def test_rule_is_scored_on_its_matches() -> None:
    labels = np.array([True, True, True, False, False])
    found = {m.name: m.value for m in rule.result(labels, np.array([True, True, False, True, False]), base_rate=0.5)}
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["prevalence_corrected_precision"] == pytest.approx((2 / 3) / (2 / 3 + 1 / 2))
    assert "auc" not in found
    assert {m.value for m in rule.result(labels, labels)} == {1.0}
    assert {m.value for m in rule.result(labels, ~labels)} == {0.0}


def test_specialization_by_hand() -> None:  # A1.01
    sums, tokens = np.array([6.0, 2.0, 1.0, 3.0, 0.0]), np.array([2, 2, 4, 4, 0])
    domain = np.array([True, True, False, False, True])
    found = specialization(sums, tokens, domain)
    # 8 over 4 tokens against 4 over 8; the document without tokens is no document.
    assert (found.value, found.n) == (1.5, 4)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert 0.25 <= found.ci_low <= 1.5 <= found.ci_high <= 2.75
    assert specialization(sums, tokens, ~domain).value == -1.5
    assert specialization(sums, tokens, np.ones(5, bool)) == Metric("specialization", None, None, None, 4, 0)
    alone = specialization(sums[1:4], tokens[1:4], domain[1:4])
    assert (alone.value, alone.ci_low) == (0.5, None)


def test_specialization_covers_over_documents() -> None:
    rng = np.random.default_rng(2)
    inside = []
    for seed in range(200):
        domain = np.repeat([True, False], [40, 60])
        tokens = rng.integers(50, 200, size=100)
        means = rng.exponential(np.where(domain, 0.7, 0.2))
        found = specialization(means * tokens, tokens, domain, seed=seed)
        assert found.ci_low is not None
        assert found.ci_high is not None
        inside.append(found.ci_low <= 0.5 <= found.ci_high)
    assert 0.87 <= np.mean(inside) <= 0.99


GOOD = FeatureScore(0.71, 0.81, 0.61, 1e-3, is_concept=True)


@pytest.mark.parametrize(
    ("feature", "verdict"),
    [
        (GOOD, True),
        (FeatureScore(0.7, 0.81, 0.61, 1e-3, is_concept=True), False),
        (FeatureScore(0.71, 0.8, 0.61, 1e-3, is_concept=True), False),
        (FeatureScore(0.71, 0.81, 0.6, 1e-3, is_concept=True), False),
        (FeatureScore(0.71, 0.81, 0.61, 1e-3, is_concept=False), False),
        (FeatureScore(0.71, 0.81, 0.61, 1e-3), None),
        (FeatureScore(None, 0.81, 0.61, 1e-3, is_concept=True), None),
        (FeatureScore(0.2, None, 0.61, 1e-3), False),
    ],
)
def test_the_good_feature_rule(feature: FeatureScore, verdict: bool | None) -> None:  # A1.02
    assert is_good(feature) is verdict


def test_rates_by_hand() -> None:  # A1.02
    features = [GOOD] * 3 + [FeatureScore(0.1, 0.9, 0.1, 1e-3)] * 7 + [FeatureScore(0.9, 0.9, 0.9, 1e-3)] * 2
    good, above = aggregate.good_rate(features), aggregate.threshold_rate(features)
    assert (good.value, good.n, good.n_failed) == (0.3, 10, 2)
    assert (good.ci_low, good.ci_high) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    assert (above.value, above.n, above.n_failed) == (5 / 12, 12, 0)
    assert aggregate.good_rate([]) == Metric("good_rate", None, None, None, 0, 0)


def test_frequency_weighted_f1_by_hand() -> None:
    features = [FeatureScore(1.0, 1, 1, 0.03), FeatureScore(0.2, 1, 1, 0.01), FeatureScore(None, 1, 1, 0.5)]
    found = aggregate.frequency_weighted_f1(features)
    assert found.value == pytest.approx((0.03 * 1.0 + 0.01 * 0.2) / 0.04)
    assert (found.n, found.n_failed) == (2, 1)
    nothing = aggregate.frequency_weighted_f1([FeatureScore(None, None, None, 0.5), FeatureScore(1.0, 1, 1, 0.0)])
    assert nothing.value is None


def test_every_feature_is_in_the_band_of_its_density() -> None:
    densities = [0.0, 5e-6, 1e-5, 1.1e-5, 1e-4, 0.05, 0.1, 0.11, 1.0]
    features = [FeatureScore(1.0, 1, 1, density) for density in densities]
    bands = aggregate.by_density(features)
    assert [[f.density for f in members] for _, _, members in bands] == [
        [5e-6, 1e-5], [1.1e-5, 1e-4], [], [], [0.05, 0.1], [0.11, 1.0],
    ]  # fmt: skip
    assert bands[4][:2] == (1e-2, 1e-1)


def test_per_sae_has_every_figure_with_n_and_interval() -> None:
    rng = np.random.default_rng(3)
    values = rng.random((40, 3))
    features = [FeatureScore(*row, density=0.01, is_concept=True) for row in values.tolist()]
    features.append(FeatureScore(None, None, None, 0.01))
    found = {metric.name: metric for metric in aggregate.per_sae(features, seed=1)}
    assert found["mean_f1"].value == pytest.approx(values[:, 0].mean())
    assert found["median_recall"].value == pytest.approx(np.median(values[:, 2]))
    assert found["frequency_weighted_f1"].value == pytest.approx(values[:, 0].mean()), "all fire equally often"
    for metric in found.values():
        assert (metric.n, metric.n_failed) == (40, 1)
        assert metric.value is not None
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        assert metric.ci_low <= metric.value <= metric.ci_high
    normal = stats.norm.interval(0.95, values[:, 0].mean(), stats.sem(values[:, 0]))
    assert (found["mean_f1"].ci_low, found["mean_f1"].ci_high) == pytest.approx(normal, abs=0.02)
    for metric in aggregate.per_sae([]):
        assert (metric.value, metric.ci_low, metric.n) == (None, None, 0)


@given(st.dictionaries(st.integers(0, 500), st.sampled_from("abcdefgh"), max_size=40), st.integers(0, 99))
def test_givers_are_others_that_read_otherwise(explanations: dict[int, str], seed: int) -> None:
    given_by = givers(explanations, seed)
    assert all(explanations[giver] != explanations[feature] for feature, giver in given_by.items())
    left_out = set(explanations) - set(given_by)
    assert (not left_out) or len(set(explanations.values())) == 1
    assert givers(dict(reversed(explanations.items())), seed) == given_by


@given(st.sets(st.integers(0, 500), min_size=2, max_size=40), st.integers(501, 600), st.integers(0, 99))
def test_unlike_explanations_are_each_given_once_and_one_more_changes_one(
    features: set[int], other: int, seed: int
) -> None:
    before = givers({feature: f"about {feature}" for feature in features}, seed)
    assert sorted(before.values()) == sorted(features)
    after = givers({feature: f"about {feature}" for feature in {*features, other}}, seed)
    assert sum(after[feature] != before[feature] for feature in features) == 1


def test_givers_differ_by_seed() -> None:
    texts = {feature: f"about {feature}" for feature in range(30)}
    drawn = {tuple(givers(texts, seed).values()) for seed in range(20)}
    assert len(drawn) == 20
    nearer = sum(giver == feature + 1 for seed in range(20) for feature, giver in givers(texts, seed).items())
    assert nearer < 60, "the order is drawn: 20 × 30 / 29 are expected"


def test_no_metric_is_ever_nan() -> None:
    found = [
        *surprisal.result([np.array([np.nan])], [np.array([1.0])], np.array([True])),
        *embedding.result(np.array([np.nan, 1.0]), np.ones((3, 2)), np.array([True, False, True])),
        aggregate.mean("f1", [None, None]),
        aggregate.median("f1", []),
    ]
    for metric in found:
        assert metric.value is None
        assert not any(isinstance(x, float) and math.isnan(x) for x in (metric.ci_low, metric.ci_high))
