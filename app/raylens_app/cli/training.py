"""``raylens record`` (and ``trace``), ``train`` and ``evaluate``: making SAEs, and judging them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylens.errors import InputError, UnknownNameError
from raylens_app.cli.output import data_size, duration, note, print_json, print_table, print_text, progress
from raylens_app.cli.state import Address, state_of

if TYPE_CHECKING:
    from raylens.store.files import Files

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
    layer: Annotated[
        list[int] | None, typer.Option(min=0, help="resid_post of this block (from 0); again for more.")
    ] = None,
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
    ctx_len: Annotated[int, typer.Option(min=4, help="Tokens per window, BOS included.")] = 256,
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
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Record a model's dense activations over text, as Parquet, for training SAEs.

    A rerun makes only what is missing; raising --max-samples adds to what is there.
    """
    from raylens.config import RecordConfig
    from raylens.store.dense import record_place
    from raylens.store.files import Files
    from raylens.store.runs import RunJournal

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

    state = state_of(context)
    files, folder = record_place(out, Files.open(state.workspace))
    plan = plan_record(config)  # before there is a workspace: bad input leaves nothing behind
    workspace = state.open_workspace(create=True)
    with RunJournal.start(workspace.files, "record", {**config.model_dump(mode="json"), "out": out}) as journal:
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
    one = f" --hook {plan.hooks[0]}" if len(plan.hooks) > 1 else ""
    print_text(f"next: raylens{state.workspace_option()} train --activations {shlex.quote(out)}{one} --out my-sae")


