"""``raylens record``: text → dense activations of any causal LM, a Parquet shard at a time, on Ray Data.

Built like the cache: one reader task cuts the text and streams blocks to a pool of actors; a block is
a shard, which its actor commits, manifest row last. A rerun makes only the missing shards and goes on
in the text where the last whole one ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from raylens.catalog.points import GLOBAL, KNOWN, is_residual_wide
from raylens.config import RecordConfig
from raylens.engine.load import load_model, load_tokenizer, prefix_ids, tokenizer_fingerprint
from raylens.engine.models import describe_model
from raylens.engine.tap import tap
from raylens.errors import InputError, RunError, StoppedError, UnknownNameError
from raylens.ids import HookPoint
from raylens.sources import TextSource, check_sources, fingerprint, parse_source, pin_sources
from raylens.specs import ModelInfo
from raylens.store.dense import DenseRecord, RecordInfo, n_text_tokens
from raylens.store.files import Files
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.failures import ray_failures
from raylens_jobs.recorder import RecordSource, ShardRecorder, blocks_missing, worker_device
from raylens_jobs.row_stream import stream
from raylens_jobs.workers import Workers, choose_workers

SHARD_BYTES = 64 * 2**20
"""Activations of a shard, unless the user says how many windows."""

_REMEDY = "run the same command again: it makes only what is missing."


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """A checked request: the model exists and the text can be read."""

    config: RecordConfig
    model: ModelInfo
    hooks: tuple[HookPoint, ...]
    sources: tuple[TextSource, ...]
    prefix_ids: tuple[int, ...]
    tokenizer: str
    corpus: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class RecordProgress:
    """How far a run is: what it has recorded so far."""

    windows: int
    tokens: int
    shards: int
    stored_bytes: int
    seconds: float


def plan_record(config: RecordConfig) -> RecordPlan:
    """Check everything that can be checked without weights.

    Raises:
        InputError: The model, hook point or text do not exist, or a window is longer than the model takes.
    """
    sources = [parse_source(text, config.column) for text in config.texts]
    check_sources(sources)
    pinned = tuple(pin_sources(sources))
    model = describe_model(config.model, revision=config.revision)
    hooks = tuple(dict.fromkeys(HookPoint.parse(hook) for hook in config.hooks))
    for hook in hooks:
        _check_point(hook, model)
    if model.max_positions is not None and config.ctx_len > model.max_positions:
        raise InputError(
            f"a context of {config.ctx_len} tokens is longer than the {model.max_positions} that {model.name} takes.",
            hint=f"lower --ctx-len to {model.max_positions} or less.",
        )
    tokenizer = load_tokenizer(config.model, revision=config.revision)
    return RecordPlan(
        config=config,
        model=model,
        hooks=hooks,
        sources=pinned,
        prefix_ids=prefix_ids(tokenizer),
        tokenizer=tokenizer_fingerprint(tokenizer),
        corpus=tuple(dict(fingerprint(source)) for source in pinned),
    )


def run_record(
    plan: RecordPlan,
    files: Files,
    folder: str,
    journal: RunJournal,
    report: Callable[[RecordProgress], None] = lambda _: None,
) -> dict[str, Any]:
    """Record what is missing of ``plan`` and return the run's figures.

    Args:
        plan: From :func:`plan_record`.
        files: Where to: a workspace's files, or a folder's.
        folder: Folder below their root; empty for the root itself.
        journal: The run's record, which also carries requests to stop.
        report: Called after each shard.

    Raises:
        InputError: The folder holds other activations.
        BusyError: Another run writes there.
        StoppedError: The run was asked to stop; finished shards are kept.
    """
    began = time.monotonic()
    with cluster(plan.config.address):
        _check_shared(files)
        workers = choose_workers(plan.config)
        with ray_failures("recording"):
            record = DenseRecord.create(files, folder, _info(plan, workers))
            with record.lock(journal.run_id):
                try:
                    figures = _record(plan, record, journal, report, workers)
                except BaseException:
                    # Such as a point that this model lacks: there is nothing to go on from, and no reason to
                    # refuse the corrected command because other activations were begun here.
                    record.discard_if_empty()
                    raise
        shards = record.shards()
    return figures | {
        "samples_total": sum(shard.n_windows for shard in shards),
        "tokens_total": n_text_tokens(shards),
        "shards_total": len(shards),
        "bytes_total": sum(shard.bytes for shard in shards),
        "out": files.native(folder),
        "seconds": round(time.monotonic() - began, 3),
    }


def _record(
    plan: RecordPlan,
    record: DenseRecord,
    journal: RunJournal,
    report: Callable[[RecordProgress], None],
    workers: Workers,
) -> dict[str, Any]:
    windows = tokens = shards = stored = 0
    began = time.monotonic()
    # Starting actors takes seconds, so it is asked first whether there is anything to do.
    missing = next(blocks_missing(record, plan.config, plan.sources), None)
    for row in _rows(plan, record, workers) if missing else ():
        windows += int(row["windows"])
        tokens += int(row["tokens"])
        stored += int(row["bytes"])
        shards += 1
        journal.progress(samples=windows, tokens=tokens, shards=shards)
        report(RecordProgress(windows, tokens, shards, stored, time.monotonic() - began))
        if journal.stop_requested():
            raise StoppedError(f"run {journal.run_id} was stopped after {tokens:,} tokens.", hint=_REMEDY)
    kept = len(record.shards())
    if record.row(kept + 1) is not None:
        raise RunError(f"shard {kept} of {record.files.native(record.folder)} is missing.", hint=_REMEDY)
    return {"samples": windows, "tokens": tokens, "shards": shards, "workers": workers.count, "device": workers.device}


def _rows(plan: RecordPlan, record: DenseRecord, workers: Workers) -> Iterator[dict[str, Any]]:
    dataset = stream(RecordSource(record, plan.config, plan.sources))
    recorded = dataset.map_batches(
        ShardRecorder,  # pyright: ignore[reportArgumentType]  (a callable class; Ray's stub wants a generic protocol)
        fn_constructor_args=(record, plan.config, workers.threads),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers.count, max_tasks_in_flight_per_actor=2),
        num_cpus=workers.reserved_cpus,
        num_gpus=workers.gpus,
    )
    yield from recorded.iter_rows()


def _info(plan: RecordPlan, workers: Workers) -> RecordInfo:
    config, item = plan.config, np.dtype(plan.config.stored_dtype).itemsize
    widths = _widths(plan, workers)
    window_bytes = sum(widths) * item * config.ctx_len
    return RecordInfo(
        model=plan.model.name,
        revision=plan.model.revision,
        hooks=tuple(str(hook) for hook in plan.hooks),
        widths=widths,
        stored_dtype=config.stored_dtype,
        ctx_len=config.ctx_len,
        prefix_ids=plan.prefix_ids,
        shard_windows=config.shard_windows or max(1, SHARD_BYTES // window_bytes),
        texts=config.texts,
        corpus=plan.corpus,
        settings={
            "tokenizer": plan.tokenizer,
            "seed": config.seed,
            "pack": config.pack,
            "dtype": config.dtype,
            "quantization": config.quantization,
            "batch_size": config.batch_size,
            "device": workers.device if config.device == "auto" else config.device.partition(":")[0],
        },
    )


def _widths(plan: RecordPlan, workers: Workers) -> tuple[int, ...]:
    """Width of each point: the model's own, or found by running one token through it on a worker."""
    if all(is_residual_wide(hook) for hook in plan.hooks):
        return (plan.model.d_model,) * len(plan.hooks)
    probe = ray.remote(num_cpus=workers.threads, num_gpus=workers.gpus)(_probe_widths)
    return ray.get(probe.remote(plan.config, plan.hooks))


