"""A cache-and-merge run in this process, as the CLI makes one, and what it left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raylens.config import CacheConfig
from raylens.store.manifest import FileEntry, Kind
from raylens.store.merge import MEMORY_ROWS
from raylens.store.runs import RunJournal
from raylens.store.views import connect
from raylens.store.workspace import Workspace

SAE = "raylens-pico-res/layer_3"
OTHER_SAE = "raylens-pico-res/layer_1"

ROWS = (
    "SELECT feature, peak, window_id, position, activation FROM activations "
    "WHERE cache_id = '{cache_id}' AND sae = '{sae}' ORDER BY ALL"
)
"""Every merged activation of one SAE in one cache."""


@dataclass
class Made:
    """What a run left behind."""

    workspace: Workspace
    cache_id: str
    figures: dict[str, Any]

    def rows(self, sae: str = SAE) -> pa.Table:
        """Every merged activation of one SAE."""
        with connect(self.workspace) as connection:
            return connection.sql(ROWS.format(cache_id=self.cache_id, sae=sae)).to_arrow_table()

    def shard_files(self) -> set[str]:
        return {one.path for one in self.workspace.files.scan(f"caches/{self.cache_id}/shards")}

    def entries(self, kind: Kind, sae: str = SAE) -> list[FileEntry]:
        """The merged files of one table of one SAE."""
        manifest = self.workspace.cache(self.cache_id).manifest()
        assert manifest is not None
        return list(manifest.of(kind, sae))

    def path(self, entry: FileEntry) -> Path:
        return Path(self.workspace.files.native(entry.path))


def cache_words(texts: Path, *saes: str) -> list[str]:
    """The words of ``raylens cache`` for what the fixture ``config`` asks; for these SAEs where any are named."""
    options = ["--text", str(texts), "--n-tokens", "1000000", "--shard-windows", "16", "--batch-size", "8"]
    return ["cache", *options, "--workers", "1", *(word for sae in saes or (SAE,) for word in ("--sae", sae))]


def lend_map(made: Made, url: Path | str, cache_id: str | None = None) -> None:
    """Put the map of ``made`` where a merge into a workspace at ``url`` finds it, as if another run had made it.

    It depends on the SAE alone and takes 6 s: most of what a small run takes, and no fault is about it.
    """
    files = Workspace.open(url, create=True).files
    for entry in made.entries("map"):
        moved = entry.model_copy(update={"path": entry.path.replace(made.cache_id, cache_id or made.cache_id)})
        files.commit(moved.path, made.workspace.files.read_bytes(entry.path))
        files.commit(moved.path.removesuffix(".parquet") + ".json", moved.model_dump_json().encode())


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
