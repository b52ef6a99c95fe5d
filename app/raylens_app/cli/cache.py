"""``raylens cache`` and ``raylens merge``: text → activations → features → files that SQL reads."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylens.errors import InputError, WorkspaceError
from raylens_app.cli.output import data_size, duration, note, print_json, print_text, progress
from raylens_app.cli.state import Address, state_of

if TYPE_CHECKING:
    from raylens.config import CacheConfig
    from raylens.store.runs import RunJournal
    from raylens.store.workspace import CacheStore, Workspace

_PANEL = "Make"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("cache", rich_help_panel=_PANEL)(cache)
    app.command("merge", rich_help_panel=_PANEL)(merge)


def cache(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", "-m", help="raylens/pico, a folder, or a hub id.")] = "raylens/pico",
    sae: Annotated[
        list[str] | None,
        typer.Option("--sae", "-s", help="release/id or a folder; again for more. Default: pico's, for pico."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="stdlib, a path or glob, or hf:repo[:config][:split]; again to mix. Default: stdlib."),
    ] = None,
    n_tokens: Annotated[int, typer.Option(min=1, help="Text tokens to encode.")] = 10_000_000,
    ctx_len: Annotated[int, typer.Option(help="Tokens per window, BOS included.")] = 128,
    column: Annotated[str | None, typer.Option(help="Column with the text, or with chat messages.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 32,
    workers: Annotated[int | None, typer.Option(min=1, help="Encoders. Default: one a GPU, else one a core.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per encoder.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="Use at most this many GPUs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="bnb-8bit or bnb-4bit.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    filter_bos: Annotated[bool, typer.Option(help="Leave out activations on special tokens.")] = False,
    min_activation: Annotated[float, typer.Option(min=0, help="Keep only activations above this.")] = 0.0,
    pack: Annotated[bool, typer.Option(help="Let windows run across documents.")] = False,
    seed: Annotated[int, typer.Option(help="Order of documents; negative keeps the source's order.")] = 22,
    shard_windows: Annotated[int, typer.Option(min=1, help="Windows per shard.")] = 512,
    address: Address = None,
    name: Annotated[str | None, typer.Option(help="A name to call this cache by.")] = None,
    override_guard: Annotated[bool, typer.Option(help="Allow an SAE trained on another model of this shape.")] = False,
    catalog_file: Annotated[str | None, typer.Option(help="Your own SAEs and aliases (YAML).")] = None,
    merge_after: Annotated[bool, typer.Option("--merge/--no-merge", help="Merge when encoding is done.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Encode text into SAE activations, on one worker or a cluster, and merge them for reading.

    A rerun does only what is missing; raising --n-tokens reuses what is there. Windows do not cross
    documents unless --pack says so.
    """
    from raylens.config import CacheConfig

    config = CacheConfig.of(
        {
            "model": model,
            "saes": tuple(sae or _default_saes(model)),
            "texts": tuple(text or ("stdlib",)),
            "n_tokens": n_tokens,
            "ctx_len": ctx_len,
            "column": column,
            "batch_size": batch_size,
            "workers": workers,
            "threads": threads,
            "num_gpus": num_gpus,
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
            "revision": revision,
            "filter_bos": filter_bos,
            "min_activation": min_activation,
            "pack": pack,
            "seed": seed,
            "shard_windows": shard_windows,
            "address": address,
            "name": name,
            "override_guard": override_guard,
            "catalog_file": catalog_file,
        }
    )
    if dry_run:
        _dry_run(context, config, as_json)
        return
    figures = run(state_of(context).open_workspace(create=True), config, merge_after=merge_after)
    if as_json:
        print_json(figures)
        return
    print_text(_summary(figures))
    print_text(f"next: raylens features --cache {figures['cache_id']}")


