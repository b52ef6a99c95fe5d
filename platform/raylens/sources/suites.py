"""Prompt suites by name or path: those that ship, then files inside the base directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from raylens.errors import InputError, UnknownNameError
from raylens.store.base_dir import inside_base
from raylens.suites.shipped import shipped_names, shipped_suite
from raylens.suites.suite import Suite
from raylens.suites.suite_file import MAX_BYTES
from raylens.suites.suite_parsing import parse_suite

_SUFFIXES: Final = frozenset({".yaml", ".yml"})


def load_suite(name_or_path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> Suite:
    """A suite that ships, by its name, else one from a YAML file inside the base directory.

    Args:
        name_or_path: ``minimal``, or a path; ``./minimal`` is a path whatever ships.
        base: See :func:`raylens.store.base_dir.inside_base`.

    Raises:
        UnknownNameError: It is neither; the hint lists what ships.
        InputError: The file lies outside the base directory, cannot be read, or is no suite.
    """
    shown = os.fspath(name_or_path)
    if shown in shipped_names():
        return shipped_suite(shown)
    path = inside_base(shown, "suite", base)
    if not path.exists():
        names = ", ".join(shipped_names())
        raise UnknownNameError(
            f"there is no suite {shown!r}: none of that name ships, and {path} does not exist.",
            hint=f"there are {names}; or name a YAML file.",
        )
    if not path.is_file():
        raise InputError(f"suite {shown} is not a file.", hint="name a YAML file.")
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"suite {shown} is not a YAML file.", hint="name a file that ends in .yaml or .yml.")
    return parse_suite(_read(path, shown), path.stem, shown)


def _read(path: Path, shown: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"suite {shown} cannot be read: {reason}.", hint="check the file's permissions.") from None
