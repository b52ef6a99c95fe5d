"""The parts of ``report.md``, by names short enough to ask for."""

from __future__ import annotations

import re
from typing import Final, Literal

Section = Literal["header", "trace", "decision", "outputs", "mechanism", "scores"]

_TITLES: Final[dict[str, Section]] = {
    "Audit trace": "trace",
    "Decision": "decision",
    "Behavioural outputs": "outputs",
    "Mechanistic appendix": "mechanism",
    "Raw score payload": "scores",
}
SECTIONS: Final[tuple[Section, ...]] = ("header", *_TITLES.values())

_FENCE: Final = re.compile(r"(`{3,})")


def sections_of(markdown: str) -> dict[Section, str]:
    """The parts of a report by name, without blank lines around them.

    What stands in a fence is a model's or a suite's, whatever it looks like.
    """
    parts: dict[Section, list[str]] = {name: [] for name in SECTIONS}
    current: Section = "header"
    fence = ""
    for line in markdown.split("\n"):
        if fence:
            fence = "" if line == fence else fence
        elif opened := _FENCE.match(line):
            fence = opened[1]
        elif line.startswith("## ") and (title := line.removeprefix("## ")) in _TITLES:
            current = _TITLES[title]
        parts[current].append(line)
    return {name: "\n".join(lines).strip("\n") for name, lines in parts.items()}
