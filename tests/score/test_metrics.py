"""Every figure on a case worked out by hand; correlation and AUC also against slow and obvious ways."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.score.metrics import Confusion, Metric, classification, confusion, correlation, pearson, roc_auc

LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
ANSWERS = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], bool)


def by_name(metrics: tuple[Metric, ...]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def test_counts_and_figures_worked_out_by_hand() -> None:  # A1.01
    found = by_name(classification(LABELS, ANSWERS, base_rate=0.01, n_failed=2))
    assert confusion(LABELS, ANSWERS) == Confusion(tp=3, fp=1, fn=1, tn=5)
    expected = {
        "precision": 3 / 4,
        "recall": 3 / 4,
        "f1": 6 / 8,
        "balanced_accuracy": (3 / 4 + 5 / 6) / 2,
        "accuracy": 8 / 10,
        "prevalence_corrected_precision": 0.01 * 0.75 / (0.01 * 0.75 + 0.99 / 6),
    }
    assert {name: metric.value for name, metric in found.items()} == pytest.approx(expected)
    for metric in found.values():
        assert (metric.n, metric.n_failed) == (10, 2)
        assert metric.value is not None
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        assert metric.ci_low < metric.value < metric.ci_high
    # Wilson of 3 in 4, worked out: (0.75 + 1.9207/4 ± …) / (1 + 3.8415/4).
    assert (found["recall"].ci_low, found["recall"].ci_high) == pytest.approx((0.3006, 0.9544), abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "answers", "without"),
    [
        ([], [], {"precision", "recall", "f1", "balanced_accuracy", "accuracy", "prevalence_corrected_precision"}),
        ([0, 0], [0, 0], {"precision", "recall", "f1", "balanced_accuracy", "prevalence_corrected_precision"}),
        ([1, 1], [1, 0], {"balanced_accuracy", "prevalence_corrected_precision"}),
        ([1, 0], [0, 0], {"precision", "prevalence_corrected_precision"}),
        ([0, 0], [1, 0], {"recall", "balanced_accuracy", "prevalence_corrected_precision"}),
    ],
)
def test_a_figure_without_a_value_is_none_and_never_zero(labels, answers, without) -> None:
    found = classification(np.array(labels, bool), np.array(answers, bool), base_rate=0.1)
    assert {metric.name for metric in found if metric.value is None} == without
    for metric in found:
        assert (metric.value is None) == (metric.ci_low is None) == (metric.ci_high is None)


def test_f1_of_nothing_found_is_zero() -> None:
    found = by_name(classification(np.array([True, False]), np.array([False, False])))
    assert (found["f1"].value, found["recall"].value, found["precision"].value) == (0.0, 0.0, None)


def test_all_right_and_all_wrong() -> None:
    for answers, value in ((LABELS, 1.0), (~LABELS, 0.0)):
        found = classification(LABELS, answers, probabilities=answers.astype(float), base_rate=0.5)
        assert {metric.value for metric in found} == {value}
        for metric in found:
            # Ten items prove nothing: the interval reaches from the value to well away from it.
            assert metric.ci_low is not None
            assert metric.ci_high is not None
            assert (metric.ci_high if value else metric.ci_low) == value
            assert 0.2 < metric.ci_high - metric.ci_low < 0.9


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.1 + 1e-16, 0.5, 0.9, 1.0])), max_size=30),
)
def test_auc_against_all_pairs(items) -> None:
    labels = np.array([label for label, _ in items], bool)
    scores = np.array([score for _, score in items])
    pairs = list(itertools.product(scores[labels], scores[~labels]))
    slow = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs) if pairs else None
    assert roc_auc(labels, scores) == (slow if slow is None else pytest.approx(slow, abs=1e-12))


def test_auc_by_hand() -> None:
    # Pairs: 0.9 beats both; 0.4 ties with one and beats the other: (2 + 1.5) / 4.
    assert roc_auc(np.array([1, 1, 0, 0], bool), np.array([0.9, 0.4, 0.4, 0.1])) == 0.875


def test_items_without_a_probability_count_as_failed_in_auc_only() -> None:
    probabilities = np.where(np.arange(10) < 2, np.nan, ANSWERS)
    found = by_name(classification(LABELS, ANSWERS, probabilities=probabilities, n_failed=1))
    assert (found["auc"].n, found["auc"].n_failed) == (8, 3)
    assert (found["accuracy"].n, found["accuracy"].n_failed) == (10, 1)
    assert "auc" not in by_name(classification(LABELS, ANSWERS, probabilities=np.full(10, np.nan)))


def test_prevalence_corrects_precision_by_bayes() -> None:
    """Told apart at TPR 1 and FPR 2 %, a feature of one window in a thousand has a precision of a twentieth."""
    labels = np.repeat([True, False], [50, 50])
    answers = labels.copy()
    answers[-1] = True
    found = by_name(classification(labels, answers, base_rate=0.001))["prevalence_corrected_precision"]
    assert found.value == pytest.approx(0.001 / (0.001 + 0.999 * 0.02))
    assert classification(labels, answers, base_rate=0.5)[-1].value == pytest.approx(50 / 51)
    with pytest.raises(ValueError, match="base rate"):
        classification(labels, answers, base_rate=0.0)


def test_documents_widen_every_interval_of_answers_that_agree_within_them() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([True, False], 60)
    documents = np.repeat(np.arange(12), 10)
    right = np.repeat(rng.random(12) < 0.7, 10)
    answers, probabilities = labels == right, np.where(labels == right, 0.8, 0.3)
    alone = classification(labels, answers, probabilities=probabilities, base_rate=0.1)
    grouped = classification(labels, answers, probabilities=probabilities, base_rate=0.1, documents=documents)
    for one, other in zip(alone, grouped, strict=True):
        assert one.value == other.value
        assert one.ci_low is not None and one.ci_high is not None  # noqa: PT018
        assert other.ci_low is not None and other.ci_high is not None  # noqa: PT018
        assert other.ci_high - other.ci_low > 1.3 * (one.ci_high - one.ci_low)


def test_pearson_by_hand_and_by_numpy() -> None:
    # Deviations (−1, 0, 1) and (−1, 1, 0): 1 / √(2 · 2).
    assert pearson(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = 1e7 + 1e-3 * (x + rng.normal(size=200))
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pearson(x, 3 * x + 1) == pytest.approx(1.0)
    assert pearson(x, -x) == pytest.approx(-1.0)


@pytest.mark.parametrize("rows", [([], []), ([1.0], [2.0]), ([1.0, 1.0], [0.0, 1.0]), ([0.0, 1.0], [3.0, 3.0])])
def test_pearson_of_a_constant_is_none(rows) -> None:
    assert pearson(np.array(rows[0]), np.array(rows[1])) is None
    assert correlation([np.array(rows[0])], [np.array(rows[1])]).value is None


def test_correlation_resamples_whole_excerpts() -> None:
    rng = np.random.default_rng(1)
    actual = [np.repeat(rng.normal(), 20) + 0.01 * rng.normal(size=20) for _ in range(30)]
    predicted = [row + np.repeat(rng.normal(), 20) for row in actual]
    found = correlation(predicted, actual, n_failed=3, seed=5)
    assert found.value == pytest.approx(np.corrcoef(np.concatenate(predicted), np.concatenate(actual))[0, 1])
    assert (found.n, found.n_failed) == (30, 3)
    assert found.ci_low is not None
    assert found.ci_high is not None
    # Thirty points' worth of information, whatever the number of tokens: Fisher's z has σ = 1/√27.
    width = math.atanh(found.ci_high) - math.atanh(found.ci_low)
    assert 0.6 < width / (2 * 1.96 / 27**0.5) < 1.5
    assert correlation(predicted, actual, seed=5) == correlation(predicted, actual, seed=5)
    assert correlation([], []) == Metric("correlation", None, None, None, 0, 0)
