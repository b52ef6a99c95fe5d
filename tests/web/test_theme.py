"""Colours: enough contrast on both grounds, and a scale that reads without colour."""

from __future__ import annotations

import re

import pytest

from raylens.labels.buckets import BUCKET_COLOURS, BUCKETS
from raylens.reports.markup import element
from raylens_app.web import theme
from raylens_app.web.framed import document


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of ``#rrggbb``."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def levels() -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Ground and text of each level, on a light and on a dark page."""
    found = re.findall(
        r"\.rl-a\d\{background:light-dark\((#\w{6}),(#\w{6})\);color:light-dark\((#\w{6}),(#\w{6})\)\}",
        theme.style_sheet(),
    )
    assert len(found) == theme.LEVELS
    return [((a, b), (c, d)) for a, b, c, d in found]


@pytest.mark.parametrize("dark", [0, 1], ids=["light", "dark"])
def test_text_of_every_level_can_be_read(dark: int) -> None:
    assert min(contrast(ground[dark], text[dark]) for ground, text in levels()) >= 4.5


@pytest.mark.parametrize("dark", [0, 1], ids=["light", "dark"])
def test_stronger_is_further_from_the_ground(dark: int) -> None:
    options = theme.streamlit_options()
    page = str(options[f"theme.{'dark' if dark else 'light'}.backgroundColor"])
    from_page = [contrast(ground[dark], page) for ground, _ in levels()]
    assert from_page == sorted(from_page)
    assert from_page[-1] / from_page[0] > 2


@pytest.mark.parametrize("name", ["light", "dark"])
def test_both_themes_can_be_read(name: str) -> None:
    options = {key: str(value) for key, value in theme.streamlit_options().items()}
    for ground in ("backgroundColor", "secondaryBackgroundColor"):
        assert contrast(options[f"theme.{name}.textColor"], options[f"theme.{name}.{ground}"]) >= 7
        assert contrast(options[f"theme.{name}.primaryColor"], options[f"theme.{name}.{ground}"]) >= 3
    assert contrast(theme.soft(dark=name == "dark"), options[f"theme.{name}.backgroundColor"]) >= 4.5


def test_buckets_have_the_colours_of_the_library() -> None:
    for bucket in BUCKETS:
        colour = BUCKET_COLOURS[bucket]
        assert f".rl-{colour.name}{{background:light-dark({colour.light},{colour.dark})}}" in theme.style_sheet()
        assert theme.bucket_colour(bucket, dark=True) == colour.dark


def test_what_stands_in_a_frame_runs_and_fetches_nothing() -> None:
    page = document(element("p", "<script>alert(1)</script>"), dark=True, title="a <b>")
    assert "<script>" not in page
    assert "default-src &#x27;none&#x27;" in page
    assert "color-scheme:dark" in page
