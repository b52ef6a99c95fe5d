"""The pool that runs a model: how many actors there are, and what each holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import ray

from raylens.config import PoolConfig
from raylens_jobs.cluster import available_cpus

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
    return _shared_out(config, int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1))))


def workers_here(config: PoolConfig) -> Workers:
    """What :func:`choose_workers` chooses on a Ray of this machine alone, before any runs."""
    import torch

    return _shared_out(config, torch.cuda.device_count(), available_cpus())


def _shared_out(config: PoolConfig, gpus: int, cpus: int) -> Workers:
    gpus = gpus if config.num_gpus is None else min(gpus, config.num_gpus)
    if gpus and config.device in ("auto", "cuda"):
        count = min(config.workers or gpus, gpus)
        return Workers(count, config.threads or max(1, min(4, cpus // count)), 1)
    count = min(config.workers or cpus, cpus)
    return Workers(count, min(config.threads or cpus, cpus // count), 0)
