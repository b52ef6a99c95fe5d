"""Starting the two sides of a comparison on the same cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from bench.subjects import Subject

ROOT = Path(__file__).parents[1]


def cores() -> list[int]:
    """The two cores both sides are pinned to."""
    return sorted(os.sched_getaffinity(0))[:2]


def start(arguments: Sequence[str], pin: Sequence[int]) -> subprocess.Popen[str]:
    """A Python process pinned to ``pin``, one thread for every numerical library."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, pin),
    )


def bare(subject: Subject, windows: Path, pin: Sequence[int], processes: int = 1) -> float:
    """Tokens a second of ``processes`` bare loops at once, one thread each, over the same windows."""
    command = ["-m", "bench.bare", subject.model, subject.sae, str(subject.n_tokens), "1", str(windows)]
    running = [start(command, pin) for _ in range(processes)]
    for one in running:
        assert pipe(one.stdout).readline().strip() == "ready"
    for one in running:
        pipe(one.stdin).write("go\n")
        pipe(one.stdin).flush()
    results = [json.loads(one.communicate()[0]) for one in running]
    return sum(r["tokens"] for r in results) / max(r["seconds"] for r in results)


def cache(subject: Subject, workspace: Path, pin: Sequence[int], workers: int = 1, *extra: str) -> dict[str, Any]:
    """The figures of one ``raylens cache``, one thread a worker."""
    options = ["--model", subject.model, "--sae", subject.sae, "--n-tokens", str(subject.n_tokens)]
    options += ["--workers", str(workers), "--threads", "1", "--num-gpus", "0", "--json", *extra]
    process = start(["-m", "raylens", "--workspace", str(workspace), "cache", *options], pin)
    out, _ = process.communicate()
    assert process.returncode == 0, f"raylens cache ended with {process.returncode}"
    return json.loads(out)


def pipe(stream: IO[str] | None) -> IO[str]:
    """The stream, which exists since it was asked for."""
    assert stream is not None
    return stream
