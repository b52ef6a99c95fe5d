"""What it would take to make organisms, or to score fine-tunes that are there: said before any work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import torch

from raylens.engine.insert_scan import MOST_PIECES
from raylens.organisms.recipe import Organism
from raylens.organisms.training import multiplies_in_16_bits
from raylens_jobs.audit_plan import AuditPlan
from raylens_jobs.workers import Workers

_SCANNED: Final = 15
"""Tokens read for an insert: itself, and what follows it."""
_GROWN: Final = 1500
"""N-grams of a place."""
_MEASURED_SECONDS: Final = 0.3


def estimate(plan: AuditPlan, organisms: Sequence[Organism], workers: Workers) -> dict[str, Any]:
    """What a build would take: floating-point operations by counting, seconds by a matrix product measured here.

    Six operations a parameter and token for training, two for reading. An organism is made by one worker.
    """
    trained = sum(one.steps * one.batch_size * one.max_tokens for one in organisms)
    read = _read(plan, len(organisms)) + len(organisms) * 64 * 4 * 60
    busy = min(workers.count, len(organisms))
    return {"organisms": len(organisms), **_taken(_parameters(plan) * (6.0 * trained + 2.0 * read), busy, workers)}


def estimate_scoring(plan: AuditPlan, candidates: int, workers: Workers) -> dict[str, Any]:
    """What it would take to score fine-tunes that are there: as :func:`estimate`, without training.

    All workers share the pieces of one fine-tune. What an earlier run has kept is counted once more.
    """
    operations = _parameters(plan) * 2.0 * _read(plan, candidates)
    return {"candidates": candidates, **_taken(operations, workers.count, workers)}


def _parameters(plan: AuditPlan) -> int:
    reference = plan.reference
    return 12 * reference.n_layers * reference.d_model**2 + reference.vocab_size * reference.d_model


def _read(plan: AuditPlan, candidates: int) -> int:
    """Tokens that detectors have candidates read, and the reference once."""
    inserts = min(plan.reference.vocab_size, MOST_PIECES) + _GROWN
    of_one = inserts * _SCANNED * len(plan.task.places) + len(plan.task.forms) * 200 + sum(map(len, plan.task.panel))
    return (candidates + 1) * of_one if candidates else 0


def _taken(operations: float, busy: int, workers: Workers) -> dict[str, Any]:
    speed = _speed(workers) if operations else 1.0
    basis = f"{speed / 1e9:.0f} GFLOP/s a worker, a third of what a large matrix product reaches here"
    return {
        "operations": operations,
        "seconds": operations / speed / max(1, busy),
        "workers": workers.count,
        "threads": workers.threads,
        "device": workers.device,
        "basis": basis if operations else "there is nothing to do",
    }


def _speed(workers: Workers) -> float:
    """Floating-point operations a second of one worker.

    Small models and short texts reach a third of what a large product does, in the numbers that training uses.
    """
    device, size, threads = torch.device(workers.device), 1024, torch.get_num_threads()
    torch.set_num_threads(workers.threads)
    try:
        a = torch.randn(size, size, device=device)
        a = a.bfloat16() if multiplies_in_16_bits(device) else a
        runs, began = 0, time.perf_counter()
        while (seconds := time.perf_counter() - began) < _MEASURED_SECONDS:
            (a @ a)[0, 0].item()
            runs += 1
    finally:
        torch.set_num_threads(threads)
    return runs * 2 * size**3 / seconds / 3
