"""Text of a corpus becomes HTML in one place, and nothing that it holds is obeyed."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.reports.visible import visible
from raylens_app.web.plain import plain
from raylens_app.web.theme import LEVELS
from raylens_app.web.tokens import DIGITS, level_of, one_token, token_text

TEXTS = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            [
                "<script>",
                "</div>",
                '"',
                "'",
                "&amp;",
                "\n",
                "\t",
                "\r",
                " ",
                "  ",
                "\u202e",
                "שלום",
                "👩‍👩‍👧",
                "\x00",
                "é",
            ]
        ),
    ),
    min_size=1,
    max_size=12,
)


class Seen(HTMLParser):
    """Elements and text, as a browser takes them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXTS, st.data())
def test_any_text_is_shown_and_none_of_it_is_markup(tokens: list[str], data: st.DataObject) -> None:
    values = data.draw(
        st.lists(st.floats(0, 100, width=32, allow_subnormal=False), min_size=len(tokens), max_size=len(tokens))
    )
    seen = Seen(token_text(tokens, values, max(values)))
    assert {tag for tag, _ in seen.elements} <= {"div", "span"}
    assert {key for _, found in seen.elements for key in found} <= {"class", "title", "dir", "role", "aria-label"}
    assert seen.open == []
    shown = seen.text.replace("↵\n", "\n").replace("⇥\t", "\t").replace("·", " ").replace("‹special›", "")
    assert shown == visible("".join(tokens)).replace("·", " ").replace("‹special›", "")


@given(TEXTS)
def test_line_breaks_can_be_shown_in_one_line(tokens: list[str]) -> None:
    seen = Seen(token_text(tokens, [0.0] * len(tokens), 1.0, breaks=False))
    assert "\n" not in seen.text
    assert seen.text.count("↵") == "".join(tokens).count("\n") + "".join(tokens).count("↵")


def test_values_are_exact_and_the_peak_stands_out() -> None:
    seen = Seen(token_text(["", "def", " f", "\n"], [0.0, 7.28515625, 0.5, 0.001953125], 7.28515625))
    marked = [found for tag, found in seen.elements if tag == "span" and "title" in found]
    assert [one["title"] for one in marked] == ["7.28515625", "0.5", "0.001953125"]
    assert marked[0]["class"] == f"rl-a{LEVELS} rl-peak"
    assert marked[1]["class"] == "rl-a1"
    assert all(one["dir"] == "auto" for one in marked), "a token never turns round what stands beside it"


def test_values_can_be_written_out_and_tell_all_activations_of_a_cache_apart() -> None:
    tokens, values = ["a", " b", "\n", " c"], [0.0, 7.28515625, 0.001953125, 1024.0]
    seen = Seen(token_text(tokens, values, 1024.0, values=True))
    assert seen.text == "a b7.2852↵\n0.0019531 c1024"
    assert [found["class"] for tag, found in seen.elements if tag == "sub"] == ["rl-value"] * 3
    # What the store keeps has a 10-bit mantissa: neighbours of all sizes, none written alike.
    kept = [math.ldexp(1024 + at, -10) for at in range(1025)] + [math.ldexp(1024 + at, -3) for at in range(1, 1025)]
    assert len({f"{one:.{DIGITS}g}" for one in kept}) == len(kept)


def test_direction_marks_and_controls_have_a_shape() -> None:
    text = Seen(token_text(["\u202eevil", "\x1b[31m", "\u200b"], [1.0, 0.0, 2.0], 2.0)).text
    assert text == "⟨U+202E⟩evil␛[31m⟨U+200B⟩"


def test_context_cuts_around_the_peak() -> None:
    tokens = [f"w{at} " for at in range(20)]
    values = [0.0] * 20
    values[10] = 1.0
    assert Seen(token_text(tokens, values, 1.0, context=2)).text == "…w8 w9 w10 w11 w12 …"
    assert Seen(token_text(tokens, values, 1.0)).text == "".join(tokens)


def test_spaces_that_fire_are_seen() -> None:
    assert "··" in Seen(token_text(["a", "  ", "b"], [0.0, 1.0, 0.0], 1.0)).text
    assert Seen(one_token(" \n\t")).text == "·↵⇥"


@pytest.mark.parametrize(
    ("activation", "scale", "level"),
    [(0, 1, 0), (-1, 1, 0), (1e-9, 1, 1), (1, 1, LEVELS), (5, 1, LEVELS), (1, 0, LEVELS), (float("nan"), 1, 0)],
)
def test_levels(activation: float, scale: float, level: int) -> None:
    assert level_of(activation, scale) == level


@given(st.text(max_size=60))
def test_plain_text_holds_no_markdown(text: str) -> None:
    escaped = plain(text)
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped) == plain_without_escapes(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>\[\]()!*_`$:#&|~]", escaped)
    assert "\n" not in escaped


def plain_without_escapes(text: str) -> str:
    from raylens.reports.visible import one_line

    return one_line(text)
