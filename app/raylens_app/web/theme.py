"""All colours of the app: Streamlit's own, those of buckets, the scale of tokens, and series of charts.

Buckets have the colours of :mod:`raylens.labels.buckets`, which a test keeps apart for colour-blind readers. Series of
charts are those of Okabe and Ito (2008), in an order in which neighbours differ also in lightness. The scale of tokens
is one hue from the ground's lightness to the other end, so that it reads without colour as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from raylens.api.audits import Verdict
from raylens.api.extraction import Bucket
from raylens.labels.buckets import BUCKET_COLOURS, BUCKETS
from raylens.reports.markup import Markup

LEVELS: Final = 9
"""Shades of a token that fires, the darkest (on a light ground) for the feature's maximum."""

PRIMARY: Final = ("#0a6c9c", "#3dbfff")
"""Links and what is chosen; on a light and on a dark ground, as all pairs here."""

_GROUND: Final = ("#ffffff", "#10151b")
_SECOND: Final = ("#f2f5f8", "#1b232c")
_TEXT: Final = ("#1a1f26", "#e8edf2")
_SOFT: Final = ("#5b6672", "#a4b0bc")
_LINE: Final = ("#d4dbe2", "#36424e")

_FOR: Final = ("#be4c06", "#f77220")
"""What speaks for something; :data:`PRIMARY` is what speaks against it."""
FOR_AND_AGAINST: Final = tuple(zip(_FOR, PRIMARY, strict=True))
"""Both colours, on a light ground and on a dark one."""

_SANS: Final = "ui-sans-serif,system-ui,sans-serif"

_WEAK: Final = ((255, 243, 222), (66, 47, 20))
_STRONG: Final = ((233, 114, 16), (255, 176, 56))
_PEAK: Final = ("#1a1f26", "#ffffff")
_DARK_TEXT_FROM: Final = 5
"""The first level on a dark ground that is light enough for dark text."""

SERIES: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Of charts, on both grounds."""

Badge = Literal["blue", "green", "red", "orange", "gray"]
STATUS: Final[Mapping[str, Badge]] = {
    "running": "blue",
    "queued": "blue",
    "succeeded": "green",
    "failed": "red",
    "lost": "red",
}
"""Streamlit's names of colours for badges; what is not there is grey. A word always stands beside them."""


def bucket_colour(bucket: Bucket, *, dark: bool) -> str:
    """The colour of a bucket, ``#rrggbb``."""
    colour = BUCKET_COLOURS[bucket]
    return colour.dark if dark else colour.light


def bucket_colours(*, dark: bool) -> list[str]:
    """Colours in the order of :data:`raylens.labels.buckets.BUCKETS`."""
    return [bucket_colour(bucket, dark=dark) for bucket in BUCKETS]


def series(*, dark: bool) -> str:
    """The colour of a chart that has one series."""
    return PRIMARY[dark]


def soft(*, dark: bool) -> str:
    """The colour of what stands back: captions, signs."""
    return _SOFT[dark]


def is_dark() -> bool:
    """Whether this session sees a dark ground."""
    import streamlit as st

    return st.context.theme.type == "dark"


def streamlit_options() -> dict[str, object]:
    """Streamlit's settings of both themes, by name of setting."""
    found: dict[str, object] = {}
    for dark, name in ((False, "light"), (True, "dark")):
        found |= {
            f"theme.{name}.primaryColor": PRIMARY[dark],
            f"theme.{name}.linkColor": PRIMARY[dark],
            f"theme.{name}.backgroundColor": _GROUND[dark],
            f"theme.{name}.secondaryBackgroundColor": _SECOND[dark],
            f"theme.{name}.textColor": _TEXT[dark],
            f"theme.{name}.chartCategoricalColors": list(SERIES),
        }
    return found


def style_sheet() -> Markup:
    """Styles of what the app draws itself; the browser picks one of each pair by the page's colour scheme."""
    return Markup(f"<style>{''.join(_rules())}</style>")


def frame_rules(*, dark: bool) -> str:
    """The same styles for a document of its own, in one of both schemes."""
    page = (
        f"body{{margin:0;background:{_GROUND[dark]};color:{_TEXT[dark]};font:14px ui-sans-serif,system-ui,sans-serif}}"
    )
    return f":root{{color-scheme:{'dark' if dark else 'light'}}}{page}{''.join(_rules())}"


