"""What connecting to a Ray cluster takes, apart from Ray: its token, quiet, and words for what went wrong.

Ray sends a token only under ``RAY_AUTH_MODE=token``, which it reads once, as it is imported. So nothing here imports
it, and :func:`bring_token` comes before whatever does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from raylens.errors import InputError

MODE: Final = "RAY_AUTH_MODE"
TOKEN: Final = "RAY_AUTH_TOKEN"
PATH: Final = "RAY_AUTH_TOKEN_PATH"
_DEFAULT: Final = Path(".ray") / "auth_token"
_REFUSED: Final = "AuthenticationError"
"""Ray's class, by name: it stands in the text of the error that Ray raises where a cluster refuses a token."""


def bring_token(address: str | None) -> None:
    """Have Ray send this user's token to the cluster at ``address``; to be called before Ray is imported.

    Where there is no token nothing changes: a cluster may want none. Nor where ``RAY_AUTH_MODE`` says something.
    """
    if address is not None and token_place() is not None:
        os.environ.setdefault(MODE, "token")


def token_place() -> str | None:
    """Where this user's token for Ray is, looked for as Ray does; None where there is none."""
    if os.environ.get(TOKEN, "").strip():
        return TOKEN
    named = os.environ.get(PATH)
    path = Path(named) if named else Path.home() / _DEFAULT
    try:
        kept = path.read_bytes().strip()
    except OSError:
        return None
    return str(path) if kept else None


def no_connection(address: str | None, error: BaseException) -> InputError:
    """Why there is no connection to a cluster, as the error that Ray raised says it.

    Args:
        address: Of the cluster.
        error: What ``ray.init`` raised.
    """
    if not _is_about_tokens(error):
        hint = "start one with ray start --head, or leave --address out to use this machine."
        if address is not None and address.startswith("ray://"):
            hint += f" One that wants a token does not answer without: set {TOKEN}."  # Ray's client cannot tell
        return InputError(f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}).", hint=hint)
    place, mode = token_place(), os.environ.get(MODE)
    if place is None:
        named = os.environ.get(PATH)
        where = f" ({PATH} names {named}, which holds none)" if named else ""
        return InputError(
            f"the Ray cluster at {address!r} wants a token, and there is none here{where}.",
            hint=f"copy ~/.ray/auth_token from its head node, or set {TOKEN} or {PATH}.",
        )
    if mode is None or mode.lower() == "disabled":
        hint = f"unset {MODE}." if mode else f"set {MODE}=token before Python starts: Ray reads it when it is imported."
        said = f"{MODE} is {mode or 'not set'}"
        return InputError(f"the Ray cluster at {address!r} wants a token, and none is sent: {said}.", hint=hint)
    return InputError(
        f"the Ray cluster at {address!r} does not take the token of {place}.",
        hint="use that of its head node, which ray get-auth-token shows there.",
    )


def _is_about_tokens(error: BaseException | None) -> bool:
    while error is not None:
        if _REFUSED in f"{type(error).__name__}: {error}":
            return True
        error = error.__cause__
    return False


@contextmanager
def without_chatter(*, verbose: bool) -> Iterator[None]:
    """Keep off stderr what Ray's core writes past Python while it connects; its errors are raised all the same."""
    if verbose:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
