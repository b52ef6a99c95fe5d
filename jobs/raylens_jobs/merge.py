"""``raylens merge``: shards → range files, statistics, tables from weights → one new generation.

Ray fans out three kinds of task: batches of feature ranges, files of windows, and per SAE the tables
that come from its weights (logits, neighbours, map) and from a sample of its shards (co-firing).
Nothing is visible until the last step switches the cache's pointer; whatever a killed merge has
finished is found again by its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from raylens.errors import RunError, StoppedError
from raylens.ids import SaeId
from raylens.store.compact import merge_documents, n_window_files
from raylens.store.lock import Lock
from raylens.store.manifest import FileEntry, Manifest
from raylens.store.merge import SaeMerge, merge_statistics, plan_merge, published
from raylens.store.publish import finish_merge
from raylens.store.runs import RunJournal
from raylens.store.shards import ShardRow, completed
from raylens.store.windows import WindowsShard, windows_shards
from raylens.store.workspace import CacheStore, Workspace
from raylens_jobs import merge_tasks
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.failures import ray_failures
from raylens_jobs.weight_tables import weight_tables

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
    entries: list[FileEntry] = []
    seen = {plan.sae: published(cache, plan) for plan, _ in plans}
    where = workspace.url, cache.cache_id
    # Longest first, so that no core waits for the last: those of weights begin with importing torch, and a map takes
    # the longer the wider its SAE is.
    widest = sorted(plans, key=lambda one: -one[0].d_sae)
    jobs = [weight_tables.remote(*where, plan.sae, info["model"], info["revision"], made) for plan, made in widest]
    jobs += [merge_tasks.cofiring_table.remote(*where, plan) for plan, _ in plans]
    for plan, _ in plans:
        if found := seen[plan.sae]:
            entries += found
        else:
            jobs += [merge_tasks.ranges.remote(*where, plan, batch, memory_rows) for batch in plan.batches()]
    jobs += [merge_tasks.windows.remote(*where, windows, k) for k in range(n_window_files(windows))]
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
