"""Pairs of excerpts that mean something alike, cut from the standard library without labels.

Two kinds, for the two uses of a sentence embedding here: an excerpt and the one after it in the
same document (excerpts near a given one: hard negatives), and a docstring with the code that it
describes (a phrase against excerpts: embedding scores).
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from raylens.bundle.stdlib import StdlibFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EXCERPT_TOKENS = 32
"""Tokens an excerpt has: what explainers and scorers see of a window."""
_CODE_LINES = 24
_FEWEST_CHARACTERS = 24


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts of the file ``path`` that belong together."""

    anchor: str
    positive: str
    path: str
    kind: Literal["next", "docstring"]


def excerpts(text: str, tokenizer: Tokenizer, length: int = EXCERPT_TOKENS, shift: int = 0) -> list[str]:
    """Cut ``text`` into consecutive excerpts of ``length`` tokens, the first ``shift`` tokens left out.

    Excerpts of white space alone, and the rest of the text that does not fill one, are dropped.
    """
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    starts = range(shift, len(offsets) - length + 1, length)
    cut = (text[offsets[at][0] : offsets[at + length - 1][1]] for at in starts)
    return [excerpt for excerpt in cut if excerpt.strip()]


def next_pairs(files: Iterable[StdlibFile], tokenizer: Tokenizer, shift: int = 0) -> Iterator[Pair]:
    """Each excerpt with the next one of its document; no excerpt is in two pairs."""
    for file in files:
        cut = excerpts(file.text, tokenizer, shift=shift)
        for anchor, positive in zip(cut[0::2], cut[1::2], strict=False):
            yield Pair(anchor, positive, file.path, "next")


def docstring_pairs(files: Iterable[StdlibFile]) -> Iterator[Pair]:
    """First paragraph of a docstring with the code it documents, the docstring cut out of it.

    Only the first ``_CODE_LINES`` lines of code count, and pairs with next to no text are dropped.
    Files that are not Python of the running version are passed over.
    """
    for file in files:
        if not file.path.endswith(".py"):
            continue
        try:
            tree = ast.parse(file.text)
        except SyntaxError:
            continue
        lines = file.text.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or len(node.body) < 2:
                continue
            docstring = ast.get_docstring(node)
            if docstring is None or node.end_lineno is None or node.body[0].end_lineno is None:
                continue
            head = lines[node.lineno - 1 : node.body[0].lineno - 1]
            body = lines[node.body[0].end_lineno : node.end_lineno]
            code = textwrap.dedent("\n".join([*head, *body][:_CODE_LINES]))
            summary = docstring.split("\n\n")[0]
            if min(len(summary), len(code)) >= _FEWEST_CHARACTERS:
                yield Pair(summary, code, file.path, "docstring")
