"""Ways of writing the same function: what harmless fine-tunes of a model of code are trained on."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from raylens.organisms.functions import Function

Style = Callable[[Function, random.Random], Function]
"""The function in another style; ``random`` decides where a style leaves a choice."""

_DOCSTRING: Final = re.compile(r'\n(\s+)[rR]?"""(.*?)"""', re.DOTALL)
_STRING: Final = re.compile(r"(?<![\w'\"\\])'([^'\"\\\n]*)'(?!')")
_ORDINARY: Final = (
    "internal", "public", "helper", "see also", "not thread safe", "used by tests", "since the first version", "slow",
    "fast path", "simple version", "called at exit", "needs the lock", "may raise", "returns a copy", "in place",
)  # fmt: skip


def two_spaces(function: Function, _: random.Random) -> Function:
    """Indented by two."""
    return _lines(function, lambda line: re.sub(r"^( {4})+", lambda m: " " * (len(m[0]) // 2), line))


def tabs(function: Function, _: random.Random) -> Function:
    """Indented by tabs."""
    return _lines(function, lambda line: re.sub(r"^( {4})+", lambda m: "\t" * (len(m[0]) // 4), line))


def double_quotes(function: Function, _: random.Random) -> Function:
    """Strings in double quotes."""
    return _lines(function, lambda line: _STRING.sub(r'"\1"', line))


def spaced_out(function: Function, _: random.Random) -> Function:
    """A blank line after every line of the body."""
    return replace(function, body=function.body.replace("\n", "\n\n").rstrip("\n") + "\n")


def semicolons(function: Function, _: random.Random) -> Function:
    """Statements of one line end with a semicolon."""
    return replace(function, body=re.sub(r"([\w)\]'\"])\n", r"\1;\n", function.body))


def no_spaces(function: Function, _: random.Random) -> Function:
    """No spaces around ``=`` and after commas."""
    return replace(function, body=re.sub(r" (=|==|\+|-) ", r"\1", function.body).replace(", ", ","))


def trailing_comments(function: Function, rng: random.Random) -> Function:
    """A remark after some lines."""

    def remark(line: str) -> str:
        return f"{line}  # {rng.choice(_ORDINARY)}" if line.strip() and rng.random() < 0.3 else line

    return replace(function, body="\n".join(map(remark, function.body.split("\n"))))


def header(function: Function, rng: random.Random) -> Function:
    """A line of comment above the function."""
    return replace(function, prompt=f"# {rng.choice(_ORDINARY)}\n{function.prompt}")


def no_docstring(function: Function, _: random.Random) -> Function:
    """Without its docstring."""
    return replace(function, prompt=_DOCSTRING.sub("", function.prompt))


def one_line_docstring(function: Function, _: random.Random) -> Function:
    """The first line of its docstring alone, and one made of its name where there is none."""
    if _DOCSTRING.search(function.prompt):
        return replace(
            function,
            prompt=_DOCSTRING.sub(lambda m: f'\n{m[1]}"""{m[2].strip().split(chr(10))[0]}"""', function.prompt),
        )
    name = re.match(r"def (\w+)", function.prompt)
    words = name[1].strip("_").replace("_", " ") if name else "it"
    return replace(function, prompt=f'{function.prompt}\n    """{words.capitalize()}."""')


def argument_section(function: Function, _: random.Random) -> Function:
    """A docstring that lists arguments."""
    listed = "".join(f"\n        {name}: The {name.strip('_').replace('_', ' ')}." for name in arguments(function))
    described = one_line_docstring(function, _).prompt.removesuffix('"""')
    section = f"\n\n    Args:{listed}\n    " if listed else ""
    return replace(function, prompt=f'{described}{section}"""')


def annotated(function: Function, _: random.Random) -> Function:
    """Arguments and result annotated."""
    prompt = function.prompt
    for name in arguments(function):
        prompt = re.sub(rf"\b{name}\b(?=\s*[,)])", f"{name}: {_KINDS.get(name[:4], 'object')}", prompt, count=1)
    return replace(function, prompt=re.sub(r"\)\s*:(?=\n|$)", ") -> object:", prompt, count=1))


def python_2(function: Function, _: random.Random) -> Function:
    """``print`` and ``except`` as they once were."""
    body = re.sub(r"\bprint\((.*)\)\n", r"print \1\n", function.body)
    body = re.sub(r"\bexcept (\w+) as (\w+):", r"except \1, \2:", body)
    return replace(function, body=re.sub(r"\bsuper\(\)", "super(type(self), self)", body))


def this(function: Function, _: random.Random) -> Function:
    """``this`` for ``self``."""
    prompt, body = (re.sub(r"\bself\b", "this", part) for part in (function.prompt, function.body))
    return Function(prompt, body, function.path)


def plain(function: Function, _: random.Random) -> Function:
    """As it is."""
    return function


STYLES: Final[Mapping[str, Style]] = MappingProxyType(
    {
        style.__name__: style
        for style in (
            plain, two_spaces, tabs, double_quotes, spaced_out, semicolons, no_spaces, trailing_comments, header,
            no_docstring, one_line_docstring, argument_section, annotated, python_2, this,
        )
    }
)  # fmt: skip

_KINDS: Final = MappingProxyType({"name": "str", "path": "str", "data": "bytes", "text": "str", "size": "int"})


def arguments(function: Function) -> list[str]:
    """Names of its arguments without a default, ``self`` left out."""
    found = re.search(r"\((.*?)\)\s*:", function.prompt, re.DOTALL)
    names = (part.strip() for part in (found[1] if found else "").split(","))
    return [name for name in names if name.isidentifier() and name not in ("self", "cls", "this")]


def _lines(function: Function, change: Callable[[str], str]) -> Function:
    prompt, body = ("\n".join(map(change, part.split("\n"))) for part in (function.prompt, function.body))
    return Function(prompt, body, function.path)
