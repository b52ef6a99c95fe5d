"""A cache-and-merge run in this process, as the CLI makes one, and what it left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raylens.config import CacheConfig
from raylens.store.merge import MEMORY_ROWS
from raylens.store.runs import RunJournal
from raylens.store.views import connect
from raylens.store.workspace import Workspace

SAE = "raylens-pico-res/layer_3"
OTHER_SAE = "raylens-pico-res/layer_1"


@dataclass
class Made:
    """What a run left behind."""

    workspace: Workspace
    cache_id: str
    figures: dict[str, Any]

    def rows(self, sae: str = SAE) -> pa.Table:
        """Every merged activation of one SAE."""
        with connect(self.workspace) as connection:
            query = "SELECT feature, peak, window_id, position, activation FROM activations WHERE sae = ? ORDER BY ALL"
            return connection.sql(query, params=[sae]).to_arrow_table()

    def shard_files(self) -> set[str]:
        return {one.path for one in self.workspace.files.scan(f"caches/{self.cache_id}/shards")}


def make(folder: Path, config: CacheConfig, report: Callable[[Any], None] = lambda _: None) -> Made:
    """Cache and merge ``config`` into a workspace at ``folder``."""
    from raylens_jobs.cache import plan_cache, run_cache
    from raylens_jobs.merge import run_merge

    workspace = Workspace.open(folder, create=True)
    plan = plan_cache(config)
    with RunJournal.start(workspace.files, "cache", config.model_dump(mode="json"), cache_id=plan.cache_id) as journal:
        figures = run_cache(plan, workspace, journal, report)
        cache = workspace.cache(plan.cache_id)
        figures |= run_merge(workspace, cache, journal, lambda *_: None, address=None, memory_rows=MEMORY_ROWS)
        journal.finish(figures)
    return Made(workspace, plan.cache_id, figures)
