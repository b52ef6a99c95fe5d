"""How much of the bare encoder's speed a whole cache run keeps.

Both sides are pinned to the same two cores with one encoder thread; the second core is there for
both, and only the cache has a use for it (tokenising, sorting, compressing, writing). The cache's
time runs from the first encoder ready to the last shard durable. Sides alternate; medians count.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median
from typing import Any

from bench.runs import bare, cache, cores
from bench.subjects import Subject, pico, wide

ROUNDS = 3


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Ratios for both subjects, with every round's figures and the merge's time beside them."""
    figures: dict[str, Any] = {}
    for subject in (pico(scale), wide(folder, scale)):
        figures |= {f"cache_{subject.name}_{key}": value for key, value in compare(subject, folder).items()}
    return figures


def compare(subject: Subject, folder: Path) -> dict[str, Any]:
    """Alternate a cache run and a bare run ``ROUNDS`` times."""
    pin, ratios, rounds = cores(), [], []
    for _ in range(ROUNDS):
        workspace = folder / f"{subject.name}-workspace"
        shutil.rmtree(workspace, ignore_errors=True)
        run = cache(subject, workspace, pin)
        ours = run["tokens"] / run["busy_seconds"]
        floor = bare(subject, workspace, pin)
        ratios.append(ours / floor)
        print(f"{subject.name}: {ours:,.0f} tokens/s, bare {floor:,.0f}: {ratios[-1]:.3f}", flush=True)
        rounds.append(
            {
                "cache_tokens_per_s": round(ours),
                "bare_tokens_per_s": round(floor),
                "busy_s": run["busy_seconds"],
                "encode_s": run["encode_seconds"],
                "write_s": run["write_seconds"],
                "merge_s": run["merge_seconds"],
                "whole_s": run["seconds"],
            }
        )
    return {"ratio": round(median(ratios), 4), "ratios": [round(r, 4) for r in ratios], "rounds": rounds}