def train(
    context: typer.Context,
    activations: Annotated[str, typer.Option("--activations", "-a", help="What record --out named.")],
    out: Annotated[str, typer.Option("--out", "-o", help="A name in the workspace, or a folder (with / or .).")],
    layer: Annotated[
        int | None, typer.Option(min=0, help="Which layer (resid_post), if several were recorded.")
    ] = None,
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
    batch_size: Annotated[int, typer.Option(min=2, help="Tokens per step.")] = 1024,
    warmup_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of steps over which learning rate and penalty rise.")
    ] = 0.05,
    decay_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of steps, at the end, over which the learning rate falls.")
    ] = 0.5,
    aux_coef: Annotated[float, typer.Option(min=0, help="Weight of the loss that revives dead latents.")] = 1.0,
    dead_after: Annotated[
        int, typer.Option(min=1, help="Tokens without firing after which a latent counts as dead.")
    ] = 500_000,
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
    from raylens.config import TrainConfig
    from raylens.store.dense import DenseRecord, record_place
    from raylens.store.files import Files
    from raylens.store.runs import RunJournal

    if steps is not None and tokens is not None:
        raise InputError("--steps and --tokens say the same thing.", hint="give one of them.")
    config = TrainConfig.of(
        {
            "hook": _hook(layer, hook),
            "architecture": architecture,
            "d_sae": width,
            "k": k,
            "sparsity_coef": sparsity_coef,
            "learning_rate": lr,
            "tokens": steps * batch_size if steps else tokens or TrainConfig.model_fields["tokens"].default,
            "batch_size": batch_size,
            "warmup_share": warmup_share,
            "decay_share": decay_share,
            "aux_coef": aux_coef,
            "dead_after": dead_after,
            "seed": seed,
            "device": device,
            "threads": threads,
            "autocast": autocast,
            "weights_dtype": weights_dtype,
            "checkpoint_steps": checkpoint_steps,
            "buffer_bytes": buffer_mb * 2**20,
        }
    )
    state = state_of(context)
    root = Files.open(state.workspace)
    recorded = DenseRecord.open(*record_place(activations, root))
    files, folder = record_place(out, root, kind="saes")
    from raylens_jobs.train import check_train, run_train

    check_train(config, recorded, files, folder, address=address)
    workspace = state.open_workspace(create=True)
    asked = {**config.model_dump(mode="json"), "activations": activations, "out": out}
    with RunJournal.start(workspace.files, "train", asked) as journal:
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
    if address is None and not bar.done:
        note("it was trained to its end before: nothing was done, and these are the figures of then.")
    if as_json:
        print_json(figures)
        return
    print_text(
        f"trained on {figures['tokens']:,} tokens in {duration(figures['seconds'])}: on them FVU {figures['fvu']:.4f}, "
        f"L0 {figures['l0']:.1f}, {figures['dead']} latents dead"
    )
    # Held-out text of the embedded model is known; of any other the user must say.
    text = "" if recorded.info.model == "raylens/pico" else " --text SOURCE"
    model = shlex.quote(recorded.info.model)
    print_text(f"next: raylens evaluate --sae-path {shlex.quote(figures['out'])} --model {model}{text}")


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
    layer: Annotated[int | None, typer.Option(min=0, help="Read resid_post of this block instead.")] = None,
    hook: Annotated[str | None, typer.Option(help="Read this hook point, not the one in the SAE's config.")] = None,
    n_tokens: Annotated[int, typer.Option(min=1, help="Text tokens to evaluate on.")] = 100_000,
    ctx_len: Annotated[int | None, typer.Option(min=4, help="Tokens per window. Default: as in training.")] = None,
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
    from raylens.config import EvaluateConfig
    from raylens.store.dense import DenseRecord, record_place
    from raylens.store.files import Files

    if activations is not None and (text or model):
        other = "--text" if text else "--model"
        raise InputError(
            f"--activations and {other} are two different inputs.",
            hint="give --activations for reconstruction alone, or --model and --text for losses too.",
        )
    if activations is None and model is None:
        what = "--text needs a model to run through" if text else "there is nothing to evaluate on"
        raise InputError(f"{what}.", hint="give --model (and --text), or --activations.")
    config = EvaluateConfig.of(
        {
            **({"model": model} if model else {}),
            "texts": tuple(text or ()),
            "column": column,
            "ctx_len": ctx_len,
            "hook": _hook(layer, hook),
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
    root = Files.open(state_of(context).workspace)
    recorded = DenseRecord.open(*record_place(activations, root)) if activations is not None else None
    ref = _sae_place(sae, root)
    from raylens_jobs.evaluate import run_evaluate

    with progress("evaluating", n_tokens, unit="tokens") as bar:
        result = run_evaluate(ref, config, recorded, report=lambda done: bar(min(done, n_tokens)))
    _say_of_other_model(result)
    if as_json:
        print_json(result)
        return
    _show(result)


def _hooks(layers: list[int] | None, hooks: list[str] | None) -> tuple[str, ...]:
    named = (*(f"resid_post.{layer}" for layer in layers or ()), *(hooks or ()))
    if not named:
        raise InputError("no layer was named.", hint="add --layer N (resid_post of that block), or --hook POINT.")
    return named


def _hook(layer: int | None, hook: str | None) -> str | None:
    if layer is not None and hook is not None:
        raise InputError("--layer and --hook both name a point.", hint="give one of them.")
    return hook if layer is None else f"resid_post.{layer}"


def _sae_place(sae: str, root: Files) -> str:
    """What ``load_sae`` takes for ``sae``: a plain name is one of the workspace's SAEs, or a folder here."""
    from raylens.store.dense import record_place

    place, folder = record_place(sae, root, kind="saes")
    if place.exists(f"{folder}/cfg.json" if folder else "cfg.json"):
        return place.native(folder)
    if place.exists(f"{folder}/training/settings.json" if folder else "training/settings.json"):
        raise InputError(
            f"the training of {place.native(folder)} has not come to its end.",
            hint="give the same raylens train command again: it goes on from its last checkpoint.",
        )
    if place is root and not Path(sae).exists():
        names = [name for name in root.folders("saes") if root.exists(f"saes/{name}/cfg.json")]
        raise UnknownNameError.among("SAE of the workspace", sae, names, hint="Or write a folder, or release/id.")
    return sae


def _say_of_other_model(result: Mapping[str, Any]) -> None:
    from raylens.catalog.lookup import built_in

    trained_on, model = result["trained_on_model"], result["model"]
    one_name = built_in().aliases.canonical
    if trained_on and one_name(trained_on) != one_name(model):
        note(
            f"{result['sae']} was trained on another model, {trained_on}: what is measured is how far it fits {model}."
        )


_ROWS = (
    ("fvu", "FVU: fraction of variance unexplained", "{:.4f}"),
    ("explained_variance", "explained variance", "{:.4f}"),
    ("mse", "mean squared error", "{:.5g}"),
    ("l0", "L0: active latents a token", "{:.2f}"),
    ("ce_recovered", "CE loss recovered", "{:.4f}"),
    ("kl_recovered", "KL recovered", "{:.4f}"),
    ("kl_sae", "KL from the model's own predictions (nats)", "{:.4f}"),
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
