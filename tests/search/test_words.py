"""Word search and the merging of rankings, each against the slow and obvious."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raylens.search.features import merged
from raylens.search.words import bm25, terms

TEXTS = ["Import statements", "the word return", "return of returned values", "a == b", "__init__ of a class", ""]


def slow_bm25(texts: list[str], query: str) -> list[float]:
    """Okapi's formula, word by word."""
    lengths = [len(re.findall(r"[^\W_]+", text)) for text in texts]
    mean = max(sum(lengths) / len(texts), 1.0)
    scores = [0.0] * len(texts)
    for term in terms(query):
        is_word = re.search(r"\w", term)
        pattern = (r"(?:^|[\W_])" if is_word else "") + re.escape(term)
        counts = [len(re.findall(pattern, text, re.IGNORECASE)) for text in texts]
        n_with = sum(count > 0 for count in counts)
        rarity = math.log(1 + (len(texts) - n_with + 0.5) / (n_with + 0.5))
        for place, count in enumerate(counts):
            scores[place] += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * lengths[place] / mean))
    return scores


def found(query: str) -> list[str]:
    return [text for text, score in zip(TEXTS, bm25(pa.array(TEXTS), query), strict=True) if score > 0]


def test_a_term_finds_words_that_begin_with_it_and_signs_anywhere() -> None:
    assert found("import") == ["Import statements"]
    assert found("RETURN") == ["the word return", "return of returned values"]
    assert found("turn") == []
    assert found("==") == ["a == b"]
    assert found("init") == found("__init__") == ["__init__ of a class"]
    assert found("nothing") == []
    assert terms("The the a==b == .*") == ["the", "a", "b", "==", ".*"]
    assert found(".*") == [], "a query is no pattern"
    assert list(bm25(pa.array([], pa.string()), "x")) == []


_WORDS = st.sampled_from(["return", "Self", "import", "imports", "==", "naïve", "été", "x_y", "日本"])


@given(
    st.lists(st.lists(_WORDS, max_size=6).map(" ".join), min_size=1, max_size=8),
    st.lists(_WORDS, min_size=1, max_size=3).map(" ".join),
)
def test_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    np.testing.assert_allclose(bm25(pa.array(texts), query), slow_bm25(texts, query), rtol=1e-12)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 4)), min_size=1, max_size=12),
    st.booleans(),
)
def test_rankings_are_merged_by_reciprocal_ranks(pairs: list[tuple[int, int]], with_meaning: bool) -> None:
    words = np.array([word for word, _ in pairs], np.float64)
    meaning = np.array([nearness / 4 for _, nearness in pairs], np.float32)
    rankings = [words, meaning] if with_meaning else [words]
    expected = [
        sum(1 / (60 + 1 + sum(other > own for other in row)) for row in rankings for own in [row[place]] if own > 0)
        for place in range(len(pairs))
    ]
    scores = merged(words, meaning if with_meaning else None)
    np.testing.assert_allclose(scores, np.array(expected) * 61 / len(rankings))
    assert scores.max() <= 1 + 1e-12