def _probe_widths(config: RecordConfig, hooks: tuple[HookPoint, ...]) -> tuple[int, ...]:
    model = load_model(
        config.model,
        revision=config.revision,
        dtype=config.dtype,
        device=worker_device(config.device),
        quantization=config.quantization,
    )
    states = tap(model, hooks, torch.tensor([[model.pad_id]]))
    return tuple(states[hook].shape[-1] for hook in hooks)


def _check_point(hook: HookPoint, model: ModelInfo) -> None:
    if not hook.is_module_path and hook.name not in KNOWN:
        raise UnknownNameError.among("hook point", hook.name, KNOWN, hint="Or name a module: path.<module path>.")
    if not hook.is_module_path and (hook.name in GLOBAL) != (hook.layer is None):
        raise UnknownNameError(
            f"{hook.name} {'is one tensor and takes no' if hook.name in GLOBAL else 'needs a'} layer.",
            hint=f"write {hook.name if hook.name in GLOBAL else f'{hook.name}.N, N from 0 to {model.n_layers - 1}'}.",
        )
    layer = hook.layer_index
    if layer is not None and layer >= model.n_layers:
        raise UnknownNameError(
            f"{model.name} has no {hook}: its layers are 0 to {model.n_layers - 1}.",
            hint="name one of these; they count from 0.",
        )


def _check_shared(files: Files) -> None:
    """On several nodes, prove that all of them see the place.

    Raises:
        InputError: The place is a folder outside a workspace, which nothing can be proved of.
    """
    if len([node for node in ray.nodes() if node["Alive"]]) < 2:
        return
    if not files.exists("raylens.json"):
        raise InputError(
            f"{files.url} is not in a workspace, so it is not known whether every node sees it.",
            hint="name the record without a slash or dot, and it goes into the workspace.",
        )
    probe_shared(Workspace(files))
