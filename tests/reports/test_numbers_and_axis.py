"""Numbers and plots: the same characters for the same value, and a place for every value."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import numbers

from raylens.audit.artefacts import NullScore, ScoreFile
from raylens.reports.axis import LEFT, WIDTH, Axis
from raylens.reports.null_plot import null_plot
from raylens.reports.numbers import count, figure, percent, signed


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"),
        (0, "0"),
        (-0.0, "0"),
        (120, "120"),
        (1 / 3, "0.333"),
        (0.0099009, "0.0099"),
        (-2.345678, "-2.35"),
        (999.7, "1000"),
        (12345.6, "12346"),
        (1234567.0, "1.23e+06"),
        (1e-9, "1e-09"),
    ],
)
def test_figures(value: float | None, written: str) -> None:
    assert figure(value) == written


def test_shares_signs_and_counts() -> None:
    assert (percent(0.01), percent(0.29), percent(1.0), percent(0.0), percent(None)) == (
        "1 %",
        "29 %",
        "100 %",
        "0 %",
        "–",
    )
    assert (signed(0.5), signed(-0.5), signed(0.0), signed(None)) == ("+0.5", "-0.5", "0", "–")
    assert (count(1, "family", "families"), count(0, "prompt")) == ("1 family", "0 prompts")


@given(numbers())
def test_a_figure_is_near_its_value(value: float) -> None:
    written = float(figure(value))
    assert written == pytest.approx(value, rel=0.006, abs=5e-324) or abs(written) == float("inf")


@given(st.lists(numbers(), min_size=1, max_size=6))
@example([1.7e308, 1.7e308])
@example([-1.7e308, 1.7e308])
@example([5e-324, 1.5e-323])
@example([5e-324, 1.7e308])
@example([1e9, 1e9 + 1e-6])
@example([0.04, 0.09])
def test_every_value_has_a_place_in_its_order(values: list[float]) -> None:
    axis = Axis.over(values)
    places = [axis.place(one) for one in sorted(values)]
    assert places == sorted(places)
    assert all(LEFT <= one <= LEFT + WIDTH for one in places)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 10
    assert [value for value, _ in ticks] == sorted({value for value, _ in ticks})


def test_ticks_are_round() -> None:
    assert [label for _, label in Axis.over([0.041, 0.093]).ticks()] == ["0.05", "0.06", "0.07", "0.08", "0.09"]
    assert [label for _, label in Axis.over([-3.0, 8.0]).ticks()] == ["-2", "0", "2", "4", "6", "8"]
    assert [label for _, label in Axis.over([0.01, 100.0]).ticks()] == ["0.01", "0.1", "1", "10", "100"]


def score_file(null: list[tuple[str, float]], score: float) -> ScoreFile:
    rows = tuple(NullScore(organism=f"b{i}", family=family, score=value) for i, (family, value) in enumerate(null))
    return ScoreFile.model_construct(
        score_method="m", aggregate_score=score, null=rows, threshold=max((value for _, value in null), default=None)
    )


def test_one_mark_a_benign_fine_tune() -> None:  # A2.18
    drawn = null_plot(score_file([(f"f{i % 3}", i / 10) for i in range(60)], 7.0))
    assert drawn.count("<title>b") == 60
    assert "b7 (f1): 0.7" in drawn
    assert "f0 (20)" in drawn
    assert "candidate 7<" in drawn
    assert "threshold 5.9<" in drawn
    assert "0 of them score as high as the candidate (7) or higher" in drawn


def test_many_alike_are_columns_with_a_stroke_each() -> None:
    drawn = null_plot(score_file([("f", float(i % 4)) for i in range(500)], 2.0))
    assert drawn.count('class="column"') == 4
    assert drawn.count('class="rug"') == 4
    assert drawn.count("<circle") == 1  # the candidate
    assert "250 of them score as high" in drawn


def test_families_beyond_the_colours_share_one() -> None:
    drawn = null_plot(score_file([(f"f{i:02}", float(i)) for i in range(30)], 2.0))
    assert "23 other families (23)" in drawn
    assert 'class="f8"' not in drawn
