"""Before FAISS negatives are drawn: every piece of the cache embedded, and one index over all of them.

Both are made once for a corpus, an embedding model and a length of pieces. What a killed or stopped run has
committed is found again, and a cache that grew embeds what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import ray

from raylens.config import ExplainConfig, ScoreConfig
from raylens.errors import InputError, StoppedError
from raylens.store import piece_index as stored
from raylens.store.example_reader import require_examples
from raylens.store.piece_vectors import PieceRow, WindowRange, window_ranges
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.failures import ray_failures
from raylens_jobs.piece_tasks import Corpus, Embedding, embedders, index_pieces

Report = Callable[[int, int], None]
"""Called with (ranges of windows embedded, ranges in all)."""

_INDEX_THREADS: Final = 8


def ensure_index(
    config: ExplainConfig | ScoreConfig, workspace: Workspace, cache_id: str, journal: RunJournal, report: Report
) -> str | None:
    """Make whatever is missing of the index that ``config`` draws negatives from.

    Starts Ray only where something is missing; a Ray that this process has initialised is used.

    Returns:
        What identifies embedding and length, 16 hexadecimal digits, for the settings of a pass; None where
        negatives do not come from FAISS, and then nothing is done.

    Raises:
        InputError: The embedding model cannot be used, or the cache was packed or has no piece of that length.
        StoppedError: The run was asked to stop; what was embedded is kept.
        DamagedFileError: A file of windows or vectors is missing or damaged.
    """
    if config.non_activating_source != "faiss":
        return None
    reader = CacheReader(workspace, cache_id)
    require_examples(reader)
    embedding = Embedding.of(config.embedding_model)
    of = Corpus(workspace.url, reader.cache_id, embedding, config.example_ctx_len, len(reader.info["prefix_ids"]))
    vectors, ranges = of.vectors(), window_ranges(reader.manifest)
    path = stored.index_path(vectors.folder, ranges)
    if stored.index_row(reader.cache, path) is None:
        vectors.begin()
        rows = vectors.rows(ranges)
        with cluster(config.address):
            probe_shared(workspace)
            _embed(of, ranges, rows, journal, report)
            if not any(row.pieces for row in vectors.rows(ranges) if row):
                raise InputError(
                    f"cache {reader.cache_id} has no piece of {config.example_ctx_len} tokens.",
                    hint="cache more text, or lower --example_ctx_len.",
                )
            threads = min(_INDEX_THREADS, max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes()))
            with ray_failures("indexing"):
                ray.get(index_pieces.options(num_cpus=threads).remote(of, ranges, threads))
    stored.use(vectors, config.embedding_model)
    return vectors.key


def _embed(
    of: Corpus, ranges: Sequence[WindowRange], rows: Sequence[PieceRow | None], journal: RunJournal, report: Report
) -> None:
    """Embed the ranges that have no row, two waiting for each actor."""
    missing = [one for one, row in zip(ranges, rows, strict=True) if row is None]
    if not missing:
        return
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if of.embedding.ref is not None else 0
    count = min(len(missing), gpus or max(1, int(resources.get("CPU", 1))))
    actors = embedders(of, count, gpus=gpus > 0)
    queue, done = list(reversed(missing)), len(ranges) - len(missing)
    pending: dict[Any, Any] = {}

    def submit(actor: Any) -> None:
        if queue:
            pending[actor.embed.remote(queue.pop())] = actor

    with ray_failures("embedding"):
        try:
            for actor in [*actors, *actors]:
                submit(actor)
            while pending:
                ready, _ = ray.wait(list(pending), timeout=1.0)
                if journal.stop_requested():
                    queue.clear()  # what is under way is waited for, so that the count is what is stored
                for one in ready:
                    actor = pending.pop(one)
                    ray.get(one)
                    done += 1
                    submit(actor)
                report(done, len(ranges))
                journal.progress(embedded=done, embedded_wanted=len(ranges))
        finally:
            for actor in actors:
                ray.kill(actor)
    if done < len(ranges):
        raise StoppedError(
            f"run {journal.run_id} was stopped when {done:,} of {len(ranges):,} ranges of windows were embedded.",
            hint="run the same command again to go on from there.",
        )
