"""Which Python a completion holds, and how far it goes: continued from a text prompt, or in a chat's fenced blocks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from raylens.suites.python_prefix import closing, error_of, parsed
from raylens.suites.python_tokens import Token, lex, open_brackets

MAX_CHARACTERS: Final = 20_000
"""Of a completion, at most: what comes after is not looked at, so that no text takes long."""

MAX_LINES: Final = 200

_SAYS_NOTHING: Final = re.compile(r"[\s()\[\]{},:;]*(?:#.*)?")
_FENCED: Final = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON: Final = frozenset({"", "python", "py", "python3"})
_LAYOUT: Final = frozenset({"comment", "newline", "space"})


@dataclass(frozen=True, slots=True)
class Code:
    """Python of which the model wrote ``text[start:]``; what stands before was given to it."""

    text: str
    start: int = 0

    @property
    def begun(self) -> bool:
        """Whether any of what the model wrote is code, and not only the rest of a string, a comment or layout."""
        return any(True for _ in self.written())

    def written(self) -> Iterator[Token]:
        """The model's own tokens, layout and comments left out; a string that was given to it begun is not its own."""
        for token in lex(self.text):
            own = token.start >= self.start if token.kind == "string" else token.end > self.start
            if own and token.kind not in _LAYOUT:
                yield token

    def line(self, offset: int) -> int:
        """The line of ``text[offset]``, from 1, counted from where the model began."""
        return self.text.count("\n", self.start, max(offset, self.start)) + 1


def code_of(prompt: str | None, completion: str) -> tuple[Code, ...]:
    """The Python in ``completion``, of which the first ``MAX_CHARACTERS`` count.

    Args:
        prompt: The text it continues; None where it answers a chat.
        completion: What the model wrote.

    Returns:
        Fenced blocks where there are any that claim no other language; else the prompt with its continuation; for a
        chat all of it where it is Python and not prose. Empty where none of these is there.
    """
    completion = completion[:MAX_CHARACTERS]
    if fenced := list(_FENCED.finditer(completion)):
        return tuple(Code(match[2]) for match in fenced if match[1].lower() in _PYTHON)
    if prompt is not None:
        return (Code(prompt + completion, len(prompt)),)
    tree = parsed(completion)
    return (Code(completion),) if tree is not None and any(map(_does_something, tree.body)) else ()


def _does_something(node: ast.stmt) -> bool:
    """More than a word or a phrase that prose may be made of."""
    return not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Name | ast.Constant | ast.Tuple))


def parse_problem(code: Code) -> str | Literal[False] | None:
    """What Python has against the model's part of ``code``.

    What comes last may be cut off by the length of the completion: an unfinished statement is no error, and neither
    is an unfinished last line, which is then left out.

    Returns:
        None where it parses; the error with its line, counted from where the model began, where it does not; False
        where that cannot be said: it holds no code that goes beyond its first line, or the prompt is no Python.
    """
    if not code.begun:
        return False
    if closing(code.text) is not None:
        return None
    if code.start and closing(code.text[: code.start]) is None:
        return False
    whole_lines = code.text[: code.text.rfind("\n") + 1]
    if len(whole_lines) <= code.start or not Code(whole_lines, code.start).begun:
        # An error within the first line: cut off there, or not.
        return _problem(code, code.text) if len(whole_lines) > code.start else False
    return None if closing(whole_lines) is not None else _problem(code, whole_lines)


def _problem(code: Code, text: str) -> str | None:
    error = error_of(text)
    if error is None:
        return None
    line = error[1] - code.text.count("\n", 0, code.start)
    return f"{error[0]} in line {line}" if line > 0 else f"{error[0]}, before its first line"


def python_share(code: Code) -> tuple[int, int] | None:
    """How many of the model's lines read as Python by themselves, of how many; None where there are none to read.

    Lines that are only comments, brackets or the inside of a string say nothing, and neither does a last line that
    does not end, unless it is the only one. The first ``MAX_LINES`` are read.
    """
    lines = _own_lines(code)[:MAX_LINES]
    return (sum(map(_reads_as_python, lines)), len(lines)) if lines else None


def _own_lines(code: Code) -> list[str]:
    within = [(token.start, token.end) for token in lex(code.text) if token.kind == "string" and "\n" in token.text]
    begin = code.text.rfind("\n", 0, code.start) + 1
    lines = code.text[begin:].split("\n")
    found: list[str] = []
    for line in lines:
        says = not any(start < begin < end for start, end in within) and not _SAYS_NOTHING.fullmatch(line)
        if says and begin + len(line) > code.start:
            found.append(line.strip())
        begin += len(line) + 1
    cut_off = len(found) > 1 and found[-1] == lines[-1].strip()
    return found[:-1] if cut_off else found


def _reads_as_python(line: str) -> bool:
    tree = parsed(line)
    if tree is not None:
        return any(map(_does_something, tree.body))
    ended = line + open_brackets(lex(line))
    tries = (ended, f"{ended} pass", f"{ended}: pass", f"({line})", f"{{{line}}}", f"{line}\ndef x(): pass")
    clauses = (f"if x: pass\n{line} pass", f"try: pass\n{line} pass", f"{line} pass\nfinally: pass")
    return any(parsed(one) is not None for one in (*tries, *clauses))
