"""``raylens cache``: text → activations → SAE features → shards, on Ray Data.

The picture is in docs/architecture.md. This file is the driver: it refuses what does not fit before
any work, names the cache, starts the reader and the encoders, and follows their rows.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.data

from raylens.catalog.lookup import Catalog
from raylens.catalog.user import find_user_file
from raylens.config import CacheConfig
from raylens.engine.load import load_tokenizer, prefix_ids, tokenizer_fingerprint
from raylens.engine.models import describe_model
from raylens.engine.sae_choice import SaeChoice, choose
from raylens.errors import InputError, RunError, StoppedError
from raylens.ids import cache_id
from raylens.sources import TextSource, check_sources, fingerprint, parse_source, pin_sources
from raylens.specs import ModelInfo, SaeSpec
from raylens.store.runs import RunJournal
from raylens.store.shards import completed
from raylens.store.workspace import CacheStore, Workspace
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.encoder import ShardEncoder
from raylens_jobs.failures import ray_failures
from raylens_jobs.processes import await_exit
from raylens_jobs.row_stream import stream
from raylens_jobs.windower import BlockSource, ShardRecipe, blocks_wanted, nothing_missing
from raylens_jobs.workers import Workers, choose_workers


@dataclass(frozen=True, slots=True)
class CachePlan:
    """A checked request: the model and SAEs fit one another and the text can be read."""

    config: CacheConfig
    model: ModelInfo
    saes: tuple[tuple[SaeChoice, SaeSpec], ...]
    sources: tuple[TextSource, ...]
    prefix_ids: tuple[int, ...]
    identity: dict[str, Any]
    cache_id: str


@dataclass(frozen=True, slots=True)
class CacheProgress:
    """How far a run is; counts are of this run unless they say total."""

    tokens: int
    tokens_wanted: int
    rows: int
    shards: int
    stored_bytes: int
    seconds: float


def plan_cache(
    config: CacheConfig, workspace_url: str | None = None, say: Callable[[str], None] = lambda _: None
) -> CachePlan:
    """Check everything that can be checked without weights, and name the cache.

    Args:
        config: What is asked.
        workspace_url: Where the user's own catalogue may lie.
        say: Told what a person should know of what is allowed.

    Raises:
        InputError: model, SAE, hook point, width or text do not exist or do not fit.
    """
    sources = [parse_source(text, config.column) for text in config.texts]
    check_sources(sources)
    # A data set on the hub may move between now and when the reader, elsewhere, opens it.
    pinned = tuple(pin_sources(sources))
    model = describe_model(config.model, revision=config.revision)
    catalog = Catalog.load(find_user_file(config.catalog_file, workspace_url))
    saes = tuple(choose(config.saes, model, catalog, override=config.override_guard, say=say))
    if len({sae.id for _, sae in saes}) < len(saes):
        raise InputError("an SAE is named twice.", hint="name each --sae once.")
    _check_context(config, model)
    tokenizer = load_tokenizer(config.model, revision=config.revision)
    identity: dict[str, Any] = {
        # A folder's revision is a hash of its content, so that where it lies does not matter.
        "model": "" if Path(config.model).is_dir() else model.name,
        "revision": model.revision,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "corpus": [dict(fingerprint(source)) for source in pinned],
        "ctx_len": config.ctx_len,
        "pack": config.pack,
        "seed": config.seed,
        "shard_windows": config.shard_windows,
    }
    return CachePlan(config, model, saes, pinned, tuple(prefix_ids(tokenizer)), identity, cache_id(identity))


def _check_context(config: CacheConfig, model: ModelInfo) -> None:
    if model.max_positions is not None and config.ctx_len > model.max_positions:
        raise InputError(
            f"a context of {config.ctx_len} tokens is longer than the {model.max_positions} that {model.name} takes.",
            hint=f"lower --ctx-len to {model.max_positions} or less.",
        )


def run_cache(
    plan: CachePlan, workspace: Workspace, journal: RunJournal, report: Callable[[CacheProgress], None]
) -> dict[str, Any]:
    """Encode what is missing of ``plan`` and return the run's figures.

    Args:
        plan: From :func:`plan_cache`.
        workspace: Where to; every node must see it.
        journal: The run's record, which also carries requests to stop.
        report: Called after each shard.

    Raises:
        BusyError: Another run writes this cache.
        StoppedError: The run was asked to stop; finished shards are kept.
    """
    config, cache = plan.config, workspace.cache(plan.cache_id)
    began = time.monotonic()
    with cache.lock(journal.run_id), cluster(config.address):
        probe_shared(workspace)
        workers = choose_workers(config)
        recipes = shard_recipes(plan, workers)
        _write_info(cache, plan)
        figures = _encode(plan, workspace, journal, report, recipes, workers)
        figures |= _finish(cache, plan, recipes)
    return figures | {"seconds": round(time.monotonic() - began, 3)}


def shard_recipes(plan: CachePlan, workers: Workers) -> list[ShardRecipe]:
    """What determines each SAE's shards; results are only the same on one kind of device and dtype."""
    config = plan.config
    settings = {
        "device": workers.device if config.device == "auto" else config.device.partition(":")[0],
        "dtype": config.dtype,
        "quantization": config.quantization,
        "batch_size": config.batch_size,
        "filter_bos": config.filter_bos,
        "min_activation": config.min_activation,
    }
    return [
        ShardRecipe(sae.id, {"fingerprint": sae.fingerprint, "hook": str(sae.hook), **settings}) for _, sae in plan.saes
    ]


