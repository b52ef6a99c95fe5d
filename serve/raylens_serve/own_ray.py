"""A Ray of one's own that takes jobs: one node, on this machine, on ports that are free.

``ray.init`` starts one as well, but always has the dashboard's agent listen at the same port: where that is taken, by
any other Ray of the machine, jobs cannot be submitted. ``ray start`` takes a port for it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

from raylens.errors import RunError

_STARTED: Final = "Ray runtime started"
_GRACE_S: Final = 15.0
_DEATH_SIGNAL: Final = 1
"""``PR_SET_PDEATHSIG`` of Linux."""
_HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class OwnRay:
    """One that is up.

    Attributes:
        address: For ``ray.init`` and ``--address``.
        dashboard: URL; jobs are submitted there.
        pid: Of ``ray start``, whose children are all of it.
    """

    address: str
    dashboard: str
    pid: int


@contextmanager
def own_ray(cpus: int, object_store_bytes: int, environment: Mapping[str, str] | None = None) -> Iterator[OwnRay]:
    """Start a Ray that ends with the block, or on Linux with this process however that ends.

    Args:
        cpus: It has.
        object_store_bytes: Of shared memory.
        environment: Of its processes, and so of jobs; by default this process's. It says whether a token is wanted.

    Raises:
        RunError: It did not start.
    """
    port, dashboard, agent = _free_ports(3)
    # A short path: that of a socket in it may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="raylens-ray-"))
    options = {
        "node-ip-address": _HOST,
        "port": port,
        "dashboard-host": _HOST,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "temp-dir": folder,
        "num-cpus": cpus,
        "object-store-memory": object_store_bytes,
        "include-dashboard": "true",
    }
    words = ["start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        env=dict(os.environ if environment is None else environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=(lambda: libc.prctl(_DEATH_SIGNAL, signal.SIGTERM)) if libc is not None else None,
        # Ctrl-C at a terminal is for this process, which ends Ray when its own work is done.
        process_group=0,
    )
    try:
        assert process.stdout is not None
        _await_start(process.stdout)
        threading.Thread(target=_drain, args=(process.stdout,), name="ray start", daemon=True).start()
        yield OwnRay(f"{_HOST}:{port}", f"http://{_HOST}:{dashboard}", process.pid)
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _await_start(output: IO[str]) -> None:
    said: list[str] = []
    for line in output:
        if _STARTED in line:
            return
        said.append(line.strip())
    why = next((line for line in reversed(said) if line), "it said nothing")
    raise RunError(f"Ray did not start: {why[-500:]}", hint="ray start --head --block shows more.")


def _drain(output: IO[str]) -> None:
    """What is not read would stop who writes it."""
    for _ in output:
        pass


def _end(process: subprocess.Popen[str]) -> None:
    everybody = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        # Longer where a job is still at work: Ray waits for half a minute for it, in vain.
        process.wait(_GRACE_S)
    process.kill()
    process.wait()
    for one in everybody:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(everybody, timeout=_GRACE_S)


def _free_ports(n: int) -> list[int]:
    held = [socket.create_server((_HOST, 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
