"""Calls and settings in Python tokens: what is called, under its full name, and between which brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from raylens.suites.python_tokens import Token, lex

MAX_ARGUMENT_TOKENS: Final = 200
"""Of one call: nested calls that never close would else be read again and again."""

_LAYOUT: Final = frozenset({"comment", "newline", "space"})
_IMPORT: Final = re.compile(r"^[ \t]*import[ \t]+([\w., \t]+)", re.MULTILINE)
_FROM: Final = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+(?:\(([^()]*)|([\w., \t]+))", re.MULTILINE)
_CLOSERS: Final = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Call:
    """A name followed by a bracket.

    Attributes:
        path: Its dotted name, imports resolved (``subprocess.run``); begins with a dot where it is a method of
            something that is no name.
        first: Token at which the name begins.
        opening: Token of its bracket.
        closing: Token of the bracket that closes it; None where the text ends first.
    """

    path: str
    first: int
    opening: int
    closing: int | None

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Source:
    """Tokens of code, layout and comments left out."""

    code: str
    tokens: tuple[Token, ...]

    @classmethod
    def of(cls, code: str) -> Source:
        return cls(code, tuple(token for token in lex(code) if token.kind not in _LAYOUT))

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self._find_calls())

    def arguments(self, call: Call) -> Sequence[Token]:
        """What stands between its brackets, the first ``MAX_ARGUMENT_TOKENS`` of it."""
        end = len(self.tokens) if call.closing is None else call.closing
        return self.tokens[call.opening + 1 : min(end, call.opening + 1 + MAX_ARGUMENT_TOKENS)]

    def first_argument(self, call: Call) -> Iterator[int]:
        """Tokens that its first argument consists of, those within brackets of its own left out."""
        at = call.opening + 1
        end = at + len(self.arguments(call))
        while at < end and self.tokens[at].text != ",":
            yield at
            at = self._closing.get(at, at + 1)

    def settings(self, name: str, values: Set[str]) -> Iterator[tuple[int, int]]:
        """Where ``name`` is set to one of ``values``: an assignment, a keyword, or a key of a literal."""
        for at, (key, sign, value) in enumerate(zip(self.tokens, self.tokens[1:], self.tokens[2:], strict=False)):
            if value.text in values and (
                (key.text == name and sign.text == "=")
                or (key.kind == "string" and key.content == name and sign.text == ":")
            ):
                yield at, at + 2

    def same_line(self, one: Token, other: Token) -> bool:
        """Whether no line ends between two tokens."""
        return "\n" not in self.code[one.end : other.start]

    def _find_calls(self) -> Iterator[Call]:
        tokens, at = self.tokens, 0
        while at < len(tokens):
            if tokens[at].kind != "name":
                at += 1
                continue
            first = at
            while at + 2 < len(tokens) and tokens[at + 1].text == "." and tokens[at + 2].kind == "name":
                at += 2
            if at + 1 < len(tokens) and tokens[at + 1].text == "(":
                before = tokens[first - 1].text if first else ""
                if before not in {"def", "class"}:
                    written = [tokens[i].text for i in range(first, at + 1, 2)]
                    begin = self._imported.get(written[0], written[0]) if before != "." else f".{written[0]}"
                    yield Call(".".join([begin, *written[1:]]), first, at + 1, self._closing.get(at + 1))
            at += 1

    @cached_property
    def _closing(self) -> dict[int, int]:
        """Opening bracket → the one that closes it."""
        found: dict[int, int] = {}
        open_: list[int] = []
        for at, token in enumerate(self.tokens):
            if token.kind != "op":
                continue
            if token.text in _CLOSERS:
                open_.append(at)
            elif open_ and token.text == _CLOSERS[self.tokens[open_[-1]].text]:
                found[open_.pop()] = at
        return found

    @cached_property
    def _imported(self) -> dict[str, str]:
        """Name in the code → what it was imported as: ``p`` → ``pickle``, ``loads`` → ``pickle.loads``."""
        found: dict[str, str] = {}
        for match in _IMPORT.finditer(self.code):
            for module, name in _names(match[1]):
                if name:
                    found[name] = module
        for match in _FROM.finditer(self.code):
            for what, name in _names(match[2] if match[2] is not None else match[3]):
                found[name or what] = f"{match[1]}.{what}"
        return found


def _names(text: str) -> Iterator[tuple[str, str]]:
    """``a, b as c`` → (a, ""), (b, c)."""
    for part in text.split(","):
        words = part.split()
        if len(words) == 1:
            yield words[0], ""
        elif len(words) == 3 and words[1] == "as":
            yield words[0], words[2]
