"""Whether memory stays flat as tokens grow, and what an activation costs on disk.

Peak PSS (proportional set size: shared pages are divided among those who share them) summed over the
``raylens`` process and all processes it started, Ray's included, plus what Ray's object store holds.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import psutil

from bench.runs import cores, start
from bench.subjects import pico

SAMPLE_S = 0.2


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """One cache-and-merge at a tenth of the tokens and one at all of them."""
    small, small_run = peak_memory(folder / "small", int(200_000 * scale))
    large, large_run = peak_memory(folder / "large", int(2_000_000 * scale))
    return {
        "memory_ratio": round(large / small, 4),
        "peak_mb_200k": round(small / 1e6),
        "peak_mb_2m": round(large / 1e6),
        "bytes_per_activation": round(large_run["activation_bytes"] / large_run["activations_merged"], 4),
        "activations": large_run["activations_merged"],
        "bytes_per_activation_200k": round(small_run["activation_bytes"] / small_run["activations_merged"], 4),
    }


def peak_memory(workspace: Path, n_tokens: int) -> tuple[int, dict[str, Any]]:
    """Peak bytes of a run of ``n_tokens`` and its figures."""
    subject = pico()
    options = ["--sae", subject.sae, "--n-tokens", str(n_tokens), "--workers", "2", "--num-gpus", "0"]
    figures, peak = watched(workspace, "cache", *options)
    return peak, figures


def watched(workspace: Path, *words: str) -> tuple[dict[str, Any], int]:
    """Figures of one raylens command, and the peak bytes of all its processes."""
    process = start(["-m", "raylens", "--workspace", str(workspace), *words, "--json"], cores())
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_S):
            peak = max(peak, tree_pss(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, _ = process.communicate()
    ended.set()
    watcher.join()
    assert process.returncode == 0, f"raylens {words[0]} ended with {process.returncode}"
    return json.loads(out), peak


def tree_pss(pid: int) -> int:
    """Bytes of PSS of a process and all its descendants; the object store is mapped by Ray's raylet."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between the listing and the look
    return total
