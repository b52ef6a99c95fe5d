"""Whatever is sent can be kept: as UTF-8, as JSON, within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import InputError
from raylens.traces import bounds
from raylens.traces.bounds import bounded, clean, clean_json, decoded, fitted, put

texts = st.text(st.characters(exclude_categories=()), max_size=20)
"""With lone surrogates and null characters."""
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(texts)
def test_a_clean_text_is_any_format_s(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.encode().decode() == cleaned
    assert "\0" not in cleaned
    assert clean(cleaned) == cleaned
    if "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
        assert cleaned == text


def test_what_no_format_holds_is_replaced_and_pairs_are_joined() -> None:
    assert clean("a\0b\ud800c\udc00") == "a\ufffdb\ufffdc\ufffd"
    assert clean("\ud83d\ude00 \ud83d") == "\U0001f600 \ufffd"


@given(values)
def test_clean_json_is_json_and_reads_back(value: Any) -> None:
    cleaned = clean_json(value)
    assert json.loads(json.dumps(cleaned, allow_nan=False, ensure_ascii=False).encode()) == cleaned
    assert clean_json(cleaned) == cleaned


def test_odd_numbers_become_texts() -> None:
    assert clean_json([float("nan"), float("-inf"), 2**64 - 1, 2**64, 10**5000, b"\xff"])[:4] == [
        "NaN",
        "-Infinity",
        2**64 - 1,
        hex(2**64),
    ]


def test_keys_that_become_equal_stay_apart() -> None:
    sent = dict(zip(("\ud800", "\udc00", "\0"), (1, 2, 3), strict=True))
    assert clean_json(sent) == {"\ufffd": 1, "\ufffd~2": 2, "\ufffd~3": 3}


def test_deep_values_are_refused() -> None:
    deep: Any = 0
    for _ in range(bounds.DEPTH):
        deep = [deep]
    clean_json(deep)
    with pytest.raises(InputError, match="deeper than 64"):
        clean_json([deep])


@pytest.mark.parametrize("text", ["x", "7", "", "[", "[1", "[" * 100_000, '{"a": 1e', '"[]"'])
def test_a_text_that_is_no_json_of_its_own_is_none(text: str) -> None:
    assert decoded(text) is None


def test_json_inside_of_a_text_is_read_unless_it_holds_too_much() -> None:
    assert decoded(' {"a": ["\\ud800"]}') == {"a": ["\ufffd"]}
    assert decoded(f"[{'0,' * bounds.VALUES}0]") is None


def size(attributes: dict[str, Any]) -> int:
    return sum(len(key) + len(bounds.as_text(value)) for key, value in attributes.items())


@given(st.dictionaries(st.text(max_size=5), values.map(clean_json), max_size=6))
def test_small_attributes_are_kept_as_they_are(attributes: dict[str, Any]) -> None:
    assert bounded(attributes, []) == attributes


@pytest.mark.parametrize(
    "attributes",
    [
        {f"key {i}": "x" * 50_000 for i in range(100)},
        {"text": "x" * 10**6, "list": ["y" * 100] * 10_000, "short": 1},
        {f"key {i}": i for i in range(10_000)},
        {"k" * 10_000 + str(i): i for i in range(10)},
    ],
    ids=["many", "large", "countless", "long names"],
)
def test_large_attributes_are_cut_and_it_is_said(attributes: dict[str, Any]) -> None:
    kept = bounded(attributes, ["first."])
    notes = kept.pop(bounds.NOTES)
    assert notes[0] == "first."
    assert any(note.startswith(("cut to fit: ", "left out to fit: ")) for note in notes[1:])
    assert len(kept) <= bounds.ATTRIBUTES
    assert size(kept) <= bounds.ATTRIBUTES_CHARS
    assert max(len(bounds.as_text(value)) for value in kept.values()) <= bounds.ATTRIBUTE_CHARS
    assert len(" ".join(notes)) < 5000
    json.dumps(kept)


def test_what_fits_beside_what_does_not_stays() -> None:
    kept = bounded({"long": "x" * 10**6, "short": [1]}, [])
    assert kept["short"] == [1]
    assert kept["long"] == "x" * bounds.ATTRIBUTE_CHARS
    assert kept[bounds.NOTES] == ["cut to fit: long."]


def test_a_note_takes_nobodys_place() -> None:
    assert bounded({bounds.NOTES: "theirs"}, ["ours."]) == {bounds.NOTES: "theirs", f"{bounds.NOTES}~2": ["ours."]}
    taken: dict[str, Any] = {}
    for value in range(3):
        put(taken, "a", value)
    assert taken == {"a": 0, "a~2": 1, "a~3": 2}


def test_a_cut_text_says_so() -> None:
    notes: list[str] = []
    assert fitted("abc", 3, "it", notes) == "abc"
    assert fitted("abcd", 3, "it", notes) == "abc"
    assert notes == ["it was cut to 3 of 4 characters."]
