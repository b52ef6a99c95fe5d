"""The Hugging Face hub: read only, quiet, and with errors that say what to do.

Everything that downloads goes through here. Telemetry is off; nothing is ever uploaded; a token is
taken from ``HF_TOKEN`` or, where that is not set, from ``RAYLENS_SAE_MODEL_KEY`` (A0.21, A0.22).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from raylens.errors import DiskFullError, HubUnreachableError, InputError, RaylensError, UnknownNameError

TOKEN_HINT = "set HF_TOKEN (or RAYLENS_SAE_MODEL_KEY) to a read token of an account that may use it"
_OFFLINE_HINT = (
    "connect to huggingface.co and try again, copy the files into the hub cache (HF_HOME), "
    "or name a local folder that exists; raylens/pico needs no hub."
)
# httpx's or httpx2's own base error, whichever this version of the hub client is built on.
_TRANSPORT_ERROR: type[BaseException] = HfHubHTTPError.__mro__[1]


def prepare() -> None:
    """Make the hub client, and what calls it, quiet and authorised; safe to call again."""
    constants.HF_HUB_DISABLE_TELEMETRY = True  # where the client was imported before this package
    key = os.environ.get("RAYLENS_SAE_MODEL_KEY")
    if key and not os.environ.get("HF_TOKEN"):
        os.environ["HF_TOKEN"] = key  # sae-lens passes no token along, so it must find it here


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids every request."""
    return bool(constants.HF_HUB_OFFLINE)


def fetch(repo: str, patterns: Sequence[str], *, revision: str | None = None) -> tuple[Path, str]:
    """Bring the files of ``repo`` that match ``patterns`` into the hub cache.

    Returns:
        The local snapshot folder, and the commit hash it is a snapshot of.

    Raises:
        UnknownNameError: the hub has no such repository or revision, or the name is malformed.
        InputError: it is gated or private and the token does not open it.
        HubUnreachableError: no hub, and not all of it is cached.
    """
    prepare()
    with hub_errors(repo):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    return folder, folder.name


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn whatever the hub client raises about ``what`` into one sentence with a remedy."""
    try:
        yield
    except GatedRepoError as error:
        raise InputError(
            f"{what} is gated, and this machine may not read it.",
            hint=f"accept its licence on huggingface.co, then {TOKEN_HINT}.",
        ) from error
    except RevisionNotFoundError as error:
        raise UnknownNameError(
            f"{what} has no such revision.", hint="name a branch, tag or commit of it, or none."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UnknownNameError(
            f"there is no {what} on the hub, or it is private.",
            hint=f"check the spelling; if it is private, {TOKEN_HINT}.",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # it did answer, and nothing is cached to fall back on
            raise _answered(what, error.__cause__) from error
        raise HubUnreachableError(
            f"{what} is not cached here and the hub cannot be reached{_because(error)}.", hint=_OFFLINE_HINT
        ) from error
    except HfHubHTTPError as error:
        raise _answered(what, error) from error
    except (OSError, _TRANSPORT_ERROR) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"no room to download {what}.", hint="free space, or point HF_HOME elsewhere."
            ) from error
        raise HubUnreachableError(f"cannot fetch {what} ({_first_line(error)}).", hint=_OFFLINE_HINT) from error


def _answered(what: str, error: HfHubHTTPError) -> RaylensError:
    status = error.response.status_code
    if status in (401, 403):
        return InputError(f"the hub refused {what} (HTTP {status}).", hint=f"{TOKEN_HINT}.")
    return HubUnreachableError(f"the hub answered {what} with HTTP {status}.", hint="try again later.")


def _because(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled) or is_offline():
        return " (HF_HUB_OFFLINE is set)"
    return ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
