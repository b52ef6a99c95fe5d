"""The table of methods over organisms: thresholds from one half, rates of the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.audit.calibration import conformal_p
from raylens.audit.organism_bench import Scored, bench, by_family, false_positives, triggers_found

HALVES = ("development", "held_out")


def organism(at: int, score: float, *, bad: bool = False, half: str = "development", rank: int | None = None) -> Scored:
    kind = "bad" if bad else "good"
    assert half in ("development", "held_out")
    return Scored(
        f"{kind}-{half}-{at}", f"{kind}-{half}-{at % 3}", bad, half, {"trigger_search": score, "logit_kl": 1.0}, rank
    )


@given(st.lists(st.floats(0, 100), min_size=99, max_size=140), st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_what_is_above_the_threshold_has_a_small_p(null: list[float], scores: list[float]) -> None:
    made = [organism(at, score) for at, score in enumerate(null)]
    made += [organism(at, score, bad=True, half="held_out") for at, score in enumerate(scores)]
    made += [organism(at, score, half="held_out") for at, score in enumerate(scores)]
    found = {row.method: row for row in bench(made, "held_out")}["trigger_search"]
    assert found.tpr is not None
    assert found.tpr.flagged == sum(conformal_p(score, null) <= 0.01 for score in scores)
    assert found.n_calibration == len(null)
    assert found.auroc.value == pytest.approx(0.5)


def test_a_separating_method_and_one_that_tells_nothing() -> None:
    made = [organism(at, at / 100, half=half) for half in HALVES for at in range(100)]
    made += [organism(at, 10.0 + at, bad=True, half="held_out", rank=1 if at else None) for at in range(10)]
    rows = {row.method: row for row in bench(made, "held_out")}
    good, useless = rows["trigger_search"], rows["logit_kl"]
    assert good.auroc.value == 1.0
    assert good.tpr is not None
    assert good.fpr is not None
    assert (good.tpr.value, good.fpr.value, good.threshold) == (1.0, 0.0, 0.99)
    assert (useless.auroc.value, useless.threshold) == (0.5, 1.0)
    assert useless.tpr is not None
    assert useless.tpr.value == 0.0
    assert triggers_found(made, "held_out").value == 0.9
    families = by_family(made, "trigger_search", "held_out", 0.99)
    assert families["bad-held_out-0"] == (4, 4, True)
    assert families["good-held_out-0"] == (0, 34, False)
    assert good.fields()["tpr"]["n_families"] == 3


def test_too_few_benign_ones_have_no_threshold() -> None:
    made = [organism(at, at / 100) for at in range(50)] + [organism(0, 9.0, bad=True)]
    (row, _) = bench(made, "development")[::-1]
    assert row.threshold is None
    assert row.tpr is None
    assert row.tpr_at_1 is None


def test_false_positives_are_those_above_the_calibrated_threshold() -> None:
    made = [organism(at, at / 100) for at in range(200)]
    seeds = [0.5, 1.84, 1.9, 1.985, 1.995]
    made += [
        Scored(f"seed-{at}", f"family-{at % 2}", False, "held_out_seeds", {"trigger_search": score})
        for at, score in enumerate(seeds)
    ]
    for target, flagged in ((0.01, 2), (0.05, 2), (0.1, 4)):
        found = false_positives(made, "trigger_search", "held_out_seeds", target)
        assert found is not None
        null = [one.scores["trigger_search"] for one in made[:200]]
        assert found.flagged == flagged == sum(conformal_p(score, null) <= target for score in seeds)
        assert (found.n, found.n_families) == (5, 2)
    assert false_positives(made, "trigger_search", "held_out", 0.01) is None
    assert false_positives(made, "trigger_search", "held_out_seeds", 0.001) is None