def _rules() -> Iterator[str]:
    yield (
        ".rl-tokens{font:14px/1.75 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre-wrap;"
        "overflow-wrap:anywhere;margin:0;padding:2px 0}"
        ".stMainBlockContainer{padding-top:4rem;padding-bottom:3rem}"
        ".rl-tokens span{border-radius:3px;padding:1px 0;unicode-bidi:isolate}"
        f".rl-tokens .rl-sign{{color:{_pair(_SOFT)};opacity:.75}}"
        f".rl-tokens .rl-peak{{box-shadow:inset 0 -2px 0 {_pair(_PEAK)};font-weight:600}}"
        f".rl-tokens .rl-value{{color:{_pair(_SOFT)};font-size:.75em;margin:0 .15em}}"
        f".rl-soft{{color:{_pair(_SOFT)};font-size:.86rem}}p.rl-soft{{margin:1rem 0 .1rem}}"
        ".rl-bucket{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.4em}"
        ".rl-facts.rl-facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.5rem 1rem;"
        "margin:0;padding:0}"
        ".rl-facts.rl-facts dt,.rl-facts.rl-facts dd{margin:0;padding:0}"
        f".rl-facts dt{{color:{_pair(_SOFT)};font-size:.82rem}}.rl-facts dd{{margin:0;font-size:1.15rem}}"
        f".rl-table{{border-collapse:collapse;width:100%;font-size:.9rem}}"
        f".rl-table th,.rl-table td{{text-align:left;padding:.25rem .6rem .25rem 0;"
        f"border-bottom:1px solid {_pair(_LINE)};vertical-align:top;overflow-wrap:anywhere}}"
        f".rl-table th{{color:{_pair(_SOFT)};font-weight:500}}.rl-table td.right,.rl-table th.right{{text-align:right}}"
        ".rl-scroll{overflow-x:auto}"
        ".rl-graph svg{display:block;max-height:100vh}"
        f".rl-graph text{{fill:{_pair(_TEXT)};font:12px {_SANS}}}"
        f".rl-graph .axis{{stroke:{_pair(_LINE)}}}"
        f".rl-graph .up{{color:{_pair(_FOR)}}}.rl-graph .down{{color:{_pair(PRIMARY)}}}"
    )
    for level in range(1, LEVELS + 1):
        light, dark = (_shade(level, at) for at in (0, 1))
        text = ("#1a1f26", "#000000" if level >= _DARK_TEXT_FROM else "#ffffff")
        yield f".rl-tokens .rl-a{level}{{background:{_pair((light, dark))};color:{_pair(text)}}}"
    for bucket in BUCKETS:
        colour = BUCKET_COLOURS[bucket]
        yield f".rl-{colour.name}{{background:{_pair((colour.light, colour.dark))}}}"


def _shade(level: int, dark: int) -> str:
    share = (level - 1) / (LEVELS - 1)
    mixed = (round(a + (b - a) * share) for a, b in zip(_WEAK[dark], _STRONG[dark], strict=True))
    return "#" + "".join(f"{one:02x}" for one in mixed)


def _pair(colours: tuple[str, str]) -> str:
    return f"light-dark({colours[0]},{colours[1]})"


VERDICTS: Final[Mapping[Verdict, Literal["red", "green", "orange"]]] = {
    "flagged": "red",
    "not flagged": "green",
    "inconclusive": "orange",
}
"""Streamlit's names of colours for badges of audits, as :data:`STATUS`."""

_ONLY_REFERENCE: Final = ("#d3e8f4", "#0f3d57")
_ONLY_CANDIDATE: Final = ("#fde2cd", "#5b3209")


def report_style() -> Markup:
    """Styles of parts of an audit's report on a page, within ``rl-report``: the report itself has its own sheet.

    What only one model wrote is told apart by the line below it as well as by colour.
    """
    return Markup(f"<style>{''.join(_report_rules())}</style>")


def _report_rules() -> Iterator[str]:
    one = ".rl-report"
    mono = "ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
    yield (
        f"{one}{{font-size:.95rem;overflow-wrap:anywhere}}{one} p{{margin:.4rem 0}}"
        f"{one} pre{{font:13px/1.6 {mono};white-space:pre-wrap;background:{_pair(_SECOND)};padding:.5rem .65rem;"
        f"margin:.2rem 0 .6rem;border-radius:6px;tab-size:4;overflow-wrap:anywhere;color:{_pair(_TEXT)}}}"
        f"{one} code{{font:.9em {mono};background:{_pair(_SECOND)};padding:0 .2em;border-radius:3px;"
        f"color:{_pair(_TEXT)};white-space:pre-wrap}}"
        f"{one} .soft{{color:{_pair(_SOFT)};font-size:.87rem}}{one} .empty{{color:{_pair(_SOFT)};font-style:italic}}"
        f"{one} .columns{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));"
        "gap:.2rem 1rem}"
        f"{one} h4,{one} h5{{font-size:.95rem;margin:.5rem 0 .1rem;padding:0;font-weight:600}}"
        f"{one} details{{border:1px solid {_pair(_LINE)};border-radius:6px;padding:.45rem .75rem;margin:.4rem 0}}"
        f"{one} summary{{cursor:pointer}}"
        f"{one} del,{one} ins{{text-decoration:none;border-radius:2px}}"
        f"{one} del{{background:{_pair(_ONLY_REFERENCE)};border-bottom:2px dotted {_pair(PRIMARY)}}}"
        f"{one} ins{{background:{_pair(_ONLY_CANDIDATE)};border-bottom:2px solid {_pair(_FOR)}}}"
        f"{one} table{{border-collapse:collapse;width:100%;font-size:.9rem}}{one} .scroll{{overflow-x:auto}}"
        f"{one} th,{one} td{{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border:0;"
        f"border-bottom:1px solid {_pair(_LINE)}}}"
        f"{one} thead th{{color:{_pair(_SOFT)};font-weight:500}}{one} th[scope=row]{{font-weight:600}}"
        f"{one} th{{overflow-wrap:normal}}{one} td{{min-width:6.5rem}}{one} td p{{font-size:inherit;margin:0 0 .4rem}}"
        f"{one} th.right,{one} td.right{{text-align:right;white-space:nowrap}}"
        f"{one} tr.noted>*{{border-bottom:0;padding-bottom:0}}{one} tr.chosen>*{{background:{_pair(_SECOND)}}}"
        f"{one} ul.inserts{{list-style:none;margin:0;padding:0}}"
        f"{one} ul.inserts>li{{border-bottom:1px solid {_pair(_LINE)};padding:.5rem 0;margin:0}}"
        f"{one} .tokens b{{font-weight:inherit;border-radius:3px}}"
    )
    for level in range(1, LEVELS + 1):
        text = ("#1a1f26", "#000000" if level >= _DARK_TEXT_FROM else "#ffffff")
        shade = _pair((_shade(level, 0), _shade(level, 1)))
        yield f"{one} .tokens .a{level}{{background:{shade};color:{_pair(text)}}}"
