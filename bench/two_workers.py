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
    """(two workers ÷ one worker) ÷ (two bare processes ÷ one), a thread each, on two cores."""
    subject, pin, ratios, rounds = pico(scale / 2), cores(), [], []
    for _ in range(ROUNDS):
        speeds = {}
        for workers in (1, 2):
            workspace = folder / f"{workers}"
            shutil.rmtree(workspace, ignore_errors=True)
            run = cache(subject, workspace, pin, workers, "--no-merge")
            speeds[f"cache_{workers}"] = run["tokens"] / run["busy_seconds"]
            speeds[f"bare_{workers}"] = bare(subject, workspace, pin, processes=workers)
        rounds.append({key: round(value) for key, value in speeds.items()})
        ratios.append(speeds["cache_2"] / speeds["cache_1"] / (speeds["bare_2"] / speeds["bare_1"]))
    return {"two_workers_speedup": round(median(ratios), 4), "ratios": [round(r, 4) for r in ratios], "rounds": rounds}
