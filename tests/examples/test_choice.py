"""Which pieces are shown: bands, samplings, the split by document, and negatives; each against a plain count."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raylens.examples.negatives import deal, nearest_negatives, neighbour_negatives, random_negatives
from raylens.examples.pieces import FeatureRows, active_pieces, n_pieces
from raylens.examples.sampling import SAMPLINGS, Sampling, bands, choose, feature_rng, is_test_document
from raylens.examples.universe import Universe

PEAKS = st.lists(st.integers(1, 12), max_size=60).map(lambda values: np.array(values, np.float32))
NUMBERS = st.lists(st.integers(0, 40), max_size=40, unique=True).map(lambda values: np.array(sorted(values), np.int64))


@given(PEAKS, st.integers(1, 12))
def test_bands_are_equal_counts_in_order_of_strength(peak: NDArray[np.float32], n_bands: int) -> None:
    band = bands(peak, n_bands)
    sizes = Counter(band.tolist())
    assert max(sizes.values(), default=0) - min(sizes.values(), default=0) <= 1
    assert set(sizes) <= set(range(n_bands))
    for weak, strong in zip(sorted(sizes), sorted(sizes)[1:], strict=False):
        assert peak[band == weak].max() <= peak[band == strong].min()


@given(PEAKS, st.integers(0, 70), st.sampled_from(SAMPLINGS), st.integers(0, 5))
def test_choices_are_distinct_and_strongest_first(peak: NDArray[np.float32], n: int, how: Sampling, seed: int) -> None:
    chosen, band = choose(peak, n, how, feature_rng(seed, "a/b", 3, "train"))
    assert len(chosen) == len(set(chosen.tolist())) == min(n, len(peak))
    assert (np.diff(peak[chosen]) <= 0).all()
    assert (band == bands(peak, 10)[chosen]).all()
    again, _ = choose(peak, n, how, feature_rng(seed, "a/b", 3, "train"))
    assert (again == chosen).all()


def test_quantiles_take_as_many_from_each_band_as_they_can() -> None:
    peak = np.arange(100, dtype=np.float32)
    _, band = choose(peak, 40, "quantiles", feature_rng(0, "a/b", 0, "train"))
    assert sorted(Counter(band.tolist()).values()) == [4] * 10
    _, band = choose(peak, 43, "quantiles", feature_rng(0, "a/b", 0, "train"))
    assert sorted(Counter(band.tolist()).values()) == [4] * 7 + [5] * 3
    remainders = {
        tuple(sorted(choose(peak, 1, "quantiles", feature_rng(0, "a/b", feature, "train"))[1])) for feature in range(60)
    }
    assert len(remainders) > 5, "the remainder does not always fall to the same band"


def test_top_random_and_mix() -> None:
    peak = np.random.default_rng(0).permutation(200).astype(np.float32)
    top, _ = choose(peak, 10, "top", feature_rng(0, "a/b", 0, "x"))
    assert peak[top].tolist() == list(range(199, 189, -1))
    mix, band = choose(peak, 50, "mix", feature_rng(0, "a/b", 0, "x"))
    assert set(range(190, 200)) <= set(peak[mix].astype(int).tolist())
    assert sorted(Counter(band.tolist()).values()) == [4] * 9 + [14]
    random, band = choose(peak, 100, "random", feature_rng(0, "a/b", 0, "x"))
    assert len(set(Counter(band.tolist()).values())) > 1
    assert peak[random].min() < 20


def test_seeds_differ_by_feature_sae_and_purpose() -> None:
    streams = {
        tuple(feature_rng(seed, sae, feature, purpose).integers(0, 2**32, 4).tolist())
        for seed in (0, 1)
        for sae in ("a/b", "a/c")
        for feature in range(5)
        for purpose in ("train", "test")
    }
    assert len(streams) == 2 * 2 * 5 * 2


def test_documents_are_split_evenly_and_for_good() -> None:
    docs = np.arange(20_000)
    test = is_test_document(docs, 22)
    assert abs(test.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(docs))
    assert (is_test_document(docs[5_000:5_010], 22) == test[5_000:5_010]).all()
    assert 0.4 < (is_test_document(docs, 23) == test).mean() < 0.6
    assert abs(is_test_document(docs, 22, share=0.2).mean() - 0.2) < 0.02
    assert abs(np.corrcoef(test[:-1], test[1:])[0, 1]) < 0.03, "neighbours in the corpus are split independently"


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(1, 5)), max_size=40, unique_by=lambda r: r[:2]
    ),
    st.integers(1, 8),
    st.integers(0, 2),
)
def test_pieces_hold_what_a_loop_finds(rows: list[tuple[int, int, int]], length: int, n_prefix: int) -> None:
    window, position, activation = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    )
    found = FeatureRows.of(window.astype(np.int32), position.astype(np.int16), activation.astype(np.float32), n_prefix)
    pieces = active_pieces(found, length, n_prefix)
    oracle: dict[tuple[int, int], tuple[int, int]] = {}
    for w, p, a in sorted(rows):
        if p >= n_prefix:
            key = (w, (p - n_prefix) // length)
            if key not in oracle or a > oracle[key][0]:
                oracle[key] = (a, p)
    assert list(zip(pieces.window_id.tolist(), pieces.piece.tolist(), strict=True)) == sorted(oracle)
    assert list(zip(pieces.peak.tolist(), pieces.position.tolist(), strict=True)) == [
        oracle[key] for key in sorted(oracle)
    ]
    for w in range(4):
        positions, values = found.within(w, 3, 9)
        assert list(zip(positions.tolist(), values.tolist(), strict=True)) == [
            (p, a) for one, p, a in sorted(rows) if one == w and 3 <= p < 9 and p >= n_prefix
        ]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 7), st.integers(0, 3))
def test_every_piece_has_one_number(lengths: list[int], length: int, seed: int) -> None:
    sizes = np.array(lengths)
    universe = Universe.of(np.arange(len(sizes), dtype=np.int32), sizes, length, seed)
    everything = [(w, k, (k + 1) * length <= size) for w, size in enumerate(lengths) for k in range(-(-size // length))]
    assert len(universe) == len(everything) == int(n_pieces(sizes, length).sum())
    window, piece = universe.places(np.arange(len(universe)))
    assert list(zip(window.tolist(), piece.tolist(), universe.full.tolist(), strict=True)) == everything
    test, train = universe.candidates(test=True), universe.candidates(test=False)
    assert sorted([*test, *train]) == [number for number, (_, _, full) in enumerate(everything) if full]
    assert universe.is_test[universe.places(test)[0]].all()
    assert not universe.is_test[universe.places(train)[0]].any()


@given(NUMBERS, NUMBERS, st.integers(0, 50), st.integers(0, 9))
def test_random_negatives_are_silent_and_distinct(
    candidates: NDArray[np.int64], active: NDArray[np.int64], n: int, seed: int
) -> None:
    silent = sorted(set(candidates.tolist()) - set(active.tolist()))
    drawn = random_negatives(candidates, active, n, np.random.default_rng(seed)).tolist()
    assert len(drawn) == len(set(drawn)) == min(n, len(silent))
    assert set(drawn) <= set(silent)


def test_random_negatives_are_equally_likely() -> None:
    candidates, active = np.arange(0, 40, 2), np.array([0, 4, 6, 7, 38])
    counts: Counter[int] = Counter()
    for seed in range(4_000):
        counts.update(random_negatives(candidates, active, 3, np.random.default_rng(seed)).tolist())
    assert set(counts) == set(candidates.tolist()) - set(active.tolist())
    expected = 4_000 * 3 / 16
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in counts.values())


@given(st.lists(NUMBERS, max_size=5), st.integers(0, 30))
def test_dealing_takes_the_first_of_each_hand_first(hands: list[NDArray[np.int64]], n: int) -> None:
    oracle: list[int] = []
    for rank in range(50):
        for hand in hands:
            if rank < len(hand) and hand[rank] not in oracle:
                oracle.append(int(hand[rank]))
    assert deal(hands, n).tolist() == oracle[:n]


@pytest.mark.parametrize("n", [0, 4, 50])
def test_hard_negatives_come_from_many_neighbours_and_never_fire(n: int) -> None:
    candidates, active = np.arange(0, 60), np.arange(0, 30)
    rng = np.random.default_rng(0)
    found = neighbour_negatives(candidates, active, [np.arange(25, 45), np.arange(40, 70)], n, rng)
    assert len(found) == len(set(found.tolist())) == min(n, 30)
    assert set(found.tolist()) <= set(range(30, 60))
    alike = [np.array([3, 31, 32, 33]), np.array([31, 40, 41]), np.array([29, 50])]
    assert nearest_negatives(alike, active, 4).tolist() == [31, 50, 32, 40]