def merge(
    context: typer.Context,
    cache: Annotated[str | None, typer.Argument(help="A cache's id, how it begins, or its name.")] = None,
    memory_rows: Annotated[int, typer.Option(min=1, help="Rows a task may hold; more are sorted on disk.")] = 4_000_000,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Merge a cache's shards into the files that features, sql and the app read.

    raylens cache does this by itself unless --no-merge says otherwise.
    """
    from raylens.config import MergeConfig
    from raylens.store.runs import RunJournal

    workspace = state_of(context).open_workspace()
    store = _chosen(workspace, cache)
    config = MergeConfig(cache=store.cache_id, memory_rows=memory_rows, address=address)
    with RunJournal.start(workspace.files, "merge", config.model_dump(mode="json"), cache_id=store.cache_id) as journal:
        figures = _merge(workspace, store, journal, address, memory_rows)
        figures |= {"run_id": journal.run_id, "cache_id": store.cache_id}
        journal.finish(figures)
    if as_json:
        print_json(figures)
    else:
        print_text(
            f"merged {figures['activations_merged']:,} activations into {data_size(figures['activation_bytes'])} "
            f"in {duration(figures['merge_seconds'])}"
        )


def run(workspace: Workspace, config: CacheConfig, *, merge_after: bool = True) -> dict[str, Any]:
    """Cache and merge with progress on stderr; returns the figures of the run record.

    Raises:
        RaylensError: as :func:`raylens_jobs.cache.run_cache` does.
    """
    from raylens.store.merge import MEMORY_ROWS
    from raylens.store.runs import RunJournal
    from raylens_jobs.cache import plan_cache, run_cache
    from raylens_jobs.cluster import cluster

    plan = plan_cache(config, workspace.url, note)
    store = workspace.cache(plan.cache_id)
    settings = config.model_dump(mode="json")
    with RunJournal.start(workspace.files, "cache", settings, cache_id=plan.cache_id) as journal:
        note(f"run {journal.run_id}, cache {plan.cache_id}: starting Ray and loading {config.model}")
        # One Ray for both halves: starting one takes seconds.
        with cluster(config.address):
            with progress("encoding", config.n_tokens, unit="tokens") as bar:
                figures = run_cache(
                    plan, workspace, journal, lambda done: bar(min(done.tokens, config.n_tokens), None, _speed(done))
                )
            journal.figures(**figures)
            if figures["tokens_total"] < config.n_tokens:
                note(
                    f"the text holds {figures['tokens_total']:,} tokens, fewer than the {config.n_tokens:,} asked for."
                )
            if merge_after:
                figures |= _merge(workspace, store, journal, config.address, MEMORY_ROWS)
        figures |= {"run_id": journal.run_id, "cache_id": plan.cache_id}
        journal.finish(figures)
    return figures


def _merge(
    workspace: Workspace, store: CacheStore, journal: RunJournal, address: str | None, memory_rows: int
) -> dict[str, Any]:
    from raylens_jobs.merge import run_merge

    with progress("merging", unit="tasks") as bar:
        return run_merge(workspace, store, journal, bar, address=address, memory_rows=memory_rows)


def _chosen(workspace: Workspace, name: str | None) -> CacheStore:
    caches = workspace.caches()
    if name is None and len(caches) == 1:
        return workspace.cache(caches[0])
    if name is None:
        known = ", ".join(caches)
        raise InputError(
            f"there are {len(caches)} caches.", hint=f"name one of {known}." if known else "raylens cache makes one."
        )
    return workspace.resolve_cache(name)


def _default_saes(model: str) -> list[str]:
    from raylens.bundle.paths import list_saes

    mine = [str(sae.id) for sae in list_saes() if sae.model == model]
    if not mine:
        raise InputError(
            f"no SAE was named for {model}.", hint=f"raylens catalog --model {model} lists those that fit."
        )
    return mine


def _speed(done: Any) -> str:
    return f"{done.tokens / done.seconds:,.0f} tokens/s · {data_size(done.stored_bytes)}" if done.seconds else ""


def _summary(figures: dict[str, Any]) -> str:
    lines = [f"cache {figures['cache_id']}: {figures['tokens_total']:,} tokens in {figures['windows_total']:,} windows"]
    if figures["tokens"]:
        speed = figures["tokens"] / max(figures["busy_seconds"], 1e-9)
        lines.append(
            f"encoded {figures['tokens']:,} tokens into {figures['activations']:,} activations: "
            f"{speed:,.0f} tokens/s on {figures['workers']} × {figures['device']}"
        )
    else:
        lines.append("everything was encoded already")
    if "activation_bytes" in figures:
        lines.append(
            f"merged in {duration(figures['merge_seconds'])}: {data_size(figures['bytes'])}, "
            f"{figures['activation_bytes'] / max(1, figures['activations_merged']):.2f} bytes an activation"
        )
    return "\n".join(lines)


def _dry_run(context: typer.Context, config: CacheConfig, as_json: bool) -> None:
    from raylens_jobs.cache import plan_cache
    from raylens_jobs.estimate import estimate_cache

    plan = plan_cache(config, state_of(context).workspace, note)
    try:
        store = state_of(context).open_workspace().cache(plan.cache_id)
    except WorkspaceError:
        store = None
    estimate = estimate_cache(plan, store)
    if as_json:
        print_json({"cache_id": plan.cache_id, **asdict(estimate)})
        return
    print_text(f"cache {plan.cache_id}: {estimate.tokens:,} tokens, of which {estimate.tokens_stored:,} are stored")
    print_text(f"  windows      about {estimate.windows:,}")
    print_text(f"  activations  about {estimate.activations:,}, {data_size(estimate.stored_bytes)} with shards")
    print_text(
        f"  memory       about {data_size(estimate.memory_bytes_per_worker)} on each of {estimate.workers} workers"
    )
    print_text(f"  time         about {duration(estimate.hours * 3600)} ({estimate.hours:.2f} h): {estimate.basis}")
