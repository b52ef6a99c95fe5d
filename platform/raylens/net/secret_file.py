"""A secret that is made once and kept in a file which only its owner can read."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from raylens.errors import InputError

_BYTES: Final = 32


def read_secret(path: Path, remedy: str) -> str | None:
    """What a file keeps; None where there is no such file.

    Args:
        path: The file.
        remedy: What to do where it cannot be used.

    Raises:
        InputError: It cannot be read, or others can read it.
    """
    try:
        kept, mode = path.read_text("ascii").strip(), path.stat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {path} cannot be read.", hint=remedy) from error
    if mode & 0o077:
        raise InputError(f"others may read the token file {path}.", hint=f"chmod 600 {path}, or remove it.")
    return kept


def make_secret(path: Path, remedy: str) -> bool:
    """Write a new secret where none is; of many who try at once, one does.

    Returns:
        Whether it was written here.

    Raises:
        InputError: It cannot be written.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written whole under another name first, and linked: who reads it sees all of it, and the first one wins.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_urlsafe(_BYTES).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        reason = (error.strerror or "failed").lower()
        raise InputError(f"the token file {path} cannot be written ({reason}).", hint=remedy) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return True
