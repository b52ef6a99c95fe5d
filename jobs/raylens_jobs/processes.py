"""Processes of actors: which one this is, and waiting until others have ended."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil
import ray


def this_process() -> str:
    """Where this is running, for :func:`await_exit`: ``<Ray node id>:<process id>``."""
    return f"{ray.get_runtime_context().get_node_id()}:{os.getpid()}"


def await_exit(processes: Iterable[str], timeout_s: float = 10) -> None:
    """Wait until workers on this node have ended, or ``timeout_s`` have passed.

    Ray gives an actor's cores away before its process has ended, so for seconds its model would stand in memory
    beside whatever comes next. Processes of other nodes cannot be seen from here and are not waited for.
    """
    here = f"{ray.get_runtime_context().get_node_id()}:"
    ours = {int(one.removeprefix(here)) for one in processes if one.startswith(here)}
    psutil.wait_procs([process for process in psutil.process_iter() if process.pid in ours], timeout=timeout_s)
