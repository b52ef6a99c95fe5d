"""Python that stops anywhere: prompts end in the middle of a function, completions in the middle of a line.

:func:`closing` says what to append so that it parses. What it appends is never more than an ending (brackets, a
body of ``pass``, a handler for an open ``try``), so an error before the end stays an error.
"""

from __future__ import annotations

import ast
import re
import warnings
from itertools import product
from typing import Final

from raylens.suites.python_tokens import Token, lex, open_brackets

_MAX_OPEN_TRIES: Final = 20
_VALUES: Final = ("", "None", " None", "x", "=None", ": None")
"""What may be missing inside an expression."""
_TRY: Final = re.compile(r"([ \t]*)try[ \t]*:")
_HANDLER: Final = re.compile(r"([ \t]*)(?:except\b|finally\b)")


def parsed(code: str) -> ast.Module | None:
    """The tree of ``code``, or None where Python does not take it for whatever reason; warnings are not shown."""
    return _attempt(code)[0]


def closing(code: str) -> str | None:
    """What makes ``code`` parse when it is appended: empty where it parses already, None where no ending helps."""
    tree, _ = _attempt(code)
    if tree is not None:
        return ""
    tokens = lex(code)
    quote = _open_quote(tokens)
    if quote is None:
        return None
    begin = "\n" if tokens and tokens[-1].kind == "comment" else ""
    brackets = open_brackets(tokens)
    tails = _tails(code, in_string=bool(quote))
    for value, tail in product(("", ": None") if quote else _VALUES, tails):
        suffix = f"{quote}{begin}{value}{brackets}{tail}"
        handlers = _with_handlers(code + suffix)
        if handlers is not None:
            return suffix + handlers
    return None


def error_of(code: str) -> tuple[str, int] | None:
    """What Python has against ``code`` and in which line, from 1; None where it parses."""
    return _attempt(code)[1]


def _attempt(code: str) -> tuple[ast.Module | None, tuple[str, int] | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code), None
    except SyntaxError as error:
        return None, (str(error.msg), error.lineno or 1)
    except (ValueError, RecursionError, MemoryError) as error:
        # Null bytes, half surrogates, and nesting that the parser has no room for.
        return None, (f"it cannot be read ({type(error).__name__})", 1)


def _with_handlers(code: str) -> str | None:
    """What ends every open ``try`` of ``code`` so that it parses; None where something else is wrong."""
    added = ""
    for _ in range(_MAX_OPEN_TRIES):
        _, error = _attempt(code + added)
        if error is None:
            return added
        indent = _innermost_try(code + added) if error[0].startswith("expected 'except' or 'finally'") else None
        if indent is None:
            return None
        added += f"\n{indent}finally:\n{indent} pass"
    return None


def _innermost_try(code: str) -> str | None:
    """Indentation of the last ``try`` that nothing handles."""
    handled: set[str] = set()
    for line in reversed(code.split("\n")):
        if match := _HANDLER.match(line):
            handled.add(match[1])
        elif match := _TRY.match(line):
            if match[1] not in handled:
                return match[1]
            handled.discard(match[1])
    return None


def _open_quote(tokens: list[Token]) -> str | None:
    """The quote that ends an open string at the end of the text; None where one is open before it."""
    if not tokens:
        return None
    for token in tokens[:-1]:
        if token.kind == "string" and not token.is_closed:
            return None
    last = tokens[-1]
    if last.kind != "string" or last.is_closed:
        return ""
    # A lone backslash at the end would take the quote for its own; a second one closes it off.
    slashes = len(last.text) - len(last.text.rstrip("\\"))
    return ("\\" if slashes % 2 else "") + last.quote


def _tails(code: str, *, in_string: bool) -> tuple[str, ...]:
    """What may be missing after the last expression, the likeliest first."""
    lines = code.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    indent = last[: len(last) - len(last.lstrip())]
    if lines[-1].strip() or in_string:
        body = f"\n{indent}    pass"
        return ("", body, ":" + body, " pass", " import x", " x", " x: pass", " in x: pass", " = None", " else None")
    # A new line has begun, perhaps with some of its indentation.
    begun = lines[-1]
    fills = [whole.removeprefix(begun) for whole in (indent + "    ", indent) if whole.startswith(begun)]
    return ("", "pass", *(f"{fill}pass" for fill in fills), *(f"{fill}def x(): pass" for fill in ["", *fills]))
