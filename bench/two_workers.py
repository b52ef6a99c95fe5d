"""What a second worker brings, measured against what a second bare process brings."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median
from typing import Any

from bench.runs import bare, cache, cores
from bench.subjects import pico

ROUNDS = 3


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """(two workers ÷ one worker) ÷ (two bare processes ÷ one), a thread each, on two cores.

    One worker on two cores sorts, compresses and writes on the second one, which two workers do not have. So it is
    measured on one core as well, as a worker more means a core more on a cluster.
    """
    subject, pin, rounds = pico(scale / 2), cores(), []
    for _ in range(ROUNDS):
        speeds = {}
        for name, workers, own in (("1", 1, pin), ("1_on_a_core", 1, pin[:1]), ("2", 2, pin)):
            workspace = folder / name
            shutil.rmtree(workspace, ignore_errors=True)
            run = cache(subject, workspace, own, workers, "--no-merge")
            speeds[f"cache_{name}"] = run["tokens"] / run["busy_seconds"]
        for processes in (1, 2):
            speeds[f"bare_{processes}"] = bare(subject, folder / "1", pin, processes=processes)
        rounds.append(speeds)
    return {
        "two_workers_speedup": _speedup(rounds, "cache_1"),
        "two_workers_core_each": _speedup(rounds, "cache_1_on_a_core"),
        "two_workers_throughput": round(median(r["cache_2"] / r["bare_2"] for r in rounds), 4),
        "rounds": [{key: round(value) for key, value in r.items()} for r in rounds],
    }


def _speedup(rounds: list[dict[str, float]], one: str) -> float:
    return round(median(r["cache_2"] / r[one] / (r["bare_2"] / r["bare_1"]) for r in rounds), 4)
