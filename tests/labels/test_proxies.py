"""Nearest explained neighbours against dense cosines; what a report says of features; the coverage line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuronpedia import explanation
from raylens.errors import InputError
from raylens.labels import proxies
from raylens.labels.coverage import Coverage
from raylens.labels.explanations import Explanation, read_explanation
from raylens.labels.feature_labels import FeatureLabel, label_features
from raylens.labels.proxies import LOW_MARK, LOW_SIMILARITY, Neighbour, nearest_explained


def dense(decoder: NDArray[Any], feature: int, explained: Iterable[int], k: int) -> list[tuple[int, float]]:
    """The oracle: every cosine in float64, sorted."""
    rows = decoder.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    found = []
    for other in sorted(set(explained) - {feature}):
        if norms[other] > 0 and norms[feature] > 0 and np.isfinite(norms[[other, feature]]).all():
            found.append((other, float(rows[feature] @ rows[other] / norms[feature] / norms[other])))
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]


def check(decoder: NDArray[Any], features: list[int], explained: list[int], k: int, given_: Any = None) -> None:
    found = nearest_explained(decoder if given_ is None else given_, features, explained, k=k)
    assert found.keys() == set(features)
    for feature in features:
        expected = dense(decoder, feature, explained, k)
        assert [one.cosine for one in found[feature]] == pytest.approx([cosine for _, cosine in expected], abs=2e-6)
        for one, (_, cosine) in zip(found[feature], expected, strict=True):
            # Which of two is nearer is only certain beyond float32's precision.
            own = dense(decoder, feature, [one.feature], 1)
            assert own[0][1] == pytest.approx(cosine, abs=2e-6)
            assert one.feature != feature
        assert len({one.feature for one in found[feature]}) == len(found[feature])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("chunk_bytes", [1, 700, 16 * 2**20])
def test_neighbours_are_those_of_dense_cosines(
    dtype: type, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # A2.14
    monkeypatch.setattr(proxies, "_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(proxies, "_AT_A_TIME", 3)
    random = np.random.default_rng(0)
    decoder = random.standard_normal((60, 7)).astype(dtype)
    decoder[11] = 0
    decoder[12] = np.nan
    explained = [*random.choice(60, 25, replace=False).tolist(), 11, 12, 4]
    check(decoder, [4, 0, 11, 12, 31, 59, 17], explained, 3)


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_chunks_change_nothing(n: int, d: int, k: int, seed: int, step: int) -> None:
    random = np.random.default_rng(seed)
    scales = 10.0 ** random.integers(-18, 18, (n, 1))
    decoder = (random.standard_normal((n, d)) * scales).astype(np.float32)
    explained = np.flatnonzero(random.random(n) < 0.6).tolist()

    def chunks() -> Iterator[NDArray[np.float32]]:
        for first in range(0, n, step):
            yield decoder[first : first + step]

    check(decoder, list(range(n)), explained, k, given_=chunks)


def test_equal_cosines_come_in_order_of_index_and_a_short_list_is_short() -> None:
    decoder = np.ones((5, 3), np.float16)
    found = nearest_explained(decoder, [2], [4, 1, 0, 2], k=5)
    assert [one.feature for one in found[2]] == [0, 1, 4]
    assert all(one.cosine == pytest.approx(1.0) and one.cosine <= 1.0 for one in found[2])
    assert nearest_explained(decoder, [2], [2], k=1) == {2: ()}
    assert nearest_explained(decoder, [], [1], k=1) == {}
    for bad in ([5], [-1], [0, 7]):
        with pytest.raises(InputError, match=r"no feature -?[0-9]+ in this decoder"):
            nearest_explained(decoder, bad, [1])
    with pytest.raises(InputError):
        nearest_explained(decoder, [1], [1], k=0)


def test_memory_is_a_few_chunks_however_wide_the_sae(monkeypatch: pytest.MonkeyPatch) -> None:
    """A2.14: chunked. What is held at a time is counted, not timed."""
    monkeypatch.setattr(proxies, "_CHUNK_BYTES", 4 * 8 * 100)
    largest = 0
    original = proxies._unit

    def watched(rows: NDArray[Any]) -> NDArray[np.float32]:
        nonlocal largest
        largest = max(largest, len(rows))
        return original(rows)

    monkeypatch.setattr(proxies, "_unit", watched)
    decoder = np.random.default_rng(0).standard_normal((5000, 8)).astype(np.float16)
    nearest_explained(decoder, range(10), range(5000), k=2)
    assert largest == 100


def said(text: str, **more: Any) -> Explanation:
    found = read_explanation(explanation(text, **more))
    assert found is not None
    return found


def of(
    explanations: Mapping[int, list[Explanation]], features: Iterable[int], decoder: Any, **more: Any
) -> list[FeatureLabel]:
    def look(wanted: Iterable[int]) -> dict[int, list[Explanation]]:
        return {index: explanations[index] for index in wanted if index in explanations}

    return label_features(features, look, lambda: explanations.keys(), decoder, **more)


# Feature 1 is 0.8 from 0, feature 2 is 0.1 from 0 and nearest to 3, which nobody explained.
DECODER = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.1, 0, 0.995], [0, 0, 1]], np.float32)


def test_a_feature_has_its_explanation_or_an_honest_proxy() -> None:  # A2.06 A2.14
    one, other = said("zero", scores=[{"value": 0.5}]), said("a longer one")
    labels = of({0: [other, one]}, [2, 0, 1, 3], DECODER)
    assert [label.feature for label in labels] == [2, 0, 1, 3]
    low, direct, near, none = (label.fields() for label in labels)
    assert direct["explanation"] == "zero"
    assert direct["explanation_score"] == 0.5
    assert direct["proxy_explanation"] is None
    assert direct["proxy_explanation_cosine"] is None
    assert direct["neighbours"] == []
    assert (near["explanation"], near["proxy_explanation"]) == (None, "zero")
    assert near["proxy_explanation_cosine"] == pytest.approx(0.8)
    assert near["proxy_low_similarity"] is False
    assert low["proxy_explanation"] == f"zero {LOW_MARK}"
    assert low["proxy_explanation_cosine"] == pytest.approx(0.1, abs=1e-3)
    assert low["proxy_low_similarity"] is True
    assert none["proxy_explanation"] == f"zero {LOW_MARK}"
    assert {tuple(row) for row in (low, direct, near, none)} == {tuple(low)}, "the same keys for every feature"
    hidden = of({0: [one]}, [2, 1], DECODER, hide_low_similarity=True)
    assert [label.proxy for label in hidden] == [None, "zero"]
    assert hidden[0].fields()["neighbours"] == [
        {"feature": 0, "cosine": pytest.approx(0.1, abs=1e-3), "explanation": "zero"}
    ]
    assert hidden[0].fields()["proxy_explanation_cosine"] is not None


def test_without_a_decoder_or_anything_explained_there_is_nothing() -> None:
    bare = of({}, [0, 1], DECODER)
    assert [label.proxy for label in bare] == [None, None]
    assert of({0: [said("zero")]}, [1], None)[0].neighbours == ()
    # One that is said to be explained and is not any more is left out, not made up.
    gone = label_features([1], lambda wanted: {}, lambda: [0], DECODER)
    assert gone[0].neighbours == ()


def test_the_threshold_is_below_0_3() -> None:  # A2.14
    assert LOW_SIMILARITY == 0.3
    assert Neighbour(1, 0.2999).is_low
    assert not Neighbour(1, 0.3).is_low


def label(direct: bool, cosine: float | None = None) -> FeatureLabel:
    near = () if cosine is None else ((Neighbour(9, cosine), said("near")),)
    return FeatureLabel(1, said("own") if direct else None, near)


def test_the_coverage_line_word_for_word() -> None:  # A2.05
    labels = [label(True), label(True), label(False, 0.62), label(False, 0.213), label(False, 0.47), label(False)]
    coverage = Coverage.of(labels)
    assert coverage.line() == (
        "direct 2/6, proxy 3/6 (low-similarity 1), best-neighbour cosine median 0.470, minimum 0.213"
    )
    assert coverage.fields()["n_low_similarity"] == 1
    assert coverage.fields()["line"] == coverage.line()
    assert Coverage.of([]).line() == (
        "direct 0/0, proxy 0/0 (low-similarity 0), best-neighbour cosine median none, minimum none"
    )
    even = Coverage.of([label(False, 0.2), label(False, 0.4)])
    assert even.cosine_median == pytest.approx(0.3)
    assert even.n_low == 1
