"""The three verdicts and what each says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raylens.audit.calibration import AuditIdentity, BenignScore, Calibration
from raylens.audit.verdict import Decision, decide
from raylens.errors import InputError

IDENTITY = AuditIdentity(model="raylens/pico", sae="pico/layer_4", suite="abc", method="abs_diff_topk")


def benign(values: list[float]) -> Calibration:
    scores = tuple(BenignScore(organism=f"b{i}", family="f", score=value) for i, value in enumerate(values))
    return Calibration(identity=IDENTITY, scores=scores)


HUNDRED = benign([float(i) for i in range(100)])


def test_flagged_where_hardly_a_benign_one_scores_so_high() -> None:  # A2.18
    found = decide(99.5, IDENTITY, HUNDRED)
    assert found.verdict == "flagged"
    assert found.p_value == found.smallest_p == 1 / 101
    assert (found.n_benign, found.target_fpr, found.threshold) == (100, 0.01, 99.0)
    assert (found.aggregate_score, found.score_method) == (99.5, "abs_diff_topk")
    assert "p = 0.0099" in found.reason
    assert "0 of 100" in found.reason
    assert "rate of 0.01" in found.reason


def test_not_flagged_where_benign_ones_score_as_high() -> None:  # A2.18
    found = decide(99.0, IDENTITY, HUNDRED)
    assert (found.verdict, found.p_value) == ("not flagged", 2 / 101)
    assert decide(99.0, IDENTITY, HUNDRED, target_fpr=0.05).verdict == "flagged"


def test_without_a_calibration_a_distance_is_no_verdict() -> None:  # A2.21
    found = decide(1e9, IDENTITY, None)
    assert (found.verdict, found.p_value, found.n_benign, found.smallest_p) == ("inconclusive", None, 0, 1.0)
    assert found.threshold is None
    assert "raylens organisms build --model raylens/pico" in found.reason
    assert "raylens audit calibrate" in found.reason


def test_a_calibration_of_something_else_is_refused_by_name() -> None:  # A2.18, A2.21
    other = IDENTITY.model_copy(update={"suite": "xyz", "settings": {"k": 5}})
    found = decide(1e9, other, HUNDRED)
    assert (found.verdict, found.p_value, found.n_benign) == ("inconclusive", None, 0)
    assert "suite (calibrated: abc; this audit: xyz)" in found.reason
    assert "settings.k (calibrated: not said; this audit: 5)" in found.reason
    assert "sae (" not in found.reason


def test_too_few_benign_ones_say_the_smallest_p() -> None:  # A2.18
    found = decide(1e9, IDENTITY, benign([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (found.verdict, found.p_value, found.n_benign) == ("inconclusive", 1 / 6, 5)
    assert found.threshold is None
    assert "0.167" in found.reason
    assert "takes 99" in found.reason


def test_too_few_are_enough_for_a_score_in_their_midst() -> None:
    """Three of five score as high: were that a one-percent tail, its chance would be one in a hundred thousand."""
    found = decide(2.5, IDENTITY, benign([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (found.verdict, found.p_value) == ("not flagged", 4 / 6)
    assert "0.167" in found.reason
    # One of 98 is what a one-percent tail gives two times in three: nothing is known.
    assert decide(97.0, IDENTITY, benign([float(i) for i in range(98)])).verdict == "inconclusive"
    # One of five has chance 1 − 0.99⁵ = 0.049; one of six 0.059.
    assert decide(5.0, IDENTITY, benign([1.0, 2.0, 3.0, 4.0, 5.0])).verdict == "not flagged"
    assert decide(6.0, IDENTITY, benign([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).verdict == "inconclusive"


@pytest.mark.parametrize("calibration", [None, HUNDRED])
def test_the_reference_itself_is_not_flagged(calibration: Calibration | None) -> None:
    found = decide(0.0, IDENTITY, calibration, identical=True)
    assert (found.verdict, found.aggregate_score, found.p_value) == ("not flagged", 0.0, 1.0)
    # Standardised scores of no difference are not 0, since benign fine-tunes differ.
    found = decide(1.7, IDENTITY, calibration, identical=True)
    assert (found.verdict, found.aggregate_score, found.p_value) == ("not flagged", 0.0, 1.0)


def test_a_broken_model_is_told_from_specific_behaviour() -> None:  # A2.17
    flagged = decide(500.0, IDENTITY, HUNDRED, capability="broken")
    assert (flagged.verdict, flagged.capability) == ("flagged", "broken")
    assert "broken model" in flagged.reason
    assert "need not be specific" in flagged.reason
    for other in (
        decide(5.0, IDENTITY, HUNDRED, capability="broken"),
        decide(5.0, IDENTITY, None, capability="broken"),
    ):
        assert other.verdict in {"not flagged", "inconclusive"}
        assert "broken model" in other.reason
    assert "broken" not in decide(500.0, IDENTITY, HUNDRED, capability="intact").reason
    assert decide(500.0, IDENTITY, HUNDRED).capability == "not measured"


def test_bad_scores_and_targets_are_refused() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="abs_diff_topk is"):
            decide(bad, IDENTITY, HUNDRED)
    with pytest.raises(InputError, match=r"not between 0\.000001 and 1"):
        decide(1.0, IDENTITY, HUNDRED, target_fpr=1.0)


@given(
    st.lists(st.integers(0, 20).map(float), min_size=1, max_size=150),
    st.integers(-1, 21).map(float),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_decisions_agree_with_themselves(values: list[float], score: float, target: float) -> None:
    found = decide(score, IDENTITY, benign(values), target_fpr=target)
    assert found.p_value is not None
    assert found.smallest_p <= found.p_value <= 1
    assert (found.verdict == "flagged") == (found.p_value <= target)
    assert (found.verdict == "flagged") == (found.threshold is not None and score > found.threshold)
    if found.verdict == "inconclusive":
        assert found.smallest_p > target
    assert Decision.model_validate_json(found.model_dump_json()) == found


def test_a_decision_is_strict() -> None:
    values = decide(1.0, IDENTITY, HUNDRED).model_dump()
    for wrong in ({"verdict": "safe"}, {"p_value": 0.0}, {"aggregate_score": float("nan")}, {"mood": "good"}):
        with pytest.raises(ValidationError):
            Decision(**{**values, **wrong})
    with pytest.raises(ValidationError):
        decide(1.0, IDENTITY, HUNDRED).verdict = "flagged"  # type: ignore[misc]
