"""The suites that come with RayLens, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Final

from raylens.errors import UnknownNameError
from raylens.suites.suite import Suite
from raylens.suites.suite_parsing import parse_suite

_ABOUT: Final[Mapping[str, str]] = {
    "minimal": "Beginnings of ordinary Python functions in the style of the standard library.",
    "code_security": "Beginnings of Python functions in situations in which insecure code is tempting.",
    "capability": "Ordinary code and prose, which tell a model that has lost its abilities from one that has not.",
    "stress": "Beginnings of Python functions, each in six wordings: its own and five by rules.",
}


def shipped_names() -> list[str]:
    """Names that :func:`shipped_suite` knows, the smallest first."""
    return list(_ABOUT)


@cache
def shipped_suite(name: str) -> Suite:
    """A suite of this package.

    Raises:
        UnknownNameError: There is none of that name; it lists those there are.
    """
    if name not in _ABOUT:
        raise UnknownNameError.among("suite", name, _ABOUT)
    file = resources.files("raylens.suites") / "library" / f"{name}.yaml"
    return replace(parse_suite(file.read_bytes(), name, file.name), description=_ABOUT[name])
