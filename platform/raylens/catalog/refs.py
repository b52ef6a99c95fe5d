"""Models and SAEs that a client may name (A2.16): the bundle's, ids of the hub, and folders in the base directory.

What comes out is safe to hand to a process that follows paths: an absolute path with every link resolved, or a name
that is no path anywhere that process looks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from raylens.bundle.paths import model_path
from raylens.errors import InputError
from raylens.ids import SaeId
from raylens.store.base_dir import inside_base

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def model_ref(text: str, what: str, base: Path) -> str:
    """A bundled model, a folder inside the base directory, or an id of the hub.

    Args:
        text: What a client wrote.
        what: ``candidate`` or ``reference``, for the error.
        base: The base directory.

    Raises:
        InputError: It is none of these, or a path that leads out of the base directory.
    """
    if model_path(text) is not None:
        return text
    if (inside := _existing(text, what, base)) is not None:
        return str(inside)
    if text.count("/") <= 1 and _is_name(text):
        return text
    raise InputError(
        f"{what} {text!r} is no folder inside the base directory, and no id of the hub.",
        hint="name a folder relative to the base directory, or <owner>/<name>.",
    )


def sae_ref(text: str, base: Path) -> str:
    """A folder inside the base directory, or ``release/id``; raises as :func:`model_ref`."""
    if (inside := _existing(text, "SAE", base)) is not None:
        return str(inside)
    if "/" in text and _is_name(text):
        return str(SaeId.parse(text))
    raise InputError(
        f"SAE {text!r} is no folder inside the base directory, and no id of one.",
        hint="name a folder relative to the base directory, or release/id.",
    )


def _is_name(text: str) -> bool:
    """Whether it can be an id, and no path that leads anywhere but down."""
    return all(_PART.fullmatch(part) and ".." not in part for part in text.split("/"))


def _existing(text: str, what: str, base: Path) -> Path | None:
    """What lies there, it and its files inside the base directory; a path out of it is refused even to nothing."""
    inside = inside_base(text, what, base)
    for one in sorted(inside.iterdir()) if inside.is_dir() else ():
        if one.is_symlink():
            inside_base(one, f"{what} file", base)
    return inside if inside.exists() else None
