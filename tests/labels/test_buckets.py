"""Buckets by the words of a label, and colours that people tell apart."""

from __future__ import annotations

from itertools import combinations
from typing import Final, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raylens.api.extraction import Bucket
from raylens.labels.buckets import BUCKET_COLOURS, BUCKETS, KEYWORDS, bucket_of, bucket_of_tokens

GROUNDS: Final = {"light": "#ffffff", "dark": "#0e1117"}

# Linear RGB as people without one kind of cone see it: Machado, Oliveira and Fernandes 2009, severity 1.
SEEN: Final = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize(
    ("label", "bucket"),
    [
        ("references to violence and weapons", "safety"),
        ("refusals: “I'm sorry, but I can't help with that”", "safety"),
        ("Passwords and API keys", "safety"),
        ("self-harm", "safety"),
        ("function calls and their arguments", "tool"),
        ("JSON keys", "tool"),
        ("requests for tool use", "tool"),
        ("requests for help or advice", "intent"),
        ("the user's goal", "intent"),
        ("causal connectives, such as because and therefore", "reasoning"),
        ("step-by-step arithmetic", "reasoning"),
        ("the word 'return' at the end of a line", "unknown"),
        ("skilled musicians in a harmonious country", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_bucket_follows_from_the_words_of_a_label(label: str | None, bucket: Bucket) -> None:  # A0.18
    assert bucket_of(label) == bucket
    assert bucket_of(label.upper() if label else label) == bucket


def test_there_are_these_five_each_with_words_and_a_colour() -> None:  # A0.18
    assert set(BUCKETS) == set(get_args(Bucket)) == set(BUCKET_COLOURS)
    assert set(KEYWORDS) == set(BUCKETS) - {"unknown"}
    words = [word for listed in KEYWORDS.values() for word in listed]
    assert len(words) == len(set(words)), "a word is of one bucket"
    assert all(word == word.lower() for word in words)
    assert len({one.name for one in BUCKET_COLOURS.values()}) == len(BUCKETS)


@pytest.mark.parametrize(("bucket", "word"), [(bucket, word) for bucket, some in KEYWORDS.items() for word in some])
def test_every_word_of_a_bucket_is_found(bucket: Bucket, word: str) -> None:
    whole = word.removesuffix("*")
    assert BUCKETS.index(bucket_of(f"about {whole} and so on")) <= BUCKETS.index(bucket), "or of one that comes before"
    assert bucket_of(f"x{whole}") != bucket or " " in whole, "not within another word"
    if word == whole:
        assert bucket_of(f"{whole}xyz") != bucket or " " in whole


@given(st.text())
def test_any_text_has_a_bucket(text: str) -> None:
    assert bucket_of(text) in BUCKETS
    assert bucket_of_tokens([text, text]) in (bucket_of(text.strip()), "unknown")


def test_tokens_give_a_bucket_where_two_agree() -> None:  # A0.15
    assert bucket_of_tokens([" weapon", "kill", " the"]) == "safety"
    assert bucket_of_tokens([" weapon", " the"]) == "unknown", "one may be chance"
    assert bucket_of_tokens([" weapon", " kill", " json", " http"]) == "unknown", "as many of another"
    assert bucket_of_tokens([]) == "unknown"


@pytest.mark.parametrize("ground", GROUNDS)
def test_colours_stand_out_and_can_be_told_apart_by_everybody(ground: str) -> None:  # A0.18
    colours = {bucket: linear(getattr(one, ground)) for bucket, one in BUCKET_COLOURS.items()}
    for bucket, colour in colours.items():
        assert contrast(colour, linear(GROUNDS[ground])) >= 3, bucket
    for who, matrix in SEEN.items():
        seen = {bucket: lab(np.clip(np.array(matrix) @ colour, 0, 1)) for bucket, colour in colours.items()}
        for one, other in combinations(seen, 2):
            assert np.linalg.norm(seen[one] - seen[other]) >= 25, (who, one, other)


def linear(colour: str) -> NDArray[np.float64]:
    """``#rrggbb`` as linear RGB in 0 … 1."""
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of WCAG: ratio of relative luminances."""
    dark, light = sorted(float(colour @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* of linear sRGB, D65."""
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = np.array(to_xyz) @ colour / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
