"""Conformal p-values: by hand, and exactly as often as they promise, by going through all rank orders."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.audit.calibration import (
    AuditIdentity,
    BenignScore,
    Calibration,
    conformal_p,
    conformal_threshold,
    smallest_n,
    smallest_p,
)
from raylens.errors import InputError

IDENTITY = AuditIdentity(
    model="raylens/pico@1",
    sae="raylens/pico-saes/layer_4",
    suite="abc",
    method="abs_diff_topk",
    settings={"k": 20, "pooling": "mean", "variants": True},
)


def calibration(values: list[float], identity: AuditIdentity = IDENTITY) -> Calibration:
    scores = tuple(BenignScore(organism=f"b{i}", family=f"f{i % 3}", score=v) for i, v in enumerate(values))
    return Calibration(identity=identity, scores=scores)


def test_p_values_by_hand() -> None:  # A2.18
    benign = [1.0, 2.0, 3.0, 4.0]
    # At or above 3 lie two of four: (1 + 2) / (4 + 1). A tie counts against the candidate's being unusual.
    assert [conformal_p(s, benign) for s in (0.0, 1.0, 3.0, 3.5, 5.0)] == [1.0, 1.0, 0.6, 0.4, 0.2]
    assert conformal_p(7.0, []) == 1.0
    assert conformal_p(7.0, [7.0] * 99) == 1.0
    assert conformal_p(7.1, [7.0] * 99) == 0.01
    assert conformal_p(float("inf"), [1.0]) == 0.5


def test_five_benign_fine_tunes_cannot_show_one_percent() -> None:  # A2.18
    assert smallest_p(5) == pytest.approx(0.167, abs=5e-4)
    assert conformal_p(1e9, [0.0] * 5) == smallest_p(5)
    assert [smallest_n(target) for target in (0.01, 0.05, 0.1, 0.5)] == [99, 19, 9, 1]


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_p_values_are_super_uniform_for_every_pattern_of_ties(n: int) -> None:  # A2.18
    """Exchangeable means that the candidate is any of the n + 1 with the same chance: so go through all of them.

    P(p ≤ α) ≤ α for every α that a p-value can be, with equality where no two scores are equal.
    """
    for ranks in combinations_with_replacement(range(n + 1), n + 1):
        found = [
            Fraction(conformal_p(rank, ranks[:i] + ranks[i + 1 :])).limit_denominator(n + 1)
            for i, rank in enumerate(ranks)
        ]
        for k in range(1, n + 2):
            level = Fraction(k, n + 1)
            share = Fraction(sum(p <= level for p in found), n + 1)
            assert share <= level
            assert share == level or len(set(ranks)) <= n


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(-1, 10), st.data())
def test_above_the_threshold_is_at_most_the_target(benign: list[int], score: int, data: st.DataObject) -> None:  # A2.18
    n = len(benign)
    # Levels that are p-values themselves are where rounding could part the two.
    exact = st.integers(1, n).map(lambda k: k / (n + 1)) if n else st.nothing()
    target = data.draw(exact | st.floats(0.001, 0.999) | st.sampled_from([0.01, 0.05, 0.07, 0.1, 0.29, 0.3]))
    threshold = conformal_threshold(benign, target)
    assert (threshold is not None and score > threshold) == (conformal_p(score, benign) <= target)
    assert (threshold is None) == (n < smallest_n(target))


def test_the_threshold_by_hand() -> None:  # A2.18
    benign = list(range(1, 100))
    assert conformal_threshold(benign, 0.01) == 99
    assert conformal_threshold(benign, 0.05) == 95
    assert conformal_threshold(benign[:98], 0.01) is None
    assert conformal_threshold([], 0.5) is None


@given(st.floats(0.001, 0.999))
def test_smallest_n_is_the_smallest(target: float) -> None:
    n = smallest_n(target)
    assert smallest_p(n) <= target
    assert n == 0 or smallest_p(n - 1) > target


@given(
    st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=30),
    st.integers(-60, 60).map(float),
    st.sampled_from([0.5, 4.0]),
    st.randoms(),
)
def test_only_the_order_of_scores_matters(benign: list[float], score: float, unit: float, random) -> None:
    found = conformal_p(score, benign)
    assert 0 < found <= 1
    assert smallest_p(len(benign)) <= found
    shuffled = random.sample(benign, len(benign))
    assert conformal_p(score, shuffled) == found
    assert conformal_p(unit * score + 3, [unit * value + 3 for value in benign]) == found
    assert conformal_p(score + 1, benign) <= found


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, 5.0, float("nan"), 3e-30, 1e-310])
def test_a_target_is_a_rate(target: float) -> None:
    for refuse in (lambda: conformal_threshold([1.0], target), lambda: smallest_n(target)):
        with pytest.raises(InputError, match=r"not between 0\.000001 and 1"):
            refuse()


def test_nan_compares_with_nothing() -> None:
    nan = float("nan")
    for refuse in (
        lambda: conformal_p(nan, [1.0]),
        lambda: conformal_p(1.0, [nan]),
        lambda: conformal_threshold([nan]),
    ):
        with pytest.raises(ValueError, match="NaN"):
            refuse()


def test_a_calibration_judges_its_own_kind_only() -> None:  # A2.18, A2.21
    made = calibration([1.0, 2.0, 3.0])
    assert made.matches(IDENTITY) == []
    for change, said in (
        ({"model": "other"}, "model (calibrated: raylens/pico@1; this audit: other)"),
        ({"sae": None}, "sae (calibrated: raylens/pico-saes/layer_4; this audit: None)"),
        ({"suite": "abd"}, "suite (calibrated: abc; this audit: abd)"),
        ({"method": "logit_kl"}, "method (calibrated: abs_diff_topk; this audit: logit_kl)"),
        (
            {"settings": {"k": 20, "pooling": "max", "variants": True}},
            "settings.pooling (calibrated: mean; this audit: max)",
        ),
        ({"settings": {"k": 20, "pooling": "mean"}}, "settings.variants (calibrated: True; this audit: not said)"),
        (
            {"settings": {"k": 20, "pooling": "mean", "variants": True, "seed": 1}},
            "settings.seed (calibrated: not said; this audit: 1)",
        ),
        (
            {"settings": {"k": 20, "pooling": "mean", "variants": 1}},
            "settings.variants (calibrated: True; this audit: 1)",
        ),
    ):  # fmt: skip
        assert made.matches(IDENTITY.model_copy(update=change)) == [said]
    other = AuditIdentity(model="m", sae=None, suite="s", method="logit_kl")
    assert len(made.matches(other)) == 7


def test_a_calibration_round_trips_and_answers() -> None:
    made = calibration([1.0, 2.0, 3.0, 4.0])
    again = Calibration.model_validate_json(made.model_dump_json())
    assert again == made
    assert again.matches(IDENTITY) == []
    assert (made.n, made.families, made.values) == (4, ("f0", "f1", "f2"), (1.0, 2.0, 3.0, 4.0))
    assert made.p_value(3.0) == 0.6
    assert made.threshold(0.2) == 4.0
    assert made.threshold() is None


def test_a_calibration_counts_each_fine_tune_once_and_no_nan() -> None:
    one = {"organism": "a", "family": "f", "score": 1.0}
    identity = IDENTITY.model_dump()
    with pytest.raises(InputError, match="counted twice: a"):
        Calibration.of({"identity": identity, "scores": [one, one]})
    for scores in ([], [{**one, "score": float("nan")}], [{**one, "colour": 1}]):
        with pytest.raises(InputError, match="scores"):
            Calibration.of({"identity": identity, "scores": scores})
