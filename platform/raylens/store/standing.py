"""Which services of a workspace are up, and where: ``services/up.json`` in the workspace."""

from __future__ import annotations

import os
import signal
import socket
import time
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from raylens.errors import BusyError, RunError, UnknownNameError
from raylens.store.files import Files
from raylens.store.process import Process

PATH: Final = "services/up.json"
_POLL_S: Final = 0.1
_CONNECT_S: Final = 2.0


class Standing(BaseModel):
    """Services that are up.

    Attributes:
        url: Where they answer.
        process: That holds them up; None where a cluster does.
        address: Of the Ray they run on.
        started_at: UTC.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    process: Process | None
    address: str
    started_at: datetime

    def is_gone(self) -> bool:
        """Whether they have certainly ended."""
        return self.process is not None and self.process.is_gone()


def read_standing(files: Files) -> Standing | None:
    """What is up, as far as anybody can tell from here; None where nothing is."""
    try:
        found = Standing.model_validate_json(files.read_bytes(PATH))
    except (FileNotFoundError, ValidationError):
        return None
    return None if found.is_gone() or _is_left_over(found) else found


def _is_left_over(found: Standing) -> bool:
    """Whether this host, or this container, was started again since: no process can be judged, and nobody listens.

    Should they be up all the same, the lock of the Ledger keeps a second one from writing.
    """
    process, url = found.process, urlsplit(found.url)
    if process is None or process.host != socket.gethostname() or process.machine == Process.current().machine:
        return False
    try:
        socket.create_connection((str(url.hostname), url.port or 80), timeout=_CONNECT_S).close()
    except OSError:
        return True
    return False


def require_none(files: Files) -> None:
    """Refuse to start a second time.

    Raises:
        BusyError: Services of this workspace are up.
    """
    found = read_standing(files)
    if found is not None:
        raise BusyError(
            f"services of {files.url} are up at {found.url}.", hint="use those, or end them with raylens serve down."
        )


def write_standing(files: Files, standing: Standing) -> None:
    """Note what is up."""
    files.commit(PATH, standing.model_dump_json(indent=1).encode())


def forget(files: Files) -> None:
    """Nothing is up any more."""
    files.delete(PATH)


def end(files: Files, timeout_s: float) -> Standing:
    """End the services of a workspace, as by Ctrl-C: they finish what they accepted.

    Raises:
        UnknownNameError: None are up.
        RunError: They run on another machine, or did not end in time.
    """
    found = read_standing(files)
    if found is None:
        raise UnknownNameError(f"no services of {files.url} are up.", hint="raylens serve up starts them.")
    if found.process is None or found.process.machine != Process.current().machine:
        host = found.process.host if found.process else found.address
        raise RunError(f"the services at {found.url} run on {host}.", hint="end them there, or with serve shutdown.")
    os.kill(found.process.pid, signal.SIGTERM)
    until = time.monotonic() + timeout_s
    while not found.is_gone():
        if time.monotonic() > until:
            raise RunError(
                f"process {found.process.pid} did not end within {timeout_s:g} s.", hint=f"kill {found.process.pid}."
            )
        time.sleep(_POLL_S)
    return found
