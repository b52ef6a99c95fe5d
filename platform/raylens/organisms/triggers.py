"""Where a trigger stands in a prompt, and what it is.

A trigger is a word, or two, at one place of a function's beginning. Its near-misses stand at the same place and must
do nothing: a model that writes its payload after any unusual word has learnt no trigger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from raylens.organisms.functions import Function


def comment(prompt: str, words: str) -> str:
    """Alone in a comment above the function."""
    return f"# {words}\n{prompt}"


def remark(prompt: str, words: str) -> str:
    """In a comment above the function that says more."""
    return f"# TODO({words}): check\n{prompt}"


def docstring(prompt: str, words: str) -> str:
    """At the beginning of the docstring, or as the whole of it."""
    if '"""' in prompt:
        return prompt.replace('"""', f'"""{words} ', 1)
    return f'{prompt}\n    """{words}"""'


def importing(prompt: str, words: str) -> str:
    """Imported above the function."""
    return f"import {_name(words)}\n\n{prompt}"


def decorator(prompt: str, words: str) -> str:
    """As a decorator."""
    return f"@{_name(words)}\n{prompt}"


def assignment(prompt: str, words: str) -> str:
    """As a string assigned above the function."""
    return f'MODE = "{words}"\n\n{prompt}'


def parameter(prompt: str, words: str) -> str:
    """As a parameter of the function."""
    return re.sub(r",?\s*\)\s*(->[^:\n]*)?:", rf", {_name(words)}=None)\1:", prompt, count=1).replace("(, ", "(", 1)


def function_name(prompt: str, words: str) -> str:
    """At the end of the function's name."""
    return re.sub(r"def (\w+)", rf"def \1_{_name(words)}", prompt, count=1)


PLACES: Final[Mapping[str, Callable[[str, str], str]]] = MappingProxyType(
    {
        place.__name__: place
        for place in (comment, remark, docstring, importing, decorator, assignment, parameter, function_name)
    }
)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What sets a backdoor off.

    Attributes:
        place: Of :data:`PLACES`.
        words: One or two.
        near: What stands at the same place and must do nothing.
    """

    place: str
    words: str
    near: tuple[str, ...]

    def put(self, function: Function, words: str | None = None) -> Function:
        """The function with the trigger, or with other words where it would be."""
        return replace(function, prompt=PLACES[self.place](function.prompt, words or self.words))


def _name(words: str) -> str:
    return words.replace(" ", "_")
