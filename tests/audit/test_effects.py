"""Paired effects: by hand, against dense loops, and under changes that must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.sparse import csr_array

from raylens.audit.effects import Effects, benjamini_hochberg, hedges_correction, paired_effects

FEATURES = hnp.arrays(np.float64, (5, 6), elements=st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0, 3.5]))
COLUMNS = (
    "mean_difference", "effect", "rate_reference", "rate_candidate", "rate_ratio", "p_value", "q_value", "p_max_t",
)  # fmt: skip


def same(a: Effects, b: Effects) -> None:
    np.testing.assert_array_equal(a.feature, b.feature)
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-12, err_msg=name)


def test_by_hand() -> None:
    reference = np.array([[0.0, 1.0, 0.0, 2.0], [1.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 2.0]])
    candidate = np.array([[1.0, 1.0, 0.0, 3.0], [3.0, 1.0, 0.0, 3.0], [3.0, 1.0, 0.0, 3.0]])
    found = paired_effects(csr_array(reference), candidate)
    assert found.feature.tolist() == [0, 1, 3]
    assert (found.n_tested, found.d_sae, found.n_prompts, found.n_clusters) == (3, 4, 3, 3)
    assert found.mean_difference.tolist() == [2.0, 0.0, 1.0]
    # Differences 1, 2, 3: mean 2, deviation 1; J of 3 is Γ(1) / Γ(½). The last feature moves by 1 everywhere.
    np.testing.assert_allclose(found.effect, [2 / np.pi**0.5, 0.0, np.nan])
    np.testing.assert_allclose(found.rate_reference, [1 / 3, 1, 1])
    np.testing.assert_allclose(found.rate_candidate, [1, 1, 1])
    np.testing.assert_allclose(found.rate_ratio, [3.5 / 1.5, 1, 1])
    assert found.p_value.tolist() == [0.25, 1.0, 0.25]
    np.testing.assert_allclose(found.q_value, [0.375, 1.0, 0.375])
    assert found.largest(2).tolist() == [0, 2]
    assert not found.identical


def test_benjamini_hochberg_by_hand() -> None:
    # Sorted: .005 · 4/1 = .02, .01 · 4/2 = .02, .03 · 4/3 = .04, .04 · 4/4 = .04.
    np.testing.assert_allclose(benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.005])), [0.02, 0.04, 0.04, 0.02])
    # A smaller q further up holds below too: .02 · 3/1 = .06, .021 · 3/2 = .0315, .03 · 3/3 = .03.
    np.testing.assert_allclose(benjamini_hochberg(np.array([0.02, 0.021, 0.03])), [0.03, 0.03, 0.03])
    assert benjamini_hochberg(np.array([0.2])).tolist() == [0.2]
    assert benjamini_hochberg(np.array([])).tolist() == []


@given(hnp.arrays(np.float64, st.integers(1, 12), elements=st.integers(1, 64).map(lambda k: k / 64)))
def test_q_values_are_the_smallest_level_that_rejects(p: np.ndarray) -> None:
    """The definition: at level q the k smallest p-values go, k the largest with p₍ₖ₎ ≤ q · k / m."""

    def rejected(level: float) -> np.ndarray:
        ordered = np.sort(p)
        passed = np.nonzero(ordered <= level * np.arange(1, len(p) + 1) / len(p) + 1e-12)[0]
        return p <= ordered[passed[-1]] if len(passed) else np.zeros(len(p), bool)

    q = benjamini_hochberg(p)
    for i, level in enumerate(q):
        assert rejected(level)[i]
        assert not rejected(level - 1e-6)[i]
    assert (q >= p - 1e-12).all()
    assert (q <= 1).all()


def test_hedges_correction_by_hand() -> None:
    assert hedges_correction(3) == pytest.approx(np.pi**-0.5)
    # m = 4: Γ(2) / (√2 · Γ(3/2)) = √(2 / π).
    assert hedges_correction(5) == pytest.approx((2 / np.pi) ** 0.5)
    # Hedges (1981), the approximation 1 − 3 / (4m − 1).
    for n in (11, 31, 1001):
        assert hedges_correction(n) == pytest.approx(1 - 3 / (4 * (n - 1) - 1), abs=5e-4)


def oracle(reference: np.ndarray, candidate: np.ndarray, clusters: list[int]) -> dict[int, dict[str, float]]:
    """Feature by feature and cluster by cluster."""
    found: dict[int, dict[str, float]] = {}
    members = [[i for i, c in enumerate(clusters) if c == name] for name in sorted(set(clusters))]
    n = len(members)
    for feature in range(reference.shape[1]):
        before, after = reference[:, feature], candidate[:, feature]
        if not before.any() and not after.any():
            continue
        d = np.array([np.mean(after[rows] - before[rows]) for rows in members])
        rates = [float(np.mean([np.mean(side[rows] > 0) for rows in members])) for side in (before, after)]
        effect = 0.0 if abs(d.mean()) < 1e-12 else np.nan
        if n > 2 and d.std(ddof=1) > 1e-9:
            effect = hedges_correction(n) * d.mean() / d.std(ddof=1)
        theirs = 1.0
        if n > 1:
            theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=5000).pvalue
        found[feature] = {
            "mean_difference": d.mean(),
            "effect": effect,
            "rate_reference": rates[0],
            "rate_candidate": rates[1],
            "rate_ratio": (n * rates[1] + 0.5) / (n * rates[0] + 0.5),
            "p_value": float(theirs),
        }
    return found


@given(FEATURES, FEATURES, st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_effects_are_loops(reference: np.ndarray, candidate: np.ndarray, clusters: list[int]) -> None:
    found = paired_effects(csr_array(reference), csr_array(candidate), np.array(clusters))
    expected = oracle(reference, candidate, clusters)
    assert found.feature.tolist() == list(expected)
    for name in ("mean_difference", "effect", "rate_reference", "rate_candidate", "rate_ratio", "p_value"):
        np.testing.assert_allclose(
            getattr(found, name), [row[name] for row in expected.values()], rtol=1e-9, atol=1e-12, err_msg=name
        )
    if found.n_tested:
        np.testing.assert_allclose(found.q_value, stats.false_discovery_control(found.p_value))


@given(FEATURES, FEATURES, st.permutations(range(6)), st.sampled_from([0.125, 3.0, 1e6]))
def test_order_direction_and_units_do_not_matter(
    reference: np.ndarray, candidate: np.ndarray, order: list[int], unit: float
) -> None:
    found = paired_effects(reference, candidate)
    assert ((found.p_value > 0) & (found.p_value <= found.q_value) & (found.q_value <= 1)).all()
    assert (found.p_value <= found.p_max_t).all()
    back = paired_effects(candidate, reference)
    np.testing.assert_allclose(back.mean_difference, -found.mean_difference)
    np.testing.assert_allclose(back.effect, -found.effect)
    np.testing.assert_allclose(back.rate_ratio, 1 / found.rate_ratio)
    np.testing.assert_array_equal(back.p_value, found.p_value)
    scaled = paired_effects(unit * reference, unit * candidate)
    for name in COLUMNS[1:]:
        np.testing.assert_allclose(getattr(scaled, name), getattr(found, name), err_msg=name)
    shuffled = paired_effects(reference[:, order], candidate[:, order])
    rows = [int(np.flatnonzero(found.feature == order[f])[0]) for f in shuffled.feature]
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(found, name)[rows], err_msg=name)


def test_variants_of_a_prompt_count_once() -> None:
    rng = np.random.default_rng(0)
    reference, candidate = rng.random((8, 5)), rng.random((8, 5))
    once = paired_effects(reference, candidate)
    thrice = paired_effects(np.repeat(reference, 3, axis=0), np.repeat(candidate, 3, axis=0), np.repeat(range(8), 3))
    same(once, thrice)
    assert (thrice.n_prompts, thrice.n_clusters, thrice.n_patterns) == (24, 8, 256)


def test_no_difference_is_no_effect() -> None:
    features = np.random.default_rng(1).random((20, 4)) + 0.1
    features[:, 3] = 0
    found = paired_effects(features, features, permutations=99)
    assert found.n_tested == 3
    assert found.identical
    assert found.effect.tolist() == found.mean_difference.tolist() == [0.0] * 3
    assert found.p_value.tolist() == found.q_value.tolist() == found.p_max_t.tolist() == [1.0] * 3
    assert found.largest(5).tolist() == []


def test_variants_that_cancel_out_are_no_effect() -> None:
    """In floating point 0.1 + 0.2 − 0.3 is not 0, and four times the same not-0 is a perfect effect."""
    reference = np.tile([[0.0], [0.0], [0.3]], (4, 1))
    candidate = np.tile([[0.1], [0.2], [0.0]], (4, 1))
    found = paired_effects(reference, candidate, np.repeat(range(4), 3))
    assert (found.effect[0], found.mean_difference[0], found.p_value[0]) == (0.0, 0.0, 1.0)
    assert not found.identical


def test_nothing_fires_at_all() -> None:
    found = paired_effects(np.zeros((3, 9)), np.zeros((3, 9)))
    assert found.n_tested == 0
    assert found.q_value.tolist() == []
    assert found.identical


def test_equal_differences_have_no_standardised_effect() -> None:
    """The mean of three times 0.1 is not 0.1 to floating point, and that is no deviation."""
    found = paired_effects(np.zeros((3, 1)), np.full((3, 1), 0.1))
    assert np.isnan(found.effect).all()
    assert found.mean_difference[0] == pytest.approx(0.1)
    assert found.p_value.tolist() == [0.25]


def test_two_prompts_have_no_standardised_effect() -> None:
    found = paired_effects(np.zeros((2, 1)), np.array([[1.0], [3.0]]))
    assert np.isnan(found.effect).all()
    assert found.smallest_p == 0.5


def test_a_maximum_over_features_is_permuted_over_features() -> None:
    """Of 200 features that differ by noise alone, some p is small and the adjusted one is not."""
    rng = np.random.default_rng(5)
    noise = np.abs(rng.normal(size=(12, 200)))
    found = paired_effects(noise, np.abs(rng.normal(size=(12, 200))))
    assert found.p_value.min() < 0.01
    assert found.p_max_t.min() > 0.1
    moved = noise.copy()
    moved[:, 7] += 1 + 0.1 * rng.random(12)
    found = paired_effects(noise, moved + 0.01 * np.abs(rng.normal(size=noise.shape)))
    assert found.p_max_t[7] < 0.01


def test_many_latents_are_tested_within_bounds() -> None:
    """131 072 latents of which a few thousand fire; nothing of that width is dense."""
    rng = np.random.default_rng(6)
    shape, n = (30, 131_072), 6000

    def some() -> csr_array:
        cells = rng.choice(30 * 2000, n, replace=False)
        return csr_array((rng.random(n), (cells // 2000, cells % 2000 * 65)), shape=shape)

    reference = some()
    candidate = csr_array(reference + some())
    found = paired_effects(reference, candidate, permutations=199)
    assert 1500 < found.n_tested <= 2000
    assert found.smallest_p == 1 / 200
