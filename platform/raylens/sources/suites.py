"""Prompt suites by name or path: those that ship, then files inside the base directory; and files of new ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from raylens.errors import InputError, UnknownNameError, WorkspaceError
from raylens.store.base_dir import inside_base
from raylens.store.disk import Disk
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


def suite_target(
    path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None, *, overwrite: bool = False
) -> Path:
    """Where a new suite goes, checked before any work is done for it.

    Args:
        path: A YAML file that is to be made; its folder exists.
        base: See :func:`raylens.store.base_dir.inside_base`.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        InputError: It lies outside the base directory, is no YAML file's name, is there already, or cannot be written.
    """
    shown = os.fspath(path)
    target = inside_base(shown, "suite", base)
    if target.suffix.lower() not in _SUFFIXES:
        raise InputError(f"suite {shown} is not a YAML file.", hint="name a file that ends in .yaml or .yml.")
    if target.exists() and not target.is_file():
        raise InputError(f"{shown} is not a file.", hint="name another one.")
    if target.exists() and not overwrite:
        raise _exists(shown)
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"suite {shown} cannot be written: {target.parent} is no folder that you can write to.",
            hint="make that folder, or name a file in another.",
        )
    return target


def write_suite(target: Path, text: str, *, overwrite: bool = False) -> Suite:
    """Write a suite's YAML, whole or not at all, and return it as whoever loads it will see it.

    Args:
        target: Of :func:`suite_target`.
        text: YAML.
        overwrite: As there.

    Raises:
        InputError: It is no suite, or a larger one than can be read; the file is there; or it cannot be written.
        DiskFullError: No space.
    """
    suite = parse_suite(text, target.stem, str(target))
    try:
        folder = Disk(target.parent)
        if overwrite:
            folder.put(target.name, text.encode())
        elif not folder.put_if_absent(target.name, text.encode()):
            raise _exists(str(target))
    except (OSError, WorkspaceError) as error:
        cause = error.__cause__ if isinstance(error, WorkspaceError) else error
        reason = str(getattr(cause, "strerror", None) or error).lower().rstrip(".")
        raise InputError(
            f"cannot write {target}: {reason}.", hint="name a file in a folder you can write to."
        ) from None
    return suite


def _exists(shown: str) -> InputError:
    return InputError(
        f"{shown} exists already.", hint="name another file, or replace it with --force; nothing was written."
    )


def _read(path: Path, shown: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"suite {shown} cannot be read: {reason}.", hint="check the file's permissions.") from None
