"""``raylens import delphi``: latents, explanations and scores of another pipeline, as a cache like any other.

A new cache comes into sight with its last small file: a run that ends early leaves nothing that anyone sees,
and takes away what it wrote. Rows are not joined to one another, because whether neighbours go on from one
another is not known; decoder weights are not there, so neither are ``logits``, ``neighbours`` and ``map``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.errors import StoppedError
from raylens.ids import digest
from raylens.schema import DOCUMENTS, WINDOWS
from raylens.sources.delphi import LARGEST, Hookpoint
from raylens.store.cofiring import cofiring
from raylens.store.compact import merge_documents, merge_windows, n_window_files
from raylens.store.housekeeping import remove_unfinished
from raylens.store.merge import SaeMerge, merge_ranges, merge_statistics, plan_merge
from raylens.store.publish import finish_merge, write_feature_table
from raylens.store.runs import RunJournal
from raylens.store.shards import ShardRow, write_shard
from raylens.store.windows import WindowsShard, write_windows_shard
from raylens.store.workspace import CacheStore, Workspace
from raylens_jobs.delphi_findings import write_findings
from raylens_jobs.delphi_plan import ImportPlan

Report = Callable[[int, int], None]
"""Called with (blocks and SAEs done, of how many)."""


def run_import(plan: ImportPlan, workspace: Workspace, journal: RunJournal, report: Report) -> dict[str, Any]:
    """Write the cache, its merged tables, explanations and scores; returns the run's figures.

    Raises:
        BusyError: Another run writes this cache.
        StoppedError: The run was asked to stop; nothing of a new cache is left.
        DiskFullError: No space; likewise.
    """
    began = time.monotonic()
    cache = workspace.cache(plan.cache_id)
    known = cache.info() if cache.exists() else None
    n_blocks = len(plan.ends[0][0])
    total = n_blocks * (1 + len(plan.saes)) + len(plan.saes)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        report(done, total)
        if journal.stop_requested():
            raise StoppedError(f"run {journal.run_id} was stopped.", hint="run the same command again to import it.")

    figures = {"clipped": 0, "dropped": 0, "activations": 0}
    with cache.lock(journal.run_id) as lock:
        try:
            windows: list[WindowsShard] = []
            for block in range(n_blocks):
                windows.append(_write_windows(cache, plan, block))
                advance()
            entries = [merge_windows(cache, windows, index) for index in range(n_window_files(windows))]
            entries.append(merge_documents(cache, windows))
            merges: list[SaeMerge] = []
            for number, sae in enumerate(plan.saes):
                rows: list[ShardRow] = []
                for window in windows:
                    rows.append(_write_shard(cache, plan, number, window, figures))
                    advance()
                merges.append(merge := plan_merge(sae, rows))
                entries += merge_ranges(cache, merge, range(merge.n_ranges))
                entries.append(merge_statistics(cache, merge))
                table = cofiring(cache, sae, rows)
                entries.append(write_feature_table(cache, sae, "cofiring", table, {"shards": merge.folder}))
                advance()
            found = [write_findings(cache, plan, number, journal.run_id) for number in range(len(plan.saes))]
            for number, sae in enumerate(plan.saes):
                cache.write_sae(sae, {"spec": _spec(plan, number)})
            finish_merge(cache, lock, windows=windows, merges=merges, entries=entries)
            name = plan.info["name"] or (known or {}).get("name")
            cache.write_info({**plan.info, "name": name})  # what makes a new cache exist: last
        except BaseException:
            if known is None:
                remove_unfinished(cache)
            raise
    return {
        "cache_id": plan.cache_id,
        "saes": [str(sae) for sae in plan.saes],
        "tokens": int(plan.tokens.size),
        "windows": len(plan.tokens),
        "documents": int(plan.documents[-1]) + 1,
        **figures,
        "explanations": sum(one["explanations"] for one in found),
        "unparsed": sum(one["unparsed"] for one in found),
        "scores": {
            scorer: sum(one["scores"].get(scorer, 0) for one in found) for one in found for scorer in one["scores"]
        },
        "unknown_scores": sorted({scorer for one in found for scorer in one["unknown"]}),
        "seconds": round(time.monotonic() - began, 3),
    }


def _spec(plan: ImportPlan, number: int) -> dict[str, Any]:
    hookpoint = plan.run.hookpoints[number]
    return {
        "model_name": plan.run.model,
        "hook": hookpoint.name,
        "layer": hookpoint.layer,
        "d_in": None,
        "d_sae": hookpoint.d_sae,
        "architecture": None,
        "neuronpedia_id": None,
        "fingerprint": None,
    }


def _write_windows(cache: CacheStore, plan: ImportPlan, block: int) -> WindowsShard:
    first = block * plan.block_rows
    tokens = plan.tokens[first : first + plan.block_rows]
    documents = plan.documents[first : first + plan.block_rows]
    n_prefix = len(plan.prefix_ids)
    texts, offsets = [], []
    for row in tokens.tolist():
        text, starts = plan.speller.text(row[n_prefix:])
        texts.append(text)
        offsets.append(np.concatenate([np.zeros(n_prefix, np.int32), starts]))
    bounds = pa.array(np.arange(len(tokens) + 1) * tokens.shape[1], pa.int32())
    windows = {
        "window_id": np.arange(first, first + len(tokens), dtype=np.int32),
        "doc_id": documents,
        # Where in its document a row stands is not known: equal starts are never joined to one excerpt.
        "start": np.zeros(len(tokens), np.int32),
        "token_ids": pa.ListArray.from_arrays(bounds, tokens.astype(np.int32).ravel()),
        "token_offsets": pa.ListArray.from_arrays(bounds, np.concatenate(offsets)),
        "text": pa.array(texts, pa.string()),
    }
    is_text = ~np.isin(tokens, plan.special_ids)
    ids, at = np.unique(documents, return_index=True)
    counts = np.add.reduceat(is_text.sum(axis=1), at)
    config = plan.run.hookpoints[0].config
    table = [
        {
            "doc_id": doc,
            "source": str(config.get("dataset_repo") or "delphi"),
            "domain": ".",
            "path": f"document {doc}",
            "split": str(config.get("dataset_split") or ""),
            "n_tokens": n,
        }
        for doc, n in zip(ids.tolist(), counts.tolist(), strict=True)
    ]
    return write_windows_shard(
        cache,
        block,
        pa.table(windows, schema=WINDOWS),
        pa.Table.from_pylist(table, DOCUMENTS),
        n_special_tokens=int((~is_text).sum()),
        cursor={"ended": True},
    )


def _write_shard(
    cache: CacheStore, plan: ImportPlan, number: int, window: WindowsShard, figures: dict[str, int]
) -> ShardRow:
    hookpoint, block = plan.run.hookpoints[number], window.index
    parts = list(_of_block(hookpoint, plan.ends[number], block))
    places = np.concatenate([places for places, _ in parts])
    values = np.concatenate([values for _, values in parts])
    too_large = np.isinf(values) & (values > 0)
    values[too_large] = LARGEST
    fires = values > 0  # delphi keeps what is far enough from 0 on either side
    figures["clipped"] += int(too_large.sum())
    figures["dropped"] += int((~fires).sum())
    figures["activations"] += int(fires.sum())
    places, values = places[fires], values[fires]
    order = np.argsort(places[:, 0] * plan.tokens.shape[1] + places[:, 1], kind="stable")
    row, position, latent = places[order].T
    content = {"sae": str(plan.saes[number]), "block": block, "rows": window.n_windows, "n": len(order)}
    return write_shard(
        cache,
        plan.saes[number],
        f"{block:08d}-{digest(content)[:16]}",
        d_sae=hookpoint.d_sae,
        window_first=window.window_first,
        n_windows=window.n_windows,
        n_text_tokens=window.n_text_tokens,
        n_special_tokens=window.n_special_tokens,
        feature=latent.astype(np.int32),
        window_id=row.astype(np.int32),
        position=position.astype(np.int16),
        activation=values[order],
        special=np.isin(plan.tokens[row, position], plan.special_ids),
    )


def _of_block(
    hookpoint: Hookpoint, ends: Sequence[NDArray[np.int64]], block: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    for split, end in zip(hookpoint.splits, ends, strict=True):
        yield split.read(int(end[block - 1]) if block else 0, int(end[block]))
