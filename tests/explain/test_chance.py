from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from raylens.explain.chance import coins_at_least, draws_at_least


@given(st.data())
def test_draws_are_those_of_the_hypergeometric_distribution(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 3000))
    marked, drawn = (data.draw(st.integers(0, total)) for _ in range(2))
    hits = data.draw(st.integers(0, min(marked, drawn)))
    expected = hypergeom.sf(hits - 1, total, marked, drawn)
    assert draws_at_least(hits, drawn, marked, total) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.data())
def test_coins_are_those_of_the_binomial_distribution(data: st.DataObject) -> None:
    tossed = data.draw(st.integers(0, 1000))
    hits = data.draw(st.integers(0, tossed))
    assert coins_at_least(hits, tossed) == pytest.approx(binom.sf(hits - 1, tossed, 0.5), rel=1e-6, abs=1e-12)


def test_worked_by_hand() -> None:
    """Both of two drawn are the two marked of four: one way of six. Three heads of three: one of eight."""
    assert draws_at_least(2, 2, 2, 4) == pytest.approx(1 / 6)
    assert draws_at_least(1, 2, 2, 4) == pytest.approx(5 / 6)
    assert coins_at_least(3, 3) == pytest.approx(1 / 8)
    assert coins_at_least(2, 3) == pytest.approx(4 / 8)
    assert draws_at_least(0, 0, 0, 0) == coins_at_least(0, 0) == 1
