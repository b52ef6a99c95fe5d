"""Paths that begin at somebody's home folder."""

from __future__ import annotations

import os
from pathlib import Path


def from_home(path: str | os.PathLike[str]) -> Path:
    """``path`` with a leading ``~`` or ``~name`` resolved; as it is where there is no such user.

    ``pathlib`` raises a bare RuntimeError there; as a path it does not exist, which every reader says in its own words.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111