def _write_info(cache: CacheStore, plan: CachePlan) -> None:
    known = cache.info() if cache.exists() else {}
    cache.write_info(
        {
            "identity": plan.identity,
            "model": plan.model.name,
            "revision": plan.model.revision,
            "d_model": plan.model.d_model,
            "n_layers": plan.model.n_layers,
            "texts": list(plan.config.texts),
            "ctx_len": plan.config.ctx_len,
            # What every window begins with: readers of its text leave it out.
            "prefix_ids": list(plan.prefix_ids),
            "name": plan.config.name or known.get("name"),
        }
    )


def _encode(
    plan: CachePlan,
    workspace: Workspace,
    journal: RunJournal,
    report: Callable[[CacheProgress], None],
    recipes: list[ShardRecipe],
    workers: Workers,
) -> dict[str, Any]:
    tokens = rows = shards = stored = 0
    encode_seconds = write_seconds = 0.0
    ready, last, began = float("inf"), 0.0, time.monotonic()
    processes: set[str] = set()
    with ray_failures("encoding"):
        for row in _rows(plan, workspace, recipes, workers):
            tokens += row["tokens"]
            rows += row["rows"]
            stored += row["bytes"]
            encode_seconds += row["encode_seconds"]
            write_seconds += row["write_seconds"]
            ready, last = min(ready, row["ready_at"]), max(last, row["done_at"])
            shards += 1
            processes.add(row["process"])
            seconds = time.monotonic() - began
            progress = CacheProgress(tokens, plan.config.n_tokens, rows, shards, stored, seconds)
            journal.progress(tokens=tokens, tokens_wanted=plan.config.n_tokens, rows=rows, shards=shards)
            report(progress)
            if journal.stop_requested():
                raise StoppedError(
                    f"run {journal.run_id} was stopped after {tokens:,} tokens.",
                    hint="run the same command again to go on from there.",
                )
    await_exit(processes)  # what comes next may need the memory
    return {
        "tokens": tokens,
        "activations": rows,
        "shard_bytes": stored,
        "blocks": shards,
        "workers": workers.count,
        "threads": workers.threads,
        "device": workers.device,
        "encode_seconds": round(encode_seconds, 3),
        "write_seconds": round(write_seconds, 3),
        # From the first encoder ready to the last shard durable: what a throughput may be divided by.
        "busy_seconds": round(max(0.0, last - ready), 3) if shards else 0.0,
    }


def _rows(
    plan: CachePlan, workspace: Workspace, recipes: list[ShardRecipe], workers: Workers
) -> Iterator[dict[str, Any]]:
    if nothing_missing(workspace.cache(plan.cache_id), plan.config, recipes):
        return
    dataset = stream(BlockSource(workspace.url, plan.cache_id, plan.config, plan.sources, recipes))
    with warnings.catch_warnings():
        # The thread count of an actor has no named parameter yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        encoded = dataset.map_batches(
            ShardEncoder,  # pyright: ignore[reportArgumentType]  (a callable class; Ray's stub wants a generic protocol)
            fn_constructor_args=(workspace.url, plan.cache_id, plan.config, dict(_choices(plan)), workers.threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=workers.count, max_tasks_in_flight_per_actor=3, enable_true_multi_threading=True
            ),
            max_concurrency=2,
            num_cpus=workers.reserved_cpus,
            num_gpus=workers.gpus,
        )
    yield from encoded.iter_rows()


def _choices(plan: CachePlan) -> Iterator[tuple[str, SaeChoice]]:
    return ((str(spec.id), choice) for choice, spec in plan.saes)


def _finish(cache: CacheStore, plan: CachePlan, recipes: list[ShardRecipe]) -> dict[str, Any]:
    """Check that every shard asked for exists, and note per SAE which shards a merge shall take."""
    blocks = list(blocks_wanted(cache, plan.config, plan.sources))
    known = cache.saes()
    for recipe, (choice, spec) in zip(recipes, plan.saes, strict=True):
        names, done = [recipe.shard_name(block) for block in blocks], completed(cache, recipe.sae)
        if missing := [name for name in names if name not in done]:
            raise RunError(
                f"{len(missing)} shards of {recipe.sae} are missing, the first being {missing[0]}.",
                hint="run the same command again: it makes only what is missing.",
            )
        earlier = known.get(recipe.sae, {}).get("shards", [])
        # A shorter rerun with the same settings must not shrink what is there already.
        if names[:-1] == earlier[: len(names) - 1] and len(earlier) > len(names):
            names = earlier
        cache.write_sae(recipe.sae, {"spec": spec_row(spec), "choice": asdict(choice), "shards": names})
    tokens = sum(block.n_text_tokens for block in blocks)
    return {"tokens_total": tokens, "windows_total": sum(b.n_windows for b in blocks), "blocks_total": len(blocks)}


def spec_row(spec: SaeSpec) -> dict[str, Any]:
    """What readers without torch know of an SAE."""
    return {
        "model_name": spec.model_name,
        "hook": str(spec.hook),
        "layer": spec.hook.layer_index,
        "d_in": spec.d_in,
        "d_sae": spec.d_sae,
        "architecture": spec.architecture,
        "neuronpedia_id": spec.neuronpedia_id,
        "fingerprint": spec.fingerprint,
    }
