"""How commands speak: results on stdout, everything else on stderr.

Text that comes from a corpus, a model or a user passes :func:`printable` before it reaches a
terminal: an escape sequence in a document must not move the cursor, set the title or write to the
clipboard of whoever looks at it.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from datetime import time as clock_time
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.text import Text

# C0, DEL, C1, bidirectional controls, line separators, byte-order mark, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_PIPE_WIDTH: Final = 100_000
_SECONDS_BETWEEN_LINES: Final = 10.0
_BETWEEN_COLUMNS: Final = 3
_KEPT_WHOLE: Final = 12
_NARROWEST: Final = 8


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in "\n\u2028\u2029":
        return "↵"
    if character == "\t":
        return "⇥"
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"‹{code:04x}›"


def printable(text: str) -> str:
    """``text`` on one line and harmless: newlines as ↵, tabs as ⇥, other control characters as pictures."""
    return _UNSAFE.sub(_shown, text)


def one_line(text: str) -> str:
    """A message with its line breaks collapsed into spaces and nothing that a terminal would obey."""
    return printable(" ".join(text.split()))


def printable_lines(text: str) -> str:
    """Text of several lines, each made printable."""
    return "\n".join(map(printable, text.split("\n"))).rstrip("\n")


def stdout() -> Console:
    """A console on today's stdout; a pipe gets neither colours nor a line width."""
    return _console(sys.stdout)


def stderr() -> Console:
    """A console on today's stderr."""
    return _console(sys.stderr)


