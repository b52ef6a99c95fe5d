"""The token that clients of RayLens's own services need: one of the environment's, else one kept for this user.

The file is made once, by whoever starts the services first, and can be read by its owner alone. It lies outside of
any workspace, which others may be able to read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from raylens.errors import InputError
from raylens.net.secret import checked_key
from raylens.net.secret_file import make_secret, read_secret

VARIABLE: Final = "RAYLENS_API_TOKEN"
FILE_VARIABLE: Final = "RAYLENS_API_TOKEN_FILE"
SHORTEST: Final = 16


def token_file(environment: Mapping[str, str] = os.environ) -> Path:
    """``RAYLENS_API_TOKEN_FILE``, else ``raylens/api-token`` in the user's folder of settings (XDG)."""
    if named := environment.get(FILE_VARIABLE, "").strip():
        return Path(named)
    home = environment.get("XDG_CONFIG_HOME", "").strip()
    return (Path(home) if home else Path.home() / ".config") / "raylens" / "api-token"


def find_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """The token, or None where there is none yet.

    Raises:
        InputError: It cannot be sent, can be guessed, or others can read the file.
    """
    if given := environment.get(VARIABLE, "").strip():
        return _checked(given, VARIABLE)
    path = token_file(environment)
    kept = read_secret(path, f"remove it, or set {VARIABLE}.")
    return _checked(kept, str(path)) if kept is not None else None


def find_or_make_token(environment: Mapping[str, str] = os.environ) -> tuple[str, bool]:
    """The token, and whether it was made right now.

    Raises:
        InputError: As :func:`find_token`, or the file cannot be written.
    """
    if found := find_token(environment):
        return found, False
    is_new = make_secret(token_file(environment), f"set {VARIABLE}, or {FILE_VARIABLE} to a place that can be written.")
    made = find_token(environment)
    assert made is not None
    return made, is_new


def _checked(token: str, where: str) -> str:
    checked_key(token, where)
    if len(token) < SHORTEST:
        raise InputError(
            f"the token of {where} is shorter than {SHORTEST} characters.",
            hint=f"set a long random one, or unset {VARIABLE}: one is made then.",
        )
    return token
