"""A text as a Python script that rules can edit: whole or ending anywhere, as prompts do.

What the text lacks to parse is appended for the analysis and never shows in a variant. Every edit is checked: unless
the edited text, ended in the same way, is the same program, the rule does not apply.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from raylens.suites.python_prefix import closing, parsed
from raylens.suites.python_tokens import Token, lex

_LAYOUT = frozenset({"comment", "newline", "space"})


class Edit(NamedTuple):
    """``whole[start:end]`` becomes ``new``."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Script:
    """Python that may stop anywhere.

    Attributes:
        text: As it is.
        whole: With what makes it parse.
        tree: Of ``whole``.
    """

    text: str
    whole: str
    tree: ast.Module

    @classmethod
    def of(cls, text: str) -> Script | None:
        """None where the text is no Python, or its lines end otherwise than with a line feed."""
        if any(mark in text for mark in "\r\f\v\x00"):
            return None
        suffix = closing(text)
        tree = parsed(text + suffix) if suffix is not None else None
        return cls(text, text + (suffix or ""), tree) if tree is not None and tree.body else None

    @cached_property
    def tokens(self) -> list[Token]:
        """All of ``whole``, layout and comments included."""
        return lex(self.whole)

    @cached_property
    def code(self) -> list[Token]:
        """Tokens but layout and comments."""
        return [token for token in self.tokens if token.kind not in _LAYOUT]

    def offset(self, line: int, column: int) -> int:
        """Where in ``whole`` a place of the tree is: ``line`` from 1, ``column`` in bytes of UTF-8 from 0."""
        begin = self._line_starts[line - 1]
        text = self.whole[begin : begin + column]
        return begin + (column if text.isascii() else len(text.encode()[:column].decode(errors="ignore")))

    def span(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword) -> tuple[int, int]:
        """Where in ``whole`` a node begins and ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def line_start(self, offset: int) -> int:
        return self.whole.rfind("\n", 0, offset) + 1

    def statements(self) -> Iterator[tuple[int, str]]:
        """Start of the line and indentation of every statement that begins its line, decorators included."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.stmt):
                continue
            decorators = getattr(node, "decorator_list", [])
            begin = self.span(decorators[0])[0] if decorators else self.span(node)[0]
            start = self.line_start(begin)
            indent = self.whole[start:begin].rstrip("@")
            if not indent.strip():
                yield start, indent

    def edited(self, edits: Iterable[Edit], same: Callable[[ast.Module], ast.AST] = lambda tree: tree) -> str | None:
        """The text with edits made, those beyond its end left out.

        Args:
            edits: That do not overlap.
            same: What has to be equal of both trees; it may change the tree it is given.

        Returns:
            None where an edit reaches over the text's end, nothing changes, or it is not the same program.
        """
        text = self.text
        for start, end, new in sorted(edits, reverse=True):
            if start >= len(self.text) and end > start:
                continue
            if end > len(self.text):
                if len(new) != end - start:
                    return None
                new = new[: len(self.text) - start]
            text = text[:start] + new + text[end:]
        if text == self.text:
            return None
        suffix = closing(text)
        tree = parsed(text + suffix) if suffix is not None else None
        before = parsed(self.whole)
        if tree is None or before is None:
            return None
        try:
            equal = ast.dump(same(tree)) == ast.dump(same(before))
        except RecursionError:
            return None
        return text if equal else None

    @cached_property
    def _line_starts(self) -> list[int]:
        starts = [0]
        starts += [at + 1 for at, character in enumerate(self.whole) if character == "\n"]
        return starts