def _console(stream: IO[str]) -> Console:
    from rich.console import Console

    # rich keeps bold and underline under NO_COLOR; here it means no escape sequence at all.
    plain = bool(os.environ.get("NO_COLOR"))
    width = None if stream.isatty() or os.environ.get("COLUMNS") else _PIPE_WIDTH
    return Console(
        file=stream,
        color_system=None if plain else "auto",
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: which key of a row it shows, and how.

    Attributes:
        key: looked up in each row; a missing key or ``None`` shows as an empty cell.
        title: its heading; the key where left out.
        align: numbers are best on the right.
        show: turns a value into what the cell holds: a string (made printable) or a rich ``Text``.
        style: a rich style for the whole column.
        wrap: long text may take several lines; otherwise it ends in an ellipsis where the terminal is narrow.
    """

    key: str
    title: str | None = None
    align: Literal["left", "right"] = "left"
    show: Callable[[object], str | Text] = str
    style: str = ""
    wrap: bool = False


def print_table(
    rows: Iterable[Mapping[str, object]], columns: Sequence[Column | str], *, title: str | None = None
) -> None:
    """Print rows as a table on stdout.

    Args:
        rows: one mapping a row.
        columns: keys, or :class:`Column` where more is to be said.
        title: a line above the table.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    specified = [column if isinstance(column, Column) else Column(column) for column in columns]
    headings = [Text(printable(column.key if column.title is None else column.title)) for column in specified]
    cells = [[_shown_in(column, row.get(column.key)) for column in specified] for row in rows]
    contents = [max(cell.cell_len for cell in column) for column in zip(headings, *cells, strict=True)]
    console = stdout()
    flexible = [
        column.wrap or (column.align == "left" and width > _KEPT_WHOLE)
        for column, width in zip(specified, contents, strict=True)
    ]
    widths = _fitted(contents, flexible, console.width - _BETWEEN_COLUMNS * (len(specified) - 1))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.show_header = any(column.title != "" for column in specified)
    for column, heading, width in zip(specified, headings, widths, strict=True):
        overflow = "fold" if column.wrap else "ellipsis"
        table.add_column(
            heading, justify=column.align, style=column.style, no_wrap=not column.wrap, overflow=overflow, width=width
        )
    for row in cells:
        table.add_row(*row)
    if title:
        console.print(Text(printable(title), style="bold"), soft_wrap=True)
    console.print(table)


def _shown_in(column: Column, value: object) -> Text:
    return _cell("" if value is None else column.show(value))


def _fitted(contents: Sequence[int], flexible: Sequence[bool], available: int) -> list[int]:
    """Widths of columns on a line of ``available`` characters: the widest flexible ones give way, numbers never."""
    widths = list(contents)
    while sum(widths) > available:
        widest = max((width for width, gives in zip(widths, flexible, strict=True) if gives), default=0)
        if widest <= _NARROWEST:
            break
        widths[next(at for at, width in enumerate(widths) if width == widest and flexible[at])] -= 1
    return widths


def _cell(value: str | Text) -> Text:
    from rich.text import Text

    return Text(printable(value)) if isinstance(value, str) else value


def print_text(text: str | Text = "") -> None:
    """One line of a result on stdout, made printable where it is a plain string."""
    stdout().print(_cell(text), soft_wrap=True)


def print_json(value: object) -> None:
    """Print one JSON document on stdout: numpy and Arrow scalars as numbers, not-a-number as null."""
    write_json(value, sys.stdout)


def write_json(value: object, stream: IO[str]) -> None:
    """Write what :func:`print_json` prints to any stream."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # What JSON lets stand but a terminal would obey is escaped; it can only be inside a string.
    stream.write(_UNSAFE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text))
    stream.write("\n")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date | clock_time):
        return value.isoformat()
    # numpy scalars and arrays have ``tolist``, Arrow scalars and tables ``as_py`` and ``to_pylist``.
    for method in ("tolist", "to_pylist", "as_py"):
        if hasattr(value, method):
            return _plain(getattr(value, method)())
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)


def duration(seconds: float) -> str:
    """``41 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def data_size(n_bytes: float) -> str:
    """Bytes for people, in powers of 1000: ``812 B``, ``3.4 MB``, ``12 GB``."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"


def note(message: str) -> None:
    """One line on stderr, for what a person wants to know and a program does not."""
    stderr().print(one_line(message), style="dim", soft_wrap=True)


class Progress:
    """One bar of :func:`progress`; call it with how far the work is."""

    def __init__(self, show: Callable[[float, float | None, str], None], total: float | None) -> None:
        self._show = show
        self.total = total
        self.done: float = 0

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say that ``done`` of ``total`` is finished; ``message`` stands beside it."""
        self.done = done
        self.total = self.total if total is None else total
        self._show(self.done, self.total, message)

    def advance(self, by: float = 1, message: str = "") -> None:
        """Say that ``by`` more is finished."""
        self(self.done + by, None, message)


@contextmanager
def progress(
    title: str, total: float | None = None, *, unit: str = "", clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """Show progress on stderr: a moving bar on a terminal, else a line now and then.

    Args:
        title: what is going on, for example ``caching``.
        total: how much there is to do; ``None`` where nobody knows.
        unit: what is counted, for example ``tokens``.
        clock: seconds, for the pauses between plain lines.

    Yields:
        The bar, called as ``bar(done)``, ``bar(done, total, message)`` or ``bar.advance()``.
    """
    if not sys.stderr.isatty():
        yield Progress(_LinesOfProgress(title, unit, clock), total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(printable(unit), markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[message]}", style="dim", markup=False),
    )
    with Bars(*columns, console=stderr()) as bars:
        task: TaskID = bars.add_task(printable(title), total=total, message="")

        def show(done: float, of: float | None, message: str) -> None:
            bars.update(task, completed=done, total=of, message=one_line(message))

        yield Progress(show, total)


class _LinesOfProgress:
    """Plain lines for a log: the first, the last, and one every few seconds between."""

    def __init__(self, title: str, unit: str, clock: Callable[[], float]) -> None:
        self._title = title
        self._unit = f" {unit}" if unit else ""
        self._clock = clock
        self._next = -math.inf

    def __call__(self, done: float, total: float | None, message: str) -> None:
        now = self._clock()
        finished = total is not None and done >= total
        if now < self._next and not finished:
            return
        self._next = now + _SECONDS_BETWEEN_LINES
        of = f" of {total:,.0f}" if total is not None else ""
        tail = f" · {message}" if message else ""
        sys.stderr.write(one_line(f"{self._title}: {done:,.0f}{of}{self._unit}{tail}") + "\n")
        sys.stderr.flush()
