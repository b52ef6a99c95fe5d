"""A lock on a folder of the workspace, on any disk or object store, that outlives its holder's death.

``<folder>/<token>.json`` is a claim; tokens count up, and the highest claim is the holder. A claim
is made by ``commit_if_absent`` of the next token, so of all who try to take a free or abandoned
lock exactly one wins. A claim is abandoned when its process is gone (same machine) or has not
beaten for ``STALE_S`` (any machine, by wall clocks, which a cluster keeps together). A holder that
was only paused finds out by :meth:`Lock.still_mine`, asked right before what must not happen twice.
Tokens never go back: the last claim stays, marked as released.

The pattern is that of fencing tokens (M. Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from raylens.errors import BusyError, RaylensError, StoppedError
from raylens.store.files import Files
from raylens.store.heartbeat import Heartbeat
from raylens.store.process import Process

_log = logging.getLogger(__name__)

STALE_S = 60.0
BEAT_S = 10.0


class Claim(BaseModel):
    """What a claim file holds; times in UTC."""

    model_config = ConfigDict(frozen=True)

    owner: str
    nonce: str
    process: Process
    taken_at: datetime
    heartbeat_at: datetime
    released: bool = False

    def is_free(self, now: datetime, stale_s: float) -> bool:
        """Whether the next one may take over."""
        silent_s = (now - self.heartbeat_at).total_seconds()
        return self.released or silent_s > stale_s or self.process.is_gone()


class Lock:
    """A held lock; a context manager that releases it. Made by :func:`acquire`."""

    def __init__(self, files: Files, folder: str, token: int, claim: Claim, *, what: str, beat_s: float) -> None:
        self._files = files
        self._folder = folder
        self._claim = claim
        self._what = what
        self.token = token
        self._heartbeat = Heartbeat(self.beat, beat_s, f"lock of {what}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except (RaylensError, OSError) as trouble:
            if error is None:
                raise
            # A full disk: the error on its way out says more, and the claim falls free with this process.
            _log.warning("the lock of %s could not be released: %s", self._what, trouble)

    @property
    def owner(self) -> str:
        return self._claim.owner

    def still_mine(self) -> bool:
        """Whether nobody has taken over; one listing and one small read."""
        tokens = _tokens(self._files, self._folder)
        if not tokens or tokens[-1] != self.token:
            return False
        claim = _read(self._files, self._folder, self.token)
        return claim is not None and claim.nonce == self._claim.nonce

    def require(self) -> None:
        """Raise StoppedError unless :meth:`still_mine`."""
        if not self.still_mine():
            raise StoppedError(
                f"{self._what} was taken over by another run while {self.owner} was silent.",
                hint="let that run finish, then run the same command again; it goes on where this one stopped.",
            )

    def beat(self) -> None:
        """Say that the holder lives; done by a background thread every ``BEAT_S``."""
        if self.still_mine():
            self._write(heartbeat_at=datetime.now(UTC))

    def release(self) -> None:
        """Free the lock for the next run; nothing happens if it was taken over."""
        self._heartbeat.stop()
        if self.still_mine():
            self._write(released=True)

    def _write(self, **changes: object) -> None:
        self._claim = self._claim.model_copy(update=changes)
        self._files.commit(_path(self._folder, self.token), self._claim.model_dump_json().encode())


def acquire(
    files: Files, folder: str, owner: str, *, what: str, stale_s: float = STALE_S, beat_s: float = BEAT_S
) -> Lock:
    """Take the lock kept in ``folder``, for run ``owner``.

    Args:
        files: The workspace's files.
        folder: Holds the claims and nothing else.
        owner: Run id, shown to whom it keeps out.
        what: What is locked, for messages.
        stale_s: Silence in seconds after which a holder counts as dead.
        beat_s: Seconds between heartbeats.

    Raises:
        BusyError: A living run holds it.
    """
    while True:  # each further turn means that somebody else got on
        now = datetime.now(UTC)
        tokens = _tokens(files, folder)
        token = tokens[-1] + 1 if tokens else 1
        if tokens:
            held = _read(files, folder, tokens[-1])
            if held is None:
                continue
            if not held.is_free(now, stale_s):
                raise _busy(what, held)
        claim = Claim(
            owner=owner, nonce=secrets.token_hex(8), process=Process.current(), taken_at=now, heartbeat_at=now
        )
        if not _claim(files, _path(folder, token), claim):
            continue
        if _tokens(files, folder)[-1:] != [token]:
            # Ours was made from an old listing: the token had been used and cleaned away meanwhile.
            files.delete(_path(folder, token))
            continue
        for old in tokens:
            files.delete(_path(folder, old))
        return Lock(files, folder, token, claim, what=what, beat_s=beat_s)


def holder(files: Files, folder: str, *, stale_s: float = STALE_S) -> Claim | None:
    """Who holds the lock kept in ``folder``; None where it is free."""
    tokens = _tokens(files, folder)
    claim = _read(files, folder, tokens[-1]) if tokens else None
    return None if claim is None or claim.is_free(datetime.now(UTC), stale_s) else claim


def _claim(files: Files, path: str, claim: Claim) -> bool:
    data = claim.model_dump_json().encode()
    if files.commit_if_absent(path, data):
        return True
    try:
        # An object store may have taken our bytes and lost the answer: a retry then says "taken".
        return files.read_bytes(path) == data
    except FileNotFoundError:
        return False


def _tokens(files: Files, folder: str) -> list[int]:
    names = (path.rpartition("/")[2].removesuffix(".json") for path in files.list(folder))
    return sorted(int(name) for name in names if name.isdecimal())


def _path(folder: str, token: int) -> str:
    return f"{folder}/{token:012d}.json"


def _read(files: Files, folder: str, token: int) -> Claim | None:
    path = _path(folder, token)
    try:
        return Claim.model_validate_json(files.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValidationError:
        # Being written on a disk without hard links, or its writer died right then: only its age is known.
        if not files.exists(path):
            return None
        written = datetime.fromtimestamp(files.stat(path).modified, UTC)
        nobody = Process("unknown", "unknown", 0, "")
        return Claim(owner="unknown", nonce="", process=nobody, taken_at=written, heartbeat_at=written)


def _busy(what: str, held: Claim) -> BusyError:
    process = held.process
    return BusyError(
        f"{what} is being written by run {held.owner} "
        f"(host {process.host}, pid {process.pid}, since {held.taken_at:%Y-%m-%d %H:%M:%S} UTC).",
        hint=f"wait until it ends, or end it with raylens stop {held.owner}.",
    )
