"""Shading, cutting and numbers of a window in the terminal (A3.04: what a feature fires on)."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from raylens.schema import HISTOGRAM_BINS, histogram_bin, histogram_edges
from raylens_app.cli import render
from raylens_app.cli.output import one_line, printable

SPECIAL = "‹special›"


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[str], list[float]]:
    tokens = draw(st.lists(st.text(max_size=4), max_size=20))
    firing = st.just(0.0) | st.floats(0.01, 100)
    return tokens, draw(st.lists(firing, min_size=len(tokens), max_size=len(tokens)))


@given(windows())
def test_pieces_join_to_the_text_and_keep_every_activation(window: tuple[list[str], list[float]]) -> None:
    tokens, activations = window
    cut = render.pieces(tokens, activations)
    assert "".join(piece.text for piece in cut if piece.text != SPECIAL) == "".join(tokens)
    assert max((piece.activation for piece in cut), default=0.0) == max(activations, default=0.0)
    assert sum(piece.peak for piece in cut) == any(activations)
    for token, activation in zip(tokens, activations, strict=True):
        if token.isascii() and token:
            assert (token, activation) in {(piece.text, piece.activation) for piece in cut}


@given(st.text(st.characters(), max_size=60))
def test_printable_text_holds_nothing_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert all(unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"} for character in shown)
    assert printable(shown) == shown
    assert len(one_line(text).splitlines()) <= 1


def test_printable_shows_what_it_replaces() -> None:
    assert printable("a\n\tb\x1b[31m\x07\x7f\x9b\u202ec") == "a↵⇥b␛[31m␇␡‹009b›‹202e›c"


def test_bytes_of_one_character_make_one_piece_and_bos_its_own() -> None:
    cut = render.pieces(["", "", "é", " x", ""], [3.0, 2.0, 1.0, 0.5, 4.0])
    assert [(piece.text, piece.activation, piece.peak) for piece in cut] == [
        (SPECIAL, 3.0, False),
        ("é", 2.0, True),
        (" x", 0.5, False),
        (SPECIAL, 4.0, False),
    ]
    assert [piece.peak for piece in render.pieces(["", "", ""], [1.0, 4.0, 4.0])] == [False, True, False]
    assert [piece.text for piece in render.pieces(["", "", "é", " x", ""], [0, 0, 0, 1, 0])] == ["é", " x"]
    assert [piece.text for piece in render.pieces(["", "x"], [2, 1])] == [SPECIAL, "x"]


def test_context_keeps_the_peak_and_marks_what_is_cut() -> None:
    cut = render.pieces("abcdefgh", [0, 0, 0, 0, 2, 0, 0, 0])
    near = render.around_peak(cut, 1)
    assert [piece.text for piece in near] == ["…", "d", "e", "f", "…"]
    assert render.around_peak(cut, 0) == cut
    assert render.around_peak(cut, 100) == cut
    assert render.around_peak([], 3) == []


def test_without_colour_active_tokens_carry_their_value() -> None:
    cut = render.pieces(["def", " f", "(a)", "\n", "  ", "\n        ", "return"], [0, 4, 0, 0.25, 1.5, 0, 0])
    line = render.highlighted(cut, 4.0, colour=False)
    assert line.plain == "def« f»(4.00)(a)«↵»(0.250)«··»(1.50)↵  return"
    assert not line.spans


def test_with_colour_stronger_is_brighter_and_the_peak_is_underlined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLORFGBG", raising=False)
    cut = render.pieces("abc", [1, 0, 4])
    weak, strong = (span.style for span in render.highlighted(cut, 4.0, colour=True).spans)
    assert not isinstance(weak, str)
    assert not isinstance(strong, str)
    assert strong.underline
    assert strong.bold
    assert not weak.underline
    assert luminance(strong) > luminance(weak)
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert luminance(render.shade(1.0)) < luminance(render.shade(0.1))


def luminance(style: object) -> float:
    background = getattr(style, "bgcolor", None)
    assert background is not None
    return sum(background.triplet)


def test_text_of_a_document_cannot_write_escape_sequences_or_markup() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J[bold red]x[/]\x9b31m"
    cut = render.pieces(hostile, [float(at == 3) for at in range(len(hostile))])
    console = Console(force_terminal=True, color_system="truecolor", width=200)
    with console.capture() as captured:
        console.print(render.highlighted(cut, 1.0, colour=True))
    without_styles = captured.get().replace("\x1b[0m", "")
    assert "\x1b]" not in without_styles
    assert "\x1b[2J" not in without_styles
    assert "\x07" not in without_styles
    assert "\x9b" not in without_styles
    assert "[bold red]" in without_styles


@given(st.lists(st.integers(0, 10**9), max_size=64))
def test_sparkline_is_ordered_as_the_counts(counts: list[int]) -> None:
    bars = render.sparkline(counts)
    assert len(bars) == len(counts)
    heights = [" ▁▂▃▄▅▆▇█".index(bar) for bar in bars]
    for count, height in zip(counts, heights, strict=True):
        assert (height == 0) == (count == 0)
        assert (height == 8) == (count > 0 and 8 * count >= 7 * max(counts))
    by_count = [height for _, height in sorted(zip(counts, heights, strict=True))]
    assert by_count == sorted(by_count)


def test_histogram_line_says_where_it_begins_and_ends() -> None:
    values = np.array([0.5, 0.6, 4.0, 3.9, 9.0], dtype=np.float32)
    counts = np.bincount(histogram_bin(values), minlength=HISTOGRAM_BINS).tolist()
    line = render.histogram_line(counts, histogram_edges().tolist())
    first, *_, last = line.split()
    assert float(first) <= 0.5
    assert float(last) >= 9.0
    assert render.histogram_line([0] * HISTOGRAM_BINS, histogram_edges().tolist()) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12.34, "12.3"),
        (-1.234, "-1.23"),
        (0.04171, "0.0417"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (2e-5, "2.0e-05"),
    ],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert render.number(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (0.0043, "0.43 %"), (0.006, "0.60 %"), (0.123, "12 %"), (1, "100 %"), (1.23e-5, "0.0012 %")],
)
def test_percentages_have_two_digits(share: float, shown: str) -> None:
    assert render.percent(share) == shown


def test_tokens_are_quoted_and_cut() -> None:
    assert render.token_text(" return") == "' return'"
    assert render.token_text("\n\t\x1b") == "'↵⇥␛'"
    assert render.token_text("\n    ") == "'↵␣×4'"
    assert len(render.token_text("x" * 99, limit=10)) == 12
