"""What connecting to a Ray cluster takes besides Ray: its token, quiet, and words for what went wrong.

Ray sends a token under ``RAY_AUTH_MODE=token`` alone, which it reads as it is imported. A user who has a token may set
that for good no more than leave it out: a cluster that wants none could not answer, since its workers have none to send
when they ask the driver. So a cluster is asked first, and Ray is told then as it tells itself where it finds a token.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from raylens.errors import InputError

MODE: Final = "RAY_AUTH_MODE"
TOKEN: Final = "RAY_AUTH_TOKEN"
PATH: Final = "RAY_AUTH_TOKEN_PATH"
_DEFAULT: Final = Path(".ray") / "auth_token"
_REFUSED: Final = "AuthenticationError"
"""Ray's class, by name: it stands in the text of the error that Ray raises where a cluster refuses a token."""
_CONNECT_S: Final = 5.0


def bring_token(address: str) -> None:
    """Have Ray send this user's token to a cluster that wants one; to be called before ``ray.init``.

    Nothing changes where the cluster wants none or does not answer, or where ``RAY_AUTH_MODE`` says something.

    Raises:
        InputError: The cluster wants a token, and there is none, or it is another one.
    """
    is_free, has_token = MODE not in os.environ, token_place() is not None
    if os.environ.get(MODE, "").lower() == "token" and not has_token:
        raise no_connection(address, RuntimeError(_REFUSED))  # Ray's core would end the process without a word
    if address.startswith("ray://"):
        # Its server is not asked so easily, and stands between: a token that it does not want does no harm.
        if is_free and has_token:
            _send_token()
        return
    error = _refusal(address)
    if error is not None and is_free and has_token:
        _send_token()
        error = _refusal(address)
    if error is not None:
        raise no_connection(address, error) from error


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
        hint = f"unset {MODE}." if mode else f"set {MODE}=token."
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


def _refusal(address: str) -> Exception | None:
    """What a cluster says that wants a token, or another one; None of any other, and where that cannot be told."""
    from ray.exceptions import AuthenticationError

    try:
        from ray._private.services import canonicalize_bootstrap_address
        from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]  (compiled)

        place = canonicalize_bootstrap_address(address)
        if place is not None and _listens(place):
            GcsClient(address=place)
    except AuthenticationError as error:
        return error
    except Exception:  # whatever else is wrong, ray.init says it; another Ray may have no such client
        return None
    return None


def _listens(place: str) -> bool:
    """Whether anybody does: Ray waits for most of a minute."""
    url = urlsplit(f"//{place}")
    try:
        socket.create_connection((str(url.hostname), url.port or 0), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def _send_token() -> None:
    """From now on, here and in processes that are started from here; as Ray itself does it in ``ray.init``."""
    from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]  (compiled)

    os.environ[MODE] = "token"
    Config.initialize("")


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
