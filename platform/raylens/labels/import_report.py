"""What an import found, took and left: the same account for every kind of file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

SHOWN_LINES: Final = 10
"""Line numbers named for each file; the others are counted."""

Progress = Callable[[int, int, str], None]
"""Called now and then with bytes read, bytes in all, and the name of the file being read."""


@dataclass(slots=True)
class ImportReport:
    """One import.

    Attributes:
        files: Read, those that broke off included.
        pages: Pages, or parts of some, that were new.
        explanations: Explanations that were new.
        missing: Features newly known not to exist, or to have no explanation.
        already: Rows that were kept before.
        silent: Explanations without a description, which say nothing.
        bad: Lines or rows that could not be used, by file: how many, why, and the first of their numbers from 1.
        broken: Files that end in the middle, or are damaged, and why; what stood before that was taken.
        left_out: What was not read because it was not asked for, by kind.
    """

    files: int = 0
    pages: int = 0
    explanations: int = 0
    missing: int = 0
    already: int = 0
    silent: int = 0
    bad: dict[str, BadLines] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def note_bad(self, name: str, line: int, why: str) -> None:
        """Count a line of file ``name`` that cannot be used."""
        self.bad.setdefault(name, BadLines()).note(line, why)

    @property
    def n_bad(self) -> int:
        """Lines that could not be used."""
        return sum(one.count for one in self.bad.values())

    def fields(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "files": self.files,
            "pages": self.pages,
            "explanations": self.explanations,
            "missing": self.missing,
            "already": self.already,
            "silent": self.silent,
            "bad_lines": self.n_bad,
            "bad": {
                name: {"count": one.count, "lines": one.lines, "why": dict(one.why)} for name, one in self.bad.items()
            },
            "broken": dict(self.broken),
            "left_out": dict(self.left_out),
        }

    def complaints(self) -> list[str]:
        """A line for each file with something wrong in it."""
        said = [f"{name}: {one.sentence()}" for name, one in self.bad.items()]
        return [*said, *(f"{name} {why}" for name, why in self.broken.items())]


@dataclass(slots=True)
class BadLines:
    """Lines of one file that could not be used."""

    count: int = 0
    lines: list[int] = field(default_factory=list)
    why: Counter[str] = field(default_factory=Counter)

    def note(self, line: int, why: str) -> None:
        """Count one."""
        self.count += 1
        self.why[why] += 1
        if len(self.lines) < SHOWN_LINES:
            self.lines.append(line)

    def fields(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {"count": self.count, "lines": self.lines, "why": dict(self.why)}

    def sentence(self) -> str:
        """``3 lines left out (line 4, 9, 12): is no JSON``."""
        numbers = ", ".join(map(str, self.lines)) + (" …" if self.count > len(self.lines) else "")
        reasons = "; ".join(why for why, _ in self.why.most_common(3))
        return f"{self.count:,} line{'' if self.count == 1 else 's'} left out ({numbers}): {reasons}"
