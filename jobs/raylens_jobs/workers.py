"""The pool that runs a model: how many actors, what each holds, and the stream of rows it is fed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import psutil
import ray
import ray.data

from raylens.config import PoolConfig

READER_CPUS: Final = 0.1
"""What Ray reserves for the reader; encoders reserve that much less, so that all fit on two cores."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many actors there are, and the CPU threads and GPUs (0 or 1) of each."""

    count: int
    threads: int
    gpus: int

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def reserved_cpus(self) -> float:
        """What Ray sets aside for an actor: its threads; beside a GPU, one."""
        return (1 if self.gpus else self.threads) - READER_CPUS


def choose_workers(config: PoolConfig) -> Workers:
    """One worker a GPU, else one a core; what the user asked for is an upper bound."""
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    gpus = gpus if config.num_gpus is None else min(gpus, config.num_gpus)
    if gpus and config.device in ("auto", "cuda"):
        count = min(config.workers or gpus, gpus)
        return Workers(count, config.threads or max(1, min(4, cpus // count)), 1)
    count = min(config.workers or cpus, cpus)
    return Workers(count, min(config.threads or cpus, cpus // count), 0)


def stream(source: ray.data.Datasource) -> ray.data.Dataset:
    """Rows of ``source``, read by one task beside the actors that they go to, each as soon as it is there."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Blocks of one row leave the reader as they are made; by default Ray would gather up to 128 MB.
    context.target_max_block_size = 1
    # By default an actor's error reaches us as "UDF failed", its cause lost in pickling, and its remedy with it.
    context.raise_original_map_exception = True
    return ray.data.read_datasource(source, override_num_blocks=1, num_cpus=READER_CPUS)


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
