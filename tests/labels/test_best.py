"""Reading what others wrote, and choosing among it."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronpedia import SOURCE, explanation, page
from raylens.labels.best import PREFERRED, best, ranked
from raylens.labels.explanations import (
    DESCRIPTION_LIMIT,
    Explanation,
    ShapeError,
    as_json,
    parse_json,
    read_explanation,
    read_page,
    score_of,
)


def read(description: str, type_name: str = "oai_token-act-pair", **more: Any) -> Explanation:
    found = read_explanation(explanation(description, type_name, **more))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("fields", "score"),
    [
        ({}, None),
        ({"scores": []}, None),
        ({"scores": None}, None),
        ({"scores": 0.5}, 0.5),
        ({"scores": "0.5"}, 0.5),
        ({"scores": {"value": 0.5, "id": "x"}}, 0.5),
        ({"scores": {"recall_alt": 0.2, "eleuther_fuzz": 0.4}}, 0.3),
        ({"scores": [{"value": 0.2}, {"value": 0.4}]}, 0.3),
        ({"scores": [{"value": 0.2}, {"value": None}, {"other": "x"}, {"value": math.nan}]}, 0.2),
        ({"scores": [0.2, 0.4]}, 0.3),
        ({"score": 0.7}, 0.7),
        ({"score": {"value": -0.1}}, -0.1),
        ({"score": True}, None),
        ({"score": "high"}, None),
        ({"score": 10**400}, None),
    ],
)
def test_scores_come_in_many_shapes(fields: dict, score: float | None) -> None:  # A2.13
    assert score_of(fields) == (None if score is None else pytest.approx(score))


def test_the_preferred_type_comes_first_then_the_score_then_the_shorter() -> None:  # A2.13
    one = read("a long one that says the same", PREFERRED[0])
    short = read("short", PREFERRED[0])
    scored = read("a scored one that is long", PREFERRED[0], scores=[{"value": 0.1}])
    better = read("a better one that is long", PREFERRED[0], scores=[{"value": 0.9}])
    second = read("x", PREFERRED[1], scores=[{"value": 1.0}])
    other = read("y", "human", scores=[{"value": 1.0}])
    expected = [better, scored, short, one, second, other]
    for some in permutations(expected, 4):
        assert best(some) == next(which for which in expected if which in some)
    assert ranked(reversed(expected)) == expected
    assert best([second, other], preferred=("human",)) == other
    assert best([]) is None


explanations = st.builds(
    read,
    st.text("ab c", min_size=1, max_size=6).filter(str.strip),
    st.sampled_from([*PREFERRED, "human", ""]),
    explanationModelName=st.sampled_from(["m", "n"]),
    scores=st.sampled_from([[], [{"value": 0.5}], [{"value": 0.25}], {"value": 0.5}]),
)


@given(st.lists(explanations, max_size=8), st.randoms())
def test_the_choice_does_not_depend_on_the_order_and_beats_all_others(some: list[Explanation], random: Any) -> None:
    """A2.13."""
    chosen = best(some)
    shuffled = [*some]
    random.shuffle(shuffled)
    again = best(shuffled)
    assert (chosen is None) == (not some)
    if chosen is None or again is None:
        return
    assert (chosen.description, chosen.type_name, chosen.model) == (again.description, again.type_name, again.model)

    def beats(a: Explanation, b: Explanation) -> bool:
        """The three rules, one after another, as A2.13 has them."""
        rank = {name: place for place, name in enumerate(PREFERRED)}
        if rank.get(a.type_name, 9) != rank.get(b.type_name, 9):
            return rank.get(a.type_name, 9) < rank.get(b.type_name, 9)
        if a.score != b.score:
            return b.score is None if a.score is None or b.score is None else a.score > b.score
        return len(a.description) < len(b.description)

    assert not any(beats(other, chosen) for other in some)


def test_a_page_of_this_feature_is_read_without_weights() -> None:
    found = read_page(page(7, explanation("one"), explanation("  two\n words "), explanation("")), SOURCE, 7)
    assert [one.description for one in found.explanations] == ["one", "two words"]
    assert "vector" not in found.payload
    assert "explanations" not in found.payload
    assert found.payload["pos_str"] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no JSON object"),
        ([], "no JSON object"),
        ({}, "another feature"),
        (page(8), "another feature"),
        (page(7) | {"layer": "19-gemmascope-res-16k"}, "another feature"),
        (page(7) | {"explanations": None}, "no list of explanations"),
        ({key: value for key, value in page(7).items() if key != "explanations"}, "no list of explanations"),
        (page(7) | {"explanations": ["text"]}, "no objects"),
        (page(7) | {"explanations": [{"description": 5}]}, "no objects"),
    ],
)
def test_a_page_of_the_wrong_shape_gives_no_label(value: Any, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        read_page(value, SOURCE, 7)


def test_text_of_others_is_one_harmless_line() -> None:
    hostile = "a\x1b[2J\x00b\u2028c \ud800 d"
    found = read(hostile)
    assert found.description == "a [2J b c d"
    long = read("x" * 5000)
    assert len(long.description) == DESCRIPTION_LIMIT
    assert long.description.endswith("…")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_whatever_is_read_can_be_written_again(value: Any) -> None:
    found = parse_json(json.dumps(value).encode())
    text = as_json(found)
    assert parse_json(text) == found
    text.encode()
    assert "NaN" not in text or "NaN" in str(value)


@given(st.binary(max_size=40) | st.sampled_from([b"[" * 100_000, b"1e999", b'{"a": NaN}', b'"\\ud800"', b"\xff\xfe"]))
def test_any_bytes_are_json_or_a_shape_error(data: bytes) -> None:
    with suppress(ShapeError):
        as_json(parse_json(data)).encode()


@given(json_values)
def test_no_explanation_breaks_reading(value: Any) -> None:
    found = read_explanation(value)
    assert found is None or found.description
    if isinstance(value, dict):
        score_of(value)
    found = read_explanation({"description": "d", "typeName": value, "explanationModelName": value, "scores": value})
    assert found is not None
