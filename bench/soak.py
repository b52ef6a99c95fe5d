"""Whether services stay up, and their memory level, under an hour's worth of a team's load in five minutes.

The load is :data:`bench.team_hour.HOUR`, some 6,500 requests of all kinds, at times drawn evenly over five minutes:
over twenty a second, twelve times what the team sends. It is open-loop as long as the services keep up; where all of
:data:`CLIENTS` wait for an answer, the next request waits as well, and how late requests were is part of the figures.
The services are started as people start them, on pico with its SAEs, with pico as the explainer too; the workspace
holds a cache and explanations, so that there is something to browse. A request that fails, or is not answered with
what it should be, is an error; none is sent twice.

Memory is the proportional set size of the processes that serve: the replicas of the four parts, the proxy and the
controller. Ray's own processes (raylet, GCS, dashboard with its agents, workers in reserve) are recorded beside them.
It is measured once a quarter of an hour's worth was sent: by then allocators keep most of what they will keep. Other
programs with the same libraries share pages with these, so that what starts or ends beside the bench shows in it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil

from bench.growth import watched
from bench.serving import SETTINGS, TOKEN, Texts, services
from bench.team_hour import HOUR, Team
from raylens.store.standing import read_standing
from raylens.store.workspace import Workspace
from raylens_serve.settings import PICO_SAES

SECONDS: Final = 300.0
WARM_UP: Final = 0.25
CLIENTS: Final = 32
STANDING: Final = 100
"""Traces that are not deleted: those of the last half a minute."""
TOKENS, LATENTS, N_FEATURES = 100_000, 200, 2048
SAMPLE_S: Final = 2.0
PARTS: Final = {
    "ServeReplica:raylens:Encoder": "Encoder",
    "ServeReplica:raylens:Gateway": "Gateway",
    "ServeReplica:raylens:Ledger": "Ledger",
    "ServeReplica:raylens:Explainer": "Explainer",
    "ProxyActor": "proxy",
    "ServeController": "controller",
}
"""Who serves, by what is in the titles of their processes."""
RAY: Final = "ray"

Sample = tuple[float, dict[str, int]]
"""When, and bytes by part."""


@dataclass(slots=True)
class Told:
    """What became of the requests.

    Attributes:
        seconds: Of each, by kind.
        late: Seconds after its time that each was sent.
        errors: How many of a kind failed.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Errors, and memory near the end ÷ early on."""
    workspace = folder / "workspace"
    words = ["--sae", PICO_SAES[0], "--n-tokens", str(TOKENS), "--workers", "2", "--num-gpus", "0"]
    watched(workspace, "cache", *words)
    watched(workspace, "explain", "--sae", PICO_SAES[0], "--max-latents", str(LATENTS))
    settings = {**SETTINGS, "explainer": {"model": "raylens/pico", "threads": 1}}
    with services(folder, settings) as url:
        standing = read_standing(Workspace.open(workspace).files)
        assert standing is not None
        assert standing.process is not None
        with memory(standing.process.pid) as samples:
            told, team = asyncio.run(hour(url, scale, samples))
    return figures(told, team, samples)


async def hour(url: str, scale: float, samples: list[Sample]) -> tuple[Told, Team]:
    """Everything once, a quarter of an hour's worth to warm up, and then an hour's, with which samples begin."""
    limits, headers = httpx.Limits(max_connections=CLIENTS), {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits, trust_env=False) as http:
        team = Team(http, Texts(seed=0), STANDING, N_FEATURES)
        for kind in HOUR:
            await team.ask(kind)
        warm_up = await sent(team, WARM_UP * scale)
        team.asked = 0
        samples.clear()
        told = await sent(team, scale)
        told.errors += warm_up.errors
        return told, team


async def sent(team: Team, scale: float) -> Told:
    """Every request at its time, or as soon as a client is free for it."""
    rng, told = np.random.default_rng(0), Told()
    kinds = [kind for kind, n in HOUR.items() for _ in range(max(1, round(n * scale)))]
    times = np.sort(rng.uniform(0, SECONDS * scale, len(kinds)))
    waiting = deque((float(at), kinds[which]) for at, which in zip(times, rng.permutation(len(kinds)), strict=True))
    began = time.perf_counter()

    async def one_client() -> None:
        while waiting:
            at, kind = waiting.popleft()
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            asked = time.perf_counter()
            told.late.append(asked - began - at)
            try:
                await team.ask(kind)
            except Exception as error:
                told.errors[kind] += 1
                print(f"{asked - began:.1f} s: {kind}: {type(error).__name__}: {error}", file=sys.stderr)
            told.seconds.setdefault(kind, []).append(time.perf_counter() - asked)

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    return told


@contextmanager
def memory(pid: int) -> Iterator[list[Sample]]:
    """Samples of the processes below ``pid``, until the block ends."""
    samples: list[Sample] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            samples.append((time.perf_counter(), by_part(pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        ended.set()
        watcher.join()


def by_part(pid: int) -> dict[str, int]:
    """Bytes of the processes below ``pid``, shared pages divided among those who share them."""
    found: Counter[str] = Counter()
    for process in psutil.Process(pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            part = next((name for words, name in PARTS.items() if words in title), RAY)
            found[part] += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between the listing and the look
    return dict(found)


def figures(told: Told, team: Team, samples: list[Sample]) -> dict[str, Any]:
    """The second fifth is after the warm-up; the last one is the end."""
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    seconds = {kind: np.array(some) for kind, some in told.seconds.items()}
    return {
        "soak_memory_ratio": round(serving(late) / serving(early), 4),
        "soak_errors": told.errors.total(),
        "requests": team.asked,
        "requests_by_kind": {kind: len(some) for kind, some in told.seconds.items()},
        "errors_by_kind": dict(told.errors),
        "seconds": round(samples[-1][0] - samples[0][0], 1),
        "late_p50_s": round(float(np.median(told.late)), 3),
        "late_p95_s": round(float(np.quantile(told.late, 0.95)), 3),
        "p50_ms": {kind: round(float(np.median(some)) * 1e3, 1) for kind, some in seconds.items()},
        "p95_ms": {kind: round(float(np.quantile(some, 0.95)) * 1e3, 1) for kind, some in seconds.items()},
        "mb_early": megabytes(early),
        "mb_late": megabytes(late),
    }


def serving(samples: list[Sample]) -> float:
    """The median of what all that serve take together."""
    return float(np.median([sum(n for part, n in parts.items() if part != RAY) for _, parts in samples]))


def megabytes(samples: list[Sample]) -> dict[str, float]:
    """The median of each part."""
    return {
        part: round(float(np.median([parts.get(part, 0) for _, parts in samples])) / 1e6, 1)
        for part in (*PARTS.values(), RAY)
    }
