"""Text as Markdown that stays text: nothing that a model, a suite or a label source wrote becomes structure.

Outputs stand in fences longer than any run of backticks in them, shorter pieces in code spans likewise; inside of
either, Markdown (CommonMark 0.31, and tables as GitHub adds them) and HTML mean nothing. What stands in plain text has
every character escaped that could mean something.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from raylens.reports.visible import one_line, visible

_BACKTICKS: Final = re.compile("`+")
_SPECIAL: Final = re.compile(
    r"[\\`*\[\]<>&|~$#@!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.", re.IGNORECASE
)


def fence(text: str, language: str = "text") -> str:
    """``text`` as a fenced block, its lines as they are."""
    marks = "`" * max(3, _longest_run(text) + 1)
    return f"{marks}{language}\n{visible(text)}\n{marks}"


def code(text: str) -> str:
    """``text`` as a code span in one line; ``*empty*`` of none.

    Not for cells of tables: there a pipe ends the cell, whatever stands around it.
    """
    if not text:
        return "*empty*"
    line = one_line(text)
    marks = "`" * (_longest_run(line) + 1)
    # One space on either side is taken off again, and keeps a backtick from joining the marks.
    pad = " " if "`" in line else ""
    return f"{marks}{pad}{line}{pad}{marks}"


def plain(text: str) -> str:
    """``text`` in one line, to stand within a paragraph, a heading or a cell; not at the beginning of a block."""
    return _SPECIAL.sub(r"\\\g<0>", one_line(text))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns whose head ends with a colon are aligned to the right.

    Args:
        heads: Names of the columns.
        rows: Cells, already :func:`plain`.
    """
    lines = [
        [head.removesuffix(":") for head in heads],
        ["--:" if head.endswith(":") else "---" for head in heads],
        *rows,
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _longest_run(text: str) -> int:
    return max((len(run) for run in _BACKTICKS.findall(text)), default=0)
