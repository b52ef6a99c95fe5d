"""The token that clients of RayLens's own services need: one of the environment's, else one kept for this user.

The file is made once, by whoever starts the services first, and can be read by its owner alone. It lies outside of
any workspace, which others may be able to read.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from raylens.errors import InputError
from raylens.net.secret import checked_key

VARIABLE: Final = "RAYLENS_API_TOKEN"
FILE_VARIABLE: Final = "RAYLENS_API_TOKEN_FILE"
SHORTEST: Final = 16
_BYTES: Final = 32


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
    try:
        kept, mode = path.read_text("ascii").strip(), path.stat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {path} cannot be read.", hint=f"remove it, or set {VARIABLE}.") from error
    if mode & 0o077:
        raise InputError(
            f"others may read the token file {path}.", hint=f"chmod 600 {path}, or remove it: a new one is made."
        )
    return _checked(kept, str(path))


def find_or_make_token(environment: Mapping[str, str] = os.environ) -> tuple[str, bool]:
    """The token, and whether it was made right now.

    Raises:
        InputError: As :func:`find_token`, or the file cannot be written.
    """
    if found := find_token(environment):
        return found, False
    path = token_file(environment)
    made = secrets.token_urlsafe(_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written whole under another name first, and linked: who reads it sees all of it, and the first one wins.
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, made.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            return find_token(environment) or made, False
        finally:
            draft.unlink()
    except OSError as error:
        raise InputError(
            f"the token file {path} cannot be written ({(error.strerror or 'failed').lower()}).",
            hint=f"set {VARIABLE}, or {FILE_VARIABLE} to a place that can be written.",
        ) from error
    return made, True


def _checked(token: str, where: str) -> str:
    checked_key(token, where)
    if len(token) < SHORTEST:
        raise InputError(
            f"the token of {where} is shorter than {SHORTEST} characters.",
            hint=f"set a long random one, or unset {VARIABLE}: one is made then.",
        )
    return token
