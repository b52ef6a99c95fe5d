"""``raylens merge``: shards → range files, statistics, tables from weights → one new generation.

Ray fans out three kinds of task: batches of feature ranges, files of windows, and per SAE the tables
that come from its weights (logits, neighbours, map) and from a sample of its shards (co-firing).
Nothing is visible until the last step switches the cache's pointer; whatever a killed merge has
finished is found again by its name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache as cache_result
from typing import Any

import pyarrow as pa
import ray
import torch

from raylens.engine.load import load_model
from raylens.engine.saes import LoadedSae
from raylens.engine.weights import decoder_map, decoder_neighbours, feature_logits
from raylens.errors import RunError, StoppedError
from raylens.ids import SaeId
from raylens.store.cofiring import cofiring
from raylens.store.compact import merge_documents, merge_windows, n_window_files
from raylens.store.lock import Lock
from raylens.store.manifest import FileEntry, Kind, Manifest
from raylens.store.merge import SaeMerge, merge_ranges, merge_statistics, plan_merge, published
from raylens.store.publish import feature_table, finish_merge, write_feature_table
from raylens.store.runs import RunJournal
from raylens.store.shards import ShardRow, completed
from raylens.store.windows import WindowsShard, windows_shards
from raylens.store.workspace import CacheStore, Workspace
from raylens_jobs.choice import SaeChoice
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.failures import ray_failures

TASK_CPUS = 0.5
"""Merge tasks are half reading: two a core keep it busy."""

Report = Callable[[int, int], None]
"""Called with (tasks done, tasks in all)."""


def run_merge(
    workspace: Workspace,
    cache: CacheStore,
    journal: RunJournal,
    report: Report,
    *,
    address: str | None,
    memory_rows: int,
) -> dict[str, Any]:
    """Merge all SAEs of a cache whose shards changed, and publish; returns the run's figures.

    Raises:
        RunError: The cache has no finished SAE, or a shard is missing.
        DamagedFileError: A shard is truncated or fails a checksum.
        BusyError: Another run writes this cache.
    """
    began = time.monotonic()
    with cache.lock(journal.run_id) as lock, cluster(address):
        probe_shared(workspace)
        manifest = merge_cache(workspace, cache, lock, journal, report, memory_rows=memory_rows)
    return {
        "generation": manifest.generation,
        "merge_seconds": round(time.monotonic() - began, 3),
        "activations_merged": sum(int(t["n_activations"]) for t in manifest.sae_totals.values()),
        "activation_bytes": sum(entry.bytes for entry in manifest.of("activations")),
        "bytes": sum(entry.bytes for entry in manifest.entries),
    }


def merge_cache(
    workspace: Workspace, cache: CacheStore, lock: Lock, journal: RunJournal, report: Report, *, memory_rows: int
) -> Manifest:
    """The merge proper, inside a lock and a Ray cluster."""
    plans = merge_plans(cache)
    if not plans:
        raise RunError(f"cache {cache.cache_id} has no finished SAE.", hint="run raylens cache first.")
    windows = _windows_needed(cache, plans)
    info = cache.info()
    # Largest first: a range task is seconds, the last to start should be short.
    jobs: list[ray.ObjectRef[list[FileEntry]]] = []
    entries: list[FileEntry] = []
    seen = {plan.sae: published(cache, plan) for plan, _ in plans}
    for plan, settings in plans:
        if found := seen[plan.sae]:
            entries += found
        else:
            jobs += [
                _ranges.remote(workspace.url, cache.cache_id, plan, batch, memory_rows) for batch in plan.batches()
            ]
        jobs.append(_cofiring.remote(workspace.url, cache.cache_id, plan))
        jobs.append(
            _from_weights.remote(workspace.url, cache.cache_id, plan.sae, info["model"], info["revision"], settings)
        )
    jobs += [_windows.remote(workspace.url, cache.cache_id, windows, k) for k in range(n_window_files(windows))]
    for done in _collect(jobs, journal, report):
        entries += done
    entries.append(merge_documents(cache, windows))
    entries += [merge_statistics(cache, plan) for plan, _ in plans if not seen[plan.sae]]
    return finish_merge(cache, lock, windows=windows, merges=[plan for plan, _ in plans], entries=entries)


def merge_plans(cache: CacheStore) -> list[tuple[SaeMerge, dict[str, Any]]]:
    """What to merge, by SAE, with what the cache run noted of each.

    Raises:
        RunError: A shard that the cache run reported done is missing.
    """
    plans: list[tuple[SaeMerge, dict[str, Any]]] = []
    for sae, info in cache.saes().items():
        if names := info.get("shards"):
            plans.append((plan_merge(sae, _shard_rows(cache, sae, names)), info))
    return plans


def _shard_rows(cache: CacheStore, sae: SaeId, names: Sequence[str]) -> list[ShardRow]:
    done = completed(cache, sae)
    if missing := [name for name in names if name not in done]:
        raise RunError(
            f"{len(missing)} shards of {sae} are missing or truncated, the first being {missing[0]}.",
            hint="run the same raylens cache command again: it makes only what is missing.",
        )
    return [done[name] for name in names]


def _windows_needed(cache: CacheStore, plans: Sequence[tuple[SaeMerge, dict[str, Any]]]) -> list[WindowsShard]:
    """All blocks of windows, which must reach as far as every SAE does."""
    windows = windows_shards(cache)
    have, need = (windows[-1].window_last + 1 if windows else 0), max(plan.n_windows for plan, _ in plans)
    if have < need:
        raise RunError(
            f"windows {have} to {need - 1} of cache {cache.cache_id} are missing or truncated.",
            hint="run the same raylens cache command again: it makes only what is missing.",
        )
    return windows


def _collect(jobs: list[Any], journal: RunJournal, report: Report) -> Iterator[list[FileEntry]]:
    waiting, total = list(jobs), len(jobs)
    with ray_failures("merging"):
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=1.0)
            for one in ready:
                yield ray.get(one)
            report(total - len(waiting), total)
            journal.progress(merge_tasks=total - len(waiting), merge_tasks_total=total)
            if journal.stop_requested():
                raise StoppedError(
                    f"run {journal.run_id} was stopped while merging; readers see what they saw before.",
                    hint="run the same command again to go on from there.",
                )


@ray.remote(num_cpus=TASK_CPUS)
def _ranges(url: str, cache_id: str, plan: SaeMerge, ranges: list[int], memory_rows: int) -> list[FileEntry]:
    return merge_ranges(Workspace.open(url).cache(cache_id), plan, ranges, memory_rows=memory_rows)


@ray.remote(num_cpus=TASK_CPUS)
def _windows(url: str, cache_id: str, windows: list[WindowsShard], index: int) -> list[FileEntry]:
    return [merge_windows(Workspace.open(url).cache(cache_id), windows, index)]


@ray.remote(num_cpus=TASK_CPUS)
def _cofiring(url: str, cache_id: str, plan: SaeMerge) -> list[FileEntry]:
    cache = Workspace.open(url).cache(cache_id)
    made_from = {"shards": plan.folder}
    if entry := feature_table(cache, plan.id, "cofiring", made_from):
        return [entry]
    table = cofiring(cache, plan.id, plan.shards)
    return [write_feature_table(cache, plan.id, "cofiring", table, made_from)]


@ray.remote(num_cpus=TASK_CPUS)
def _from_weights(
    url: str, cache_id: str, sae: str, model: str, revision: str, settings: dict[str, Any]
) -> list[FileEntry]:
    """Tables that depend on weights alone; on the CPU, since they are made once an SAE."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    cache, sae_id = Workspace.open(url).cache(cache_id), SaeId.parse(sae)
    made_from = {"fingerprint": settings["spec"]["fingerprint"], "revision": revision}

    @cache_result
    def sae_of() -> LoadedSae:
        return SaeChoice(**settings["choice"]).load("cpu")

    makers: dict[Kind, Callable[[], pa.Table]] = {
        "logits": lambda: feature_logits(load_model(model, device="cpu"), sae_of()),
        "neighbours": lambda: decoder_neighbours(sae_of()),
        "map": lambda: decoder_map(sae_of()),
    }
    return [
        feature_table(cache, sae_id, kind, made_from) or write_feature_table(cache, sae_id, kind, make(), made_from)
        for kind, make in makers.items()
    ]
