"""The one Ray that all tests share, and what it takes to trust it after somebody else used it."""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack

import psutil

CPUS = 2


class SharedRay:
    """A real local Ray with two CPUs, started when it is first asked for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._runs = False

    def start(self) -> None:
        import ray

        from raylens_jobs.cluster import cluster

        if not self._runs:
            self._stack.enter_context(cluster(None, num_cpus=CPUS))
            assert ray.is_initialized()
            self._runs = True

    def stop(self) -> None:
        self._stack.close()
        self._runs = False

    def recover(self, after: str, within_s: float = 30) -> None:
        """Start it anew if ``after`` left something that holds a core, and warn of what that is.

        Whoever needs all cores would otherwise wait for ever, in a test that has nothing to do with it.
        """
        if not self._runs or _cores_are_back(within_s):
            return
        held = ", ".join(sorted(process.name() for process in _workers())) or "no process"
        busy = ", ".join(f"{process.name()} ({percent:.0f} %)" for process, percent in _busiest())
        warnings.warn(f"after {after}, Ray's cores were still held by: {held}; busiest: {busy}", stacklevel=1)
        self.stop()
        self.start()


SHARED = SharedRay()


def _cores_are_back(within_s: float) -> bool:
    import ray

    until = time.monotonic() + within_s
    while ray.available_resources().get("CPU") != CPUS:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _workers() -> list[psutil.Process]:
    """Tasks and actors of this process's Ray; those that wait for work are ``ray::IDLE``."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if one.name().startswith("ray::") and one.name() != "ray::IDLE"]


def _busiest() -> list[tuple[psutil.Process, float]]:
    everybody = list(psutil.process_iter())
    for process in everybody:
        process.cpu_percent()
    time.sleep(0.5)
    return sorted(((one, one.cpu_percent()) for one in everybody if one.is_running()), key=lambda it: -it[1])[:3]
