"""Which process wrote something, and whether it can still be alive.

A pid alone is not enough: pids are used again (so the start time is kept beside it), and the same
pid means different processes in two containers that share a host name (so the machine is known by
its boot and its pid namespace, not by its name).
"""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
# Fields of /proc/<pid>/stat after the command's closing bracket: state is the 1st, start time the 20th.
_STATE, _START = 0, 19
_DEAD_STATES = frozenset({"Z", "X", "x"})


@dataclass(frozen=True, slots=True)
class Process:
    """One process, for as long as it lives.

    Attributes:
        host: Host name, for people.
        machine: Boot and pid namespace in which ``pid`` means something.
        pid: Process id.
        started: Start time in clock ticks since boot; empty where the system has no ``/proc``.
    """

    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Process:
        pid = os.getpid()
        state = _state(pid)
        return cls(socket.gethostname(), _machine(), pid, state[1] if state else "")

    def is_gone(self) -> bool:
        """True if it certainly ended; False if it lives, or cannot be judged from this machine."""
        if self.machine != _machine():
            return False
        state = _state(self.pid)
        if state is None:  # ended, or no /proc, or one that hides what others run
            return not _answers(self.pid)
        return state[0] in _DEAD_STATES or state[1] != self.started


def _state(pid: int) -> tuple[str, str] | None:
    """(State letter, start time) of a pid; None where ``/proc`` does not show it."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = text.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    return fields[_STATE], fields[_START]


def _answers(pid: int) -> bool:
    """The portable question, which a reused pid answers too; then the heartbeat's age decides."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _machine() -> str:
    parts = [socket.gethostname()]
    boot, namespace = _PROC / "sys/kernel/random/boot_id", _PROC / "self/ns/pid"
    if boot.exists():
        parts.append(boot.read_text().strip())
    if namespace.is_symlink():
        parts.append(str(namespace.readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
