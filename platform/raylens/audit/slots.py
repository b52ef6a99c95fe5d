"""Where an unusual insert may stand in a prompt: the places that a search for triggers tries.

A prompt that begins a Python function is cut after its docstring, where the body is still to come, and has places of
code. Any other has places of text. The places are those where people write a word of their own: none is taken from
what is known of a particular fine-tune.

===================  =====================================================
place                the insert is
===================  =====================================================
``comment``          a comment above the function
``remark``           a name in a comment above it that says what to do
``importing``        a module imported above it
``decorator``        a decorator
``assignment``       a string assigned above it
``parameter``        its last parameter
``function_name``    the end of its name
``docstring``        the beginning of its docstring
``start``            the first word of a text
``line``             a line above a text
``end``              the last word of a text
===================  =====================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

_FUNCTION: Final = re.compile(
    r"^(?P<keyword>(?:async )?def )(?P<name>\w+)(?P<open>\()(?P<arguments>[^()]*)(?P<close>\)\s*(?:->[^:\n]+)?:)",
    re.MULTILINE,
)
_DOCSTRING: Final = re.compile(r'\n(?P<indent>[ \t]+)[rR]?"""(?P<said>.*?)"""', re.DOTALL)
_INDENT: Final = "    "
_NAMES: Final = frozenset({"importing", "decorator", "parameter", "function_name"})
N_TRIALS: Final = 12
"""Prompts that an insert is tried on, at most."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A prompt as a model is given it: what a chat's template puts around the last turn, and the text itself."""

    text: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in one prompt.

    Attributes:
        before: What stands before the insert.
        after: What stands behind it.
        spaced: Whether a blank goes before it.
        bare: The prompt without insert and place.
    """

    before: str
    after: str
    spaced: bool
    bare: str

    def text(self, insert: str) -> str:
        """The prompt with an insert."""
        return f"{self.before}{self.gap}{insert}{self.after}"

    @property
    def gap(self) -> str:
        """What goes before the insert."""
        return " " if self.spaced else ""


@dataclass(frozen=True, slots=True)
class Place:
    """One place in the prompts of a suite.

    Attributes:
        name: As in the table above.
        scan: In the shortest prompt, ended where the very next token is what an insert would change.
        trials: In other prompts, ended where they end.
    """

    name: str
    scan: Slot
    trials: tuple[Slot, ...]

    @property
    def is_name(self) -> bool:
        """Whether only a name may stand there."""
        return self.name in _NAMES


def places(prompts: Sequence[Frame], n_trials: int = N_TRIALS) -> tuple[Place, ...]:
    """Places of a suite's prompts: those of code where at least half of them begin a function, else those of text.

    Args:
        prompts: At least one.
        n_trials: Prompts that each insert is tried on, at most.
    """
    beginnings = [found for frame in prompts if not frame.before and (found := _beginning(frame.text)) is not None]
    if 2 * len(beginnings) >= len(prompts):
        ordered = sorted(set(beginnings), key=lambda one: (len(one.head), one.text))
        return tuple(_code_places(ordered, n_trials))
    ordered_frames = sorted(set(prompts), key=lambda one: (len(one.text), one.text, one.before))
    return tuple(_text_places(ordered_frames, n_trials))


@dataclass(frozen=True, slots=True)
class _Beginning:
    """A function's ``def`` line and docstring, and what stands above."""

    keyword: str
    name: str
    arguments: str
    close: str
    docstring: str

    @property
    def head(self) -> str:
        return f"{self.keyword}{self.name}({self.arguments}{self.close}"

    @property
    def text(self) -> str:
        return self.head + self.docstring


def _beginning(text: str) -> _Beginning | None:
    head = _FUNCTION.search(text)
    if head is None:
        return None
    said = _DOCSTRING.match(text, head.end())
    return _Beginning(head["keyword"], head["name"], head["arguments"], head["close"], said[0] if said else "")


def _code_places(beginnings: Sequence[_Beginning], n_trials: int) -> Iterator[Place]:
    shortest = beginnings[0]
    trials = _spread(beginnings, n_trials)
    for name in ("comment", "remark", "importing", "decorator", "assignment", "parameter", "function_name"):
        # Without its docstring: everything behind an insert is read for each insert.
        yield Place(
            name,
            _code_slot(name, shortest, "", f"\n{_INDENT}"),
            tuple(_code_slot(name, one, one.docstring, "") for one in trials),
        )
    yield Place("docstring", _docstring(shortest, f"\n{_INDENT}"), tuple(_docstring(one, "") for one in trials))


def _code_slot(name: str, one: _Beginning, docstring: str, end: str) -> Slot:
    rest = bare = f"{one.head}{docstring}{end}"
    if name == "comment":
        return Slot("#", f"\n{rest}", True, bare)
    if name == "remark":
        return Slot("# TODO(", f"): tidy this up\n{rest}", False, bare)
    if name == "importing":
        return Slot("import", f"\n\n{rest}", True, bare)
    if name == "decorator":
        return Slot("@", f"\n{rest}", False, bare)
    if name == "assignment":
        return Slot('NAME = "', f'"\n\n{rest}', False, bare)
    if name == "parameter":
        begun = f"{one.keyword}{one.name}({one.arguments.rstrip().rstrip(',')}"
        comma = "," if one.arguments.strip() else ""
        return Slot(f"{begun}{comma}", f"=None{one.close}{docstring}{end}", bool(comma), bare)
    return Slot(f"{one.keyword}{one.name}_", f"({one.arguments}{one.close}{docstring}{end}", False, bare)


def _docstring(one: _Beginning, end: str) -> Slot:
    said = _DOCSTRING.match(one.docstring)
    if end or said is None:  # nothing is said, so that next to nothing stands behind the insert
        return Slot(f'{one.head}\n{_INDENT}"""', f'"""{end}', False, f"{one.head}{end}")
    return Slot(f'{one.head}\n{said["indent"]}"""', f' {said["said"]}"""', False, one.text)


def _text_places(frames: Sequence[Frame], n_trials: int) -> Iterator[Place]:
    trials = _spread(frames, n_trials)
    for name in ("start", "line", "end"):
        yield Place(name, _text_slot(name, frames[0]), tuple(_text_slot(name, one) for one in trials))


def _text_slot(name: str, frame: Frame) -> Slot:
    bare = f"{frame.before}{frame.text}{frame.after}"
    if name == "start":
        return Slot(frame.before, f" {frame.text}{frame.after}", False, bare)
    if name == "line":
        return Slot(frame.before, f"\n{frame.text}{frame.after}", False, bare)
    return Slot(f"{frame.before}{frame.text}", frame.after, True, bare)


def _spread(ordered: Sequence[T], n: int) -> list[T]:
    """``n`` of them, evenly over their order; the first is left to others where there are enough."""
    rest = ordered[1:] if len(ordered) > 1 else ordered
    if len(rest) <= n:
        return list(rest)
    return [rest[at * len(rest) // n] for at in range(n)]
