"""A latent cache in one call, for programs: what ``raylens cache`` does, without a terminal."""

from __future__ import annotations

from raylens.config import CacheConfig
from raylens.store.merge import MEMORY_ROWS
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.cache import plan_cache, run_cache
from raylens_jobs.cluster import cluster
from raylens_jobs.merge import run_merge


def cache_latents(config: CacheConfig, workspace: Workspace) -> CacheReader:
    """Encode text into activations, merge them, and open what came of it; what is there already is not made again.

    The run appears in ``raylens runs``, and another process may stop it. Ray is started and stopped unless
    this process has one.

    Args:
        config: Model, SAEs, text and sizes.
        workspace: Where to.

    Raises:
        InputError: Model, SAE or text do not exist or do not fit one another.
        BusyError: Another run writes this cache.
        StoppedError: The run was asked to stop; a later call goes on from there.
    """
    plan = plan_cache(config, workspace.url)
    cache = workspace.cache(plan.cache_id)
    settings = config.model_dump(mode="json")
    with (
        cluster(config.address),
        RunJournal.start(workspace.files, "cache", settings, cache_id=plan.cache_id) as journal,
    ):
        figures = run_cache(plan, workspace, journal, lambda _: None)
        figures |= run_merge(
            workspace, cache, journal, lambda *_: None, address=config.address, memory_rows=MEMORY_ROWS
        )
        journal.finish(figures)
    return CacheReader(workspace, plan.cache_id)
