"""A Ray that takes jobs, in processes of its own: the tests' other Ray has no dashboard, and stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from raylens_serve.own_ray import OwnRay, own_ray

STORE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class JobRay:
    """A cluster of one node with two CPUs.

    Attributes:
        own: Where it is.
        process: All of it are its children.
    """

    own: OwnRay
    process: psutil.Process

    def driver(self, run_id: str) -> psutil.Process | None:
        """The process of a submitted command, where it is at work."""
        for one in self.process.children(recursive=True):
            with suppress(psutil.Error):
                words = one.cmdline()
                if f"--run-id={run_id}" in words and words[1:3] == ["-m", "raylens"]:
                    return one
        return None


@contextmanager
def job_ray(**variables: str | None) -> Iterator[JobRay]:
    """Start one; ``variables`` are of its environment, which jobs get: without those that are None."""
    environment = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    with own_ray(2, STORE_BYTES, environment) as own:
        process = psutil.Process(own.pid)
        try:
            yield JobRay(own, process)
        finally:
            # At once: Ray would wait half a minute for a driver that is still connected.
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
