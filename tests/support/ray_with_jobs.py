"""A Ray that takes jobs over HTTP, as a cluster's head does, in a process of its own and with a token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from live_services import free_port

TOKEN = "a-token-that-only-this-ray-knows-0123456789"
_MARK = "RAYLENS_TEST_RAY"
_RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True)
class RayWithJobs:
    """One that is up.

    Attributes:
        address: Of its dashboard, which takes jobs.
        environment: In which ``ray`` and ``raylens`` find its token.
    """

    address: str
    environment: dict[str, str] = field(repr=False)

    def submit(self, *entrypoint: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """``ray job submit``, until the job has ended."""
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "job",
                "submit",
                "--address",
                self.address,
                "--",
                *entrypoint,
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@contextmanager
def ray_with_jobs(**variables: str) -> Iterator[RayWithJobs]:
    """Start it, and end it with the block; other Rays of this machine are left alone, and their ports.

    Args:
        variables: Of its environment, which jobs have as well.
    """
    ports = {name: free_port() for name in ("port", "dashboard-port", "dashboard-agent-listen-port")}
    mark = str(ports["port"])
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        _MARK: mark,
        **variables,
    }
    environment.pop("RAY_ADDRESS", None)
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += ["--num-cpus=2", "--object-store-memory=200000000", "--include-dashboard=true"]
    # A short path: that of a socket in it may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    found = RayWithJobs(f"http://127.0.0.1:{ports['dashboard-port']}", environment)
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [*_RAY, "start", "--head", "--block", f"--temp-dir={folder}", *options],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 180
        while found.submit("true", timeout_s=120).returncode != 0:
            assert head.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < until, "it takes no jobs"
            time.sleep(1)
        yield found
    finally:
        _end(mark)
        head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _end(mark: str) -> None:
    ours = [one for one in psutil.process_iter() if _marked(one, mark)]
    for one in ours:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(ours, timeout=30)


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(_MARK) == mark
    except psutil.Error:
        return False
