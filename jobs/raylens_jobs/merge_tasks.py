"""The merge's tasks that read the store alone.

Apart from the rest, because a Ray worker imports the module of its task: without torch it starts in a
second rather than four, and takes a third of the memory.
"""

from __future__ import annotations

from typing import Final

import ray

from raylens.store.cofiring import cofiring
from raylens.store.compact import merge_windows
from raylens.store.manifest import FileEntry
from raylens.store.merge import SaeMerge, merge_ranges
from raylens.store.publish import feature_table, write_feature_table
from raylens.store.windows import WindowsShard
from raylens.store.workspace import Workspace

TASK_CPUS: Final = 0.5
"""Merge tasks are half reading: two a core keep it busy."""


@ray.remote(num_cpus=TASK_CPUS)
def ranges(url: str, cache_id: str, plan: SaeMerge, indices: list[int], memory_rows: int) -> list[FileEntry]:
    """Range files of one SAE."""
    return merge_ranges(Workspace.open(url).cache(cache_id), plan, indices, memory_rows=memory_rows)


@ray.remote(num_cpus=TASK_CPUS)
def windows(url: str, cache_id: str, shards: list[WindowsShard], index: int) -> list[FileEntry]:
    """One file of windows."""
    return [merge_windows(Workspace.open(url).cache(cache_id), shards, index)]


@ray.remote(num_cpus=TASK_CPUS)
def cofiring_table(url: str, cache_id: str, plan: SaeMerge) -> list[FileEntry]:
    """Features that fire together, of one SAE."""
    cache = Workspace.open(url).cache(cache_id)
    made_from = {"shards": plan.folder}
    if entry := feature_table(cache, plan.id, "cofiring", made_from):
        return [entry]
    table = cofiring(cache, plan.id, plan.shards)
    return [write_feature_table(cache, plan.id, "cofiring", table, made_from)]
