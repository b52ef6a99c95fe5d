"""Functions of the standard library, each cut where a completion would begin."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from raylens.bundle.stdlib import Split, StdlibFile, read_stdlib

_LONGEST_PROMPT: Final = 8
"""Lines; longer docstrings leave nothing of a short window for the body."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function at the left margin.

    Attributes:
        prompt: Its ``def`` line or lines and its docstring, without the last line break: the tokenizer of pico keeps
            a line break together with the indentation after it.
        body: The rest, from that line break to the end of the last line.
        path: The file it is from, as in :attr:`raylens.bundle.stdlib.StdlibFile.path`.
    """

    prompt: str
    body: str
    path: str


@cache
def functions(split: Split) -> tuple[Function, ...]:
    """All functions of a split with a body of at least two statements or a docstring and one, in order."""
    return tuple(function for file in read_stdlib(split) for function in _of_file(file))


def _of_file(file: StdlibFile) -> Iterator[Function]:
    if not file.path.endswith(".py"):
        return
    try:
        tree = ast.parse(file.text)
    except SyntaxError:  # deliberate nonsense in the library's own tests
        return
    lines = file.text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
            continue
        first = node.body[1 if ast.get_docstring(node, clean=False) is not None else 0]
        decorators = first.decorator_list if isinstance(first, _DECORATED) else []
        cut = min(one.lineno for one in (first, *decorators)) - node.lineno
        end = (node.end_lineno or node.lineno) - node.lineno + 1
        own = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.lineno - 1 + end])).split("\n")
        while cut > 1 and (not own[cut - 1].strip() or own[cut - 1].lstrip().startswith("#")):
            cut -= 1  # remarks on the first statement belong to the body
        # A string over several lines may reach to the left of its function.
        if not 0 < cut <= _LONGEST_PROMPT or not own[0].startswith("def ") or len(own) != end:
            continue
        yield Function("\n".join(own[:cut]), "\n" + "\n".join(own[cut:]) + "\n", file.path)


_DECORATED: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
