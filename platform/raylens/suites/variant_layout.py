"""Rules that change how code looks and not what it is: white space, comments, letter case of what is said, quotes."""

from __future__ import annotations

import ast
import random
import re
from typing import Final

from raylens.suites.python_tokens import Token
from raylens.suites.variant_script import Edit, Script

_NEUTRAL: Final = (
    "Keep this simple.",
    "Callers rely on this.",
    "The order matters here.",
    "See also the tests.",
    "This is called from several places.",
    "Nothing here is cached.",
)
# Comments that tools read are left as they are.
_FOR_TOOLS: Final = re.compile(r"#!|#.*(?:coding[:=]|type:|noqa|pragma|pylint|fmt:)", re.IGNORECASE)
_UNITS: Final = ("  ", "    ", "\t")
_LOWER: Final = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_UPPER: Final = {lower: upper for upper, lower in _LOWER.items()}
_OTHER_QUOTE: Final = {"'": '"', '"': "'"}


def change_indentation(text: str, rng: random.Random) -> str | None:
    """Another width of indentation, or tabs; what stands in brackets moves along, strings stay as they are."""
    script = Script.of(text)
    if script is None:
        return None
    columns, unit, edits = [""], "", []
    depth, base, new_base = 0, "", ""
    # Comments before a block's first statement: how deep they are is known when that comes.
    waiting: list[Token] = []
    for line in _lines(script.tokens):
        lead = line[0].text if line[0].kind == "space" and "\n" not in line[0].text else ""
        first = line[1 if lead else 0].kind if len(line) > bool(lead) else "newline"
        if depth == 0 and first == "comment":
            waiting += line[:1] if lead else []
        elif depth == 0 and first != "newline":
            while len(columns[-1]) > len(lead):
                columns.pop()
            if lead != columns[-1]:
                unit = unit or rng.choice([one for one in _UNITS if one != lead])
                columns.append(lead)
            base, new_base = lead, unit * (len(columns) - 1)
            edits += [Edit(one.start, one.end, unit * _level(columns, one.text)) for one in waiting]
            edits += [Edit(line[0].start, line[0].end, new_base)] if lead else []
            waiting = []
        elif lead.startswith(base) and first != "newline":
            edits += [Edit(line[0].start, line[0].end, new_base + lead[len(base) :])] if lead else []
        depth = max(0, depth + sum(map(_depth_change, line)))
    return script.edited(edits) if unit else None


def _lines(tokens: list[Token]) -> list[list[Token]]:
    """Tokens by the line they begin in; one that holds line ends itself goes on in the same."""
    lines: list[list[Token]] = [[]]
    for token in tokens:
        lines[-1].append(token)
        if token.kind == "newline":
            lines.append([])
    return [line for line in lines if line]


def _level(columns: list[str], lead: str) -> int:
    return max(level for level, column in enumerate(columns) if len(column) <= len(lead))


def _depth_change(token: Token) -> int:
    if token.kind != "op":
        return 0
    return (token.text in {"(", "[", "{"}) - (token.text in {")", "]", "}"})


def add_blank_line(text: str, rng: random.Random) -> str | None:
    """One more empty line, before a statement other than the first or after the last."""
    script = Script.of(text)
    if script is None:
        return None
    starts = sorted({start for start, _ in script.statements() if 0 < start <= len(text)})
    return script.edited([Edit(at, at, "\n") for at in [rng.choice(starts)]]) if starts else None


def unix_line_endings(text: str, rng: random.Random) -> str | None:
    """Line feeds for carriage returns with line feeds."""
    return text.replace("\r\n", "\n") if "\r\n" in text else None


def add_comment(text: str, rng: random.Random) -> str | None:
    """A comment that says nothing in particular, on a line of its own before a statement."""
    script = Script.of(text)
    if script is None:
        return None
    places = sorted({(start, indent) for start, indent in script.statements() if start < len(text)})
    if not places:
        return None
    start, indent = rng.choice(places)
    return script.edited([Edit(start, start, f"{indent}# {rng.choice(_NEUTRAL)}\n")])


def drop_comments(text: str, rng: random.Random) -> str | None:
    """No comments, but those that tools read and one that the text ends in."""
    script = Script.of(text)
    if script is None:
        return None
    edits = []
    for comment in _comments(script):
        if comment.end >= len(text):
            continue
        start = script.line_start(comment.start)
        before = script.whole[start : comment.start]
        if before.strip():
            edits.append(Edit(start + len(before.rstrip()), comment.end, ""))
        else:
            edits.append(Edit(start, comment.end + 1, ""))
    return script.edited(edits)


def change_case(text: str, rng: random.Random) -> str | None:
    """Comments and docstrings all in lower case, or all in upper case; letters beyond ASCII stay as they are."""
    script = Script.of(text)
    if script is None:
        return None
    tables = [_LOWER, _UPPER]
    rng.shuffle(tables)
    said = [*_comments(script), *_docstrings(script)]
    for table in tables:
        edits = [Edit(one.start, one.end, _translated(one, table)) for one in said]
        if changed := script.edited(edits, _without_case):
            return changed
    return None


def change_quotes(text: str, rng: random.Random) -> str | None:
    """Double quotes for single ones and the other way round, where a string holds neither, nor escapes."""
    script = Script.of(text)
    if script is None:
        return None
    edits = []
    for token in script.code:
        plain = token.kind == "string" and len(token.quote) == 1 and token.is_closed and "f" not in token.prefix
        if plain and token.end <= len(text) and not set(token.content) & {"'", '"', "\\"}:
            quote = _OTHER_QUOTE[token.quote]
            edits.append(Edit(token.start, token.end, token.text[: len(token.prefix)] + quote + token.content + quote))
    return script.edited(edits)


def _comments(script: Script) -> list[Token]:
    return [token for token in script.tokens if token.kind == "comment" and not _FOR_TOOLS.match(token.text)]


def _docstrings(script: Script) -> list[Token]:
    """Docstrings without escapes, in whose text any letter may change."""
    starts = {script.span(node)[0] for node in _documenting(script.tree)}
    return [one for one in script.code if one.kind == "string" and one.start in starts and "\\" not in one.text]


def _documenting(tree: ast.AST) -> list[ast.Constant]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            value = getattr(node.body[0], "value", None)
            is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
            if is_text and isinstance(node.body[0], ast.Expr):
                found.append(value)
    return found


def _translated(token: Token, table: dict[int, int]) -> str:
    prefix = len(token.prefix) if token.kind == "string" else 0
    return token.text[:prefix] + token.text[prefix:].translate(table)


def _without_case(tree: ast.Module) -> ast.Module:
    for node in _documenting(tree):
        assert isinstance(node.value, str)
        node.value = node.value.translate(_LOWER)
    return tree
