"""The base directory: config and suite files are read from inside of it and nowhere else (A2.16).

An audit may be asked for by a program (an MCP client, a pipeline), and a path is then what somebody else wrote. All
such paths pass :func:`inside_base`, which follows links before it judges.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from raylens.errors import InputError

VARIABLE: Final = "RAYLENS_BASE_DIR"


def base_dir(base: str | os.PathLike[str] | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """The base directory, links followed: ``base``, else ``RAYLENS_BASE_DIR``, else the current folder.

    Raises:
        InputError: It is no folder.
    """
    named = os.fspath(base) if base is not None else environment.get(VARIABLE) or os.curdir
    resolved = _resolved(named, f"the base directory {named!r}")
    if not resolved.is_dir():
        raise InputError(f"the base directory {named} is no folder.", hint=f"set {VARIABLE} to one that exists.")
    return resolved


def inside_base(path: str | os.PathLike[str], what: str, base: str | os.PathLike[str] | None = None) -> Path:
    """``path`` with every link and ``..`` resolved, which may or may not exist; open what this returns.

    Whoever can change folders inside the base directory between this check and the opening is trusted.

    Args:
        path: Relative to the base directory, or absolute. ``~`` is a name as any other: shells expand it.
        what: What it is to be, for the error: ``suite``, ``config`` …
        base: By default ``RAYLENS_BASE_DIR``, else the current folder.

    Raises:
        InputError: It lies outside the base directory, or a link on its way leads there or in a circle; it is empty, a
            URL, holds a null byte, or is too long for the system.
    """
    root = base_dir(base)
    shown = os.fspath(path)
    if not shown.strip():
        raise InputError(f"the path of the {what} is empty.", hint=f"name a file inside {root}.")
    if "://" in shown:
        raise InputError(f"{what} {shown!r} is a URL.", hint=f"copy the file into {root} and name it there.")
    resolved = _resolved(root / shown, f"{what} {shown!r}")
    if not resolved.is_relative_to(root):
        raise InputError(
            f"{what} {shown!r} lies outside the base directory {root}.",
            hint=f"move it there, or set {VARIABLE} to a folder that holds it.",
        )
    return resolved


def _resolved(path: str | os.PathLike[str], what: str) -> Path:
    try:
        resolved = Path(os.path.realpath(path))
        # realpath passes over a circle of links without a word; looking tells, on the way given and at its end.
        for one in (Path(path), resolved):
            with suppress(FileNotFoundError, NotADirectoryError):
                one.stat()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(
            f"{what} cannot be followed: {reason}.", hint="check links and permissions on its way."
        ) from None
    except ValueError:
        # A null byte, or half of a surrogate pair.
        raise InputError(f"{what} is no path.", hint="leave null bytes and control characters out.") from None
    return resolved
