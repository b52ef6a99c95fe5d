"""``raylens record`` (and ``trace``), ``train`` and ``evaluate``: making SAEs, and judging them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylens.config import EvaluateConfig, RecordConfig, TrainConfig
from raylens.errors import InputError
from raylens.store.dense import DenseRecord, record_place
from raylens.store.files import Files
from raylens.store.runs import RunJournal
from raylens_app.cli.output import data_size, duration, note, print_json, print_table, print_text, progress
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.store.workspace import Workspace

_PANEL = "Train"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("record", rich_help_panel=_PANEL)(record)
    app.command("trace", rich_help_panel=_PANEL, help="The same as record.", hidden=True)(record)
    app.command("train", rich_help_panel=_PANEL)(train)
    app.command("evaluate", rich_help_panel=_PANEL)(evaluate)


def record(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", "-o", help="A name in the workspace, or a folder (with / or .).")],
    model: Annotated[str, typer.Option("--model", "-m", help="raylens/pico, a folder, or a hub id.")] = "raylens/pico",
    layer: Annotated[list[int] | None, typer.Option(help="resid_post of this block (from 0); again for more.")] = None,
    hook: Annotated[
        list[str] | None, typer.Option(help="Hook point, e.g. mlp_out.3 or path.model.layers.3; again for more.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="stdlib, a path or glob, or hf:repo[:config][:split]; again to mix. Default: stdlib:train."),
    ] = None,
    max_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Windows to record at most; a window is one sample of up to --ctx-len tokens."),
    ] = None,
    ctx_len: Annotated[int, typer.Option(help="Tokens per window, BOS included.")] = 256,
    column: Annotated[str | None, typer.Option(help="Column with the text, or with chat messages.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 32,
    stored_dtype: Annotated[str, typer.Option(help="Of the values on disk: float16 or float32.")] = "float16",
    shard_windows: Annotated[int | None, typer.Option(min=1, help="Windows per shard. Default: about 64 MB.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Actors. Default: one a GPU, else one a core.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per actor.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="Use at most this many GPUs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the model: auto, float32, float16 or bfloat16.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="bnb-8bit or bnb-4bit.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    pack: Annotated[bool, typer.Option(help="Let windows run across documents.")] = False,
    seed: Annotated[int, typer.Option(help="Order of documents; negative keeps the source's order.")] = 22,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster, e.g. ray://head:10001 or auto.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Record a model's dense activations over text, as Parquet, for training SAEs.

    A rerun makes only what is missing; raising --max-samples adds to what is there.
    """
    config = RecordConfig.of(
        {
            "model": model,
            "hooks": _hooks(layer, hook),
            "texts": tuple(text or ("stdlib:train",)),
            "max_samples": max_samples,
            "ctx_len": ctx_len,
            "column": column,
            "batch_size": batch_size,
            "stored_dtype": stored_dtype,
            "shard_windows": shard_windows,
            "workers": workers,
            "threads": threads,
            "num_gpus": num_gpus,
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
            "revision": revision,
            "pack": pack,
            "seed": seed,
            "address": address,
        }
    )
    from raylens_jobs.record import plan_record, run_record

    workspace = state_of(context).open_workspace(create=True)
    files, folder = record_place(out, workspace.files)
    plan = plan_record(config)
    with _journal(workspace, "record", config.model_dump(mode="json"), out) as journal:
        note(f"run {journal.run_id}: starting Ray and loading {config.model}")
        with progress("recording", max_samples, unit="windows") as bar:
            figures = run_record(
                plan,
                files,
                folder,
                journal,
                lambda done: bar(done.windows, None, f"{done.tokens:,} tokens · {data_size(done.stored_bytes)}"),
            )
        figures |= {"run_id": journal.run_id}
        journal.finish(figures)
    if max_samples is not None and figures["samples_total"] < max_samples:
        note(f"the text holds {figures['samples_total']:,} windows, fewer than the {max_samples:,} asked for.")
    if as_json:
        print_json(figures)
        return
    print_text(
        f"{figures['tokens_total']:,} tokens of {', '.join(config.hooks)} in {figures['out']} "
        f"({figures['shards_total']} shards, {data_size(figures['bytes_total'])}), {duration(figures['seconds'])}"
    )
    print_text(f"next: raylens train --activations {out} --out my-sae")


