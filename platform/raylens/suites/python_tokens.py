"""Python cut into tokens wherever the text begins and ends: what a small model writes often does not parse.

``tokenize`` gives up at the first unclosed bracket or quote. This one never does: a string that does not end reaches
to the end of its line (of the text, where it is triple-quoted), and any other character is a token of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["comment", "string", "name", "number", "newline", "space", "op"]

# Possessive repeats and alternatives that differ in their first character: time is linear in the text.
_TOKEN: Final = re.compile(
    r"""
      (?P<comment> \#[^\n]*+ )
    | (?P<string>  [rRbBfFuU]{0,2}
        (?: \"{3} (?: [^\\"]  | \\. | "(?!"") )*+ (?: \"{3} | \\?\Z )
          | '{3}  (?: [^\\']  | \\. | '(?!'') )*+ (?: '{3}  | \\?\Z )
          | "     (?: [^\\"\n]| \\. )*+ (?: " | \\?(?=\n|\Z) )
          | '     (?: [^\\'\n]| \\. )*+ (?: ' | \\?(?=\n|\Z) ) ) )
    | (?P<name>    [^\W\d]\w*+ )
    | (?P<number>  \.?\d(?:[\w.]|(?<=[eE])[+-])*+ )
    | (?P<newline> \n )
    | (?P<space>   [^\S\n]++ | \\\n )
    | (?P<op>      == | != | <= | >= | -> | := | \*\*=? | //=? | [-+*/%&|^@]= | . )
    """,
    re.DOTALL | re.VERBOSE,
)
_OPENING: Final = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Token:
    """``text[start:end]`` of the code; ``text`` of a string has its prefix and quotes."""

    kind: Kind
    start: int
    end: int
    text: str

    @property
    def quote(self) -> str:
        """What a string has to end with: one quote or three."""
        body = self.text.lstrip("rRbBfFuU")
        return body[:3] if body[:3] in {'"""', "'''"} else body[:1]

    @property
    def prefix(self) -> str:
        """The letters before a string's quote, in lower case."""
        return self.text[: len(self.text) - len(self.text.lstrip("rRbBfFuU"))].lower()

    @property
    def is_closed(self) -> bool:
        """Whether a string has its last quote."""
        body = self.text[len(self.prefix) :]
        end = body[len(self.quote) :]
        if not end.endswith(self.quote):
            return False
        before = end[: -len(self.quote)]
        return (len(before) - len(before.rstrip("\\"))) % 2 == 0

    @property
    def content(self) -> str:
        """What stands between a string's quotes, escapes as they are written."""
        body = self.text[len(self.prefix) + len(self.quote) :]
        return body[: -len(self.quote)] if self.is_closed else body


def lex(code: str) -> list[Token]:
    """All tokens of ``code`` in order; their texts join to ``code``."""
    found = []
    for match in _TOKEN.finditer(code):
        kind = match.lastgroup
        assert kind is not None
        found.append(Token(kind, match.start(), match.end(), match.group()))  # pyright: ignore[reportArgumentType]
    return found


def open_brackets(tokens: list[Token]) -> str:
    """What would close the brackets that are open at the end, innermost first."""
    closers: list[str] = []
    for token in tokens:
        if token.kind != "op":
            continue
        if token.text in _OPENING:
            closers.append(_OPENING[token.text])
        elif closers and token.text == closers[-1]:
            closers.pop()
    return "".join(reversed(closers))