def train(
    context: typer.Context,
    activations: Annotated[str, typer.Option("--activations", "-a", help="What record --out named.")],
    out: Annotated[str, typer.Option("--out", "-o", help="A name in the workspace, or a folder (with / or .).")],
    layer: Annotated[int | None, typer.Option(help="Which layer (resid_post), if several were recorded.")] = None,
    hook: Annotated[str | None, typer.Option(help="Which hook point, if several were recorded.")] = None,
    architecture: Annotated[str, typer.Option(help="topk, batchtopk, jumprelu or standard.")] = "topk",
    width: Annotated[
        int | None,
        typer.Option("--width", "--latent-dim", min=1, help="Latents. Default: 8 × the width."),
    ] = None,
    k: Annotated[float, typer.Option(min=1, help="Active latents a token (topk; batchtopk on average).")] = 32,
    sparsity_coef: Annotated[
        float | None,
        typer.Option("--sparsity-coef", "--l1", min=0, help="Weight of the L1 (standard) or L0 penalty (jumprelu)."),
    ] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to train on. Default: 10 million.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps, in place of --tokens.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Tokens per step.")] = 1024,
    aux_coef: Annotated[float, typer.Option(min=0, help="Weight of the loss that revives dead latents.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of initial weights and order.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all cores.")] = None,
    autocast: Annotated[bool, typer.Option(help="Multiply in bfloat16.")] = False,
    weights_dtype: Annotated[str, typer.Option(help="Of the saved weights: float32 or float16.")] = "float32",
    checkpoint_steps: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    buffer_mb: Annotated[int, typer.Option(min=1, help="Activations shuffled together, in MB of memory.")] = 512,
    address: Annotated[str | None, typer.Option(help="Train on a running Ray cluster.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Train an SAE on recorded activations; it is saved in SAELens's format.

    A run that was stopped or killed goes on from its last checkpoint when the same command is given
    again, and ends with the same weights.
    """
    if steps is not None and tokens is not None:
        raise InputError("--steps and --tokens say the same thing.", hint="give one of them.")
    config = TrainConfig.of(
        {
            "hook": hook or (f"resid_post.{layer}" if layer is not None else None),
            "architecture": architecture,
            "d_sae": width,
            "k": k,
            "sparsity_coef": sparsity_coef,
            "learning_rate": lr,
            "tokens": steps * batch_size if steps else tokens or TrainConfig.model_fields["tokens"].default,
            "batch_size": batch_size,
            "aux_coef": aux_coef,
            "seed": seed,
            "device": device,
            "threads": threads,
            "autocast": autocast,
            "weights_dtype": weights_dtype,
            "checkpoint_steps": checkpoint_steps,
            "buffer_bytes": buffer_mb * 2**20,
        }
    )
    workspace = state_of(context).open_workspace(create=True)
    recorded = DenseRecord.open(*record_place(activations, workspace.files))
    files, folder = record_place(out, workspace.files, kind="saes")
    from raylens_jobs.train import run_train

    with _journal(workspace, "train", config.model_dump(mode="json") | {"activations": activations}, out) as journal:
        note(f"run {journal.run_id}: {config.steps:,} steps on {recorded.files.native(recorded.folder)}")
        with progress("training", config.steps, unit="steps") as bar:
            figures = run_train(
                config,
                recorded,
                files,
                folder,
                journal,
                lambda now: bar(now.step, None, f"FVU {now.fvu:.3f} · L0 {now.l0:.1f} · {now.dead} dead"),
                address=address,
            )
        figures |= {"run_id": journal.run_id, "out": files.native(folder)}
        journal.finish(figures)
    if as_json:
        print_json(figures)
        return
    print_text(
        f"trained on {figures['tokens']:,} tokens in {duration(figures['seconds'])}: on them FVU {figures['fvu']:.4f}, "
        f"L0 {figures['l0']:.1f}, {figures['dead']} latents dead"
    )
    print_text(f"next: raylens evaluate --sae-path {figures['out']} --model {recorded.info.model} --text SOURCE")


def evaluate(
    context: typer.Context,
    sae: Annotated[str, typer.Option("--sae-path", "--sae", "-s", help="A folder, release/id, or workspace name.")],
    activations: Annotated[
        str | None, typer.Option("--activations", "-a", help="What record --out named; without losses.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Run text through this model.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text to run through the model; again to mix. Default for pico: stdlib:held_out."),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Read resid_post of this block instead.")] = None,
    hook: Annotated[str | None, typer.Option(help="Read this hook point, not the one in the SAE's config.")] = None,
    n_tokens: Annotated[int, typer.Option(min=1, help="Text tokens to evaluate on.")] = 100_000,
    ctx_len: Annotated[int | None, typer.Option(help="Tokens per window. Default: as in training.")] = None,
    column: Annotated[str | None, typer.Option(help="Column with the text.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the model.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="bnb-8bit or bnb-4bit.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all cores.")] = None,
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Evaluate on text it was trained on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure an SAE: FVU, MSE, L0, dead and dense latents; with a model also what it costs predictions.

    Special tokens (BOS) are left out of everything. Intervals are 95 % bootstraps over documents.
    """
    if activations is None and model is None:
        raise InputError("there is nothing to evaluate on.", hint="give --model (and --text), or --activations.")
    if activations is not None and text:
        raise InputError("--activations and --text are two different inputs.", hint="give one of them.")
    config = EvaluateConfig.of(
        {
            **({"model": model} if model else {}),
            "texts": tuple(text or ()),
            "column": column,
            "ctx_len": ctx_len,
            "hook": hook or (f"resid_post.{layer}" if layer is not None else None),
            "n_tokens": n_tokens,
            "batch_size": batch_size,
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
            "revision": revision,
            "threads": threads,
            "allow_seen": allow_seen,
        }
    )
    from raylens_jobs.evaluate import run_evaluate

    workspace = Files.open(state_of(context).workspace)
    recorded = DenseRecord.open(*record_place(activations, workspace)) if activations else None
    place, folder = record_place(sae, workspace, kind="saes")
    ref = place.native(folder) if place is workspace and place.exists(f"{folder}/cfg.json") else sae
    with progress("evaluating", n_tokens, unit="tokens") as bar:
        result = run_evaluate(ref, config, recorded, report=lambda done: bar(min(done, n_tokens)))
    if as_json:
        print_json(result)
        return
    _show(result)


def _hooks(layers: list[int] | None, hooks: list[str] | None) -> tuple[str, ...]:
    named = (*(f"resid_post.{layer}" for layer in layers or ()), *(hooks or ()))
    if not named:
        raise InputError("no layer was named.", hint="add --layer N (resid_post of that block), or --hook POINT.")
    return named


def _journal(workspace: Workspace, kind: str, config: Mapping[str, object], out: str) -> RunJournal:
    return RunJournal.start(workspace.files, kind, {**config, "out": out})


_ROWS = (
    ("fvu", "FVU: fraction of variance unexplained", "{:.4f}"),
    ("explained_variance", "explained variance", "{:.4f}"),
    ("mse", "mean squared error", "{:.5g}"),
    ("l0", "L0: active latents a token", "{:.2f}"),
    ("ce_recovered", "CE loss recovered", "{:.4f}"),
    ("kl_recovered", "KL recovered", "{:.4f}"),
    ("ce_clean", "CE loss, clean (nats)", "{:.4f}"),
    ("ce_sae", "CE loss, reconstructed", "{:.4f}"),
    ("ce_zero", "CE loss, zeroed", "{:.4f}"),
    ("dead_fraction", "dead latents", "{:.2%}"),
    ("dense_fraction_1pct", "latents on > 1 % of tokens", "{:.2%}"),
    ("dense_fraction_10pct", "latents on > 10 % of tokens", "{:.2%}"),
    ("decoder_max_cosine", "mean largest cosine, decoder", "{:.3f}"),
    ("encoder_max_cosine", "mean largest cosine, encoder", "{:.3f}"),
)


def _show(result: Mapping[str, Any]) -> None:
    rows = []
    for key, title, form in _ROWS:
        found = result.get(key)
        if found is None:
            continue
        value = found["value"] if isinstance(found, Mapping) else found
        bounds = isinstance(found, Mapping) and found["low"] is not None
        interval = f"{form.format(found['low'])} … {form.format(found['high'])}" if bounds else ""
        rows.append({"measure": title, "value": form.format(value), "95 % interval": interval})
    seen = {True: "held out", False: "SEEN IN TRAINING", None: "not known whether seen in training"}[result["held_out"]]
    print_text(
        f"{result['sae']} on {result['hook']} of {result['model']}: {result['n_tokens']:,} tokens of "
        f"{result['n_documents']:,} documents ({', '.join(result['texts'])}; {seen})"
    )
    print_table(rows, ["measure", "value", "95 % interval"])
