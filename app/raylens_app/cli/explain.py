"""``raylens explain``: what features mean."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import typer

from raylens_app.cli import chat_options as chat
from raylens_app.cli.output import duration, print_json, print_text
from raylens_app.cli.passes import one_sae, print_notes, run_explain
from raylens_app.cli.state import Address, RunId, state_of

_EXAMPLES: Final = "Examples"

ExplainerName = Literal["lexical", "default", "contrastive", "cot", "logits"]
SamplingName = Literal["quantiles", "top", "random", "mix"]
SourceName = Literal["random", "faiss", "neighbours"]
NeighboursName = Literal["co-occurrence", "decoder", "encoder"]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("explain", rich_help_panel="Explain")(explain)


def explain(
    context: typer.Context,
    sae: Annotated[str | None, typer.Option("--sae", "-s", help="Which SAE, if the cache holds several.")] = None,
    cache: Annotated[str | None, typer.Option(help="Which cache: its id, how it begins, or its name.")] = None,
    explainer: Annotated[
        ExplainerName,
        typer.Option(
            help="lexical: a phrase and a rule, asking nobody. The others ask a language model: default; contrastive, "
            "which also shows silent excerpts; cot, which thinks aloud first; logits, which also shows promoted tokens."
        ),
    ] = "lexical",
    explainer_model: Annotated[
        str | None,
        typer.Option(help="The language model: its name at the endpoint, or a folder.", rich_help_panel=chat.PANEL),
    ] = None,
    provider: chat.Provider = None,
    base_url: chat.BaseUrl = None,
    explainer_model_max_len: Annotated[
        int,
        typer.Option(min=256, help="Tokens of its context; longer requests are trimmed.", rich_help_panel=chat.PANEL),
    ] = 5120,
    prompt_dir: chat.PromptDir = None,
    quantization: chat.Quantization = None,
    max_concurrency: chat.Concurrency = None,
    requests_per_minute: chat.Rate = None,
    timeout: chat.Timeout = None,
    budget_usd: chat.BudgetUsd = None,
    prompt_price: chat.PromptPrice = None,
    answer_price: chat.AnswerPrice = None,
    max_calls: chat.MaxCalls = None,
    feature: Annotated[list[int] | None, typer.Option(help="Feature number; again for more. Default: all.")] = None,
    max_latents: Annotated[int | None, typer.Option(min=1, help="Explain at most so many.")] = None,
    example_ctx_len: Annotated[int, typer.Option(help="Tokens of an excerpt.", rich_help_panel=_EXAMPLES)] = 32,
    center_examples: Annotated[
        bool,
        typer.Option(
            "--center-examples/--no-center-examples", help="Put the peak at three quarters.", rich_help_panel=_EXAMPLES
        ),
    ] = True,
    sampling: Annotated[
        SamplingName, typer.Option(help="How activating excerpts are drawn.", rich_help_panel=_EXAMPLES)
    ] = "quantiles",
    n_examples_train: Annotated[
        int, typer.Option(min=1, help="Excerpts that the explainer sees.", rich_help_panel=_EXAMPLES)
    ] = 40,
    n_non_activating: Annotated[
        int, typer.Option(min=0, help="Silent ones beside them.", rich_help_panel=_EXAMPLES)
    ] = 50,
    non_activating_source: Annotated[
        SourceName,
        typer.Option(
            help="Silent excerpts: random; faiss: those that read most like activating ones; neighbours: those in "
            "which a related feature fires.",
            rich_help_panel=_EXAMPLES,
        ),
    ] = "random",
    neighbours_type: Annotated[
        NeighboursName, typer.Option(help="Which features are related.", rich_help_panel=_EXAMPLES)
    ] = "co-occurrence",
    embedding_model: Annotated[
        str | None,
        typer.Option(
            help="sentence-transformers model that faiss compares text with: a name or a folder. Default: the bundled "
            "one.",
            rich_help_panel=_EXAMPLES,
        ),
    ] = None,
    min_examples: Annotated[
        int, typer.Option(min=1, help="Skip a feature that fires in fewer.", rich_help_panel=_EXAMPLES)
    ] = 200,
    seed: Annotated[int, typer.Option(help="Of the split by document, and of every choice.")] = 22,
    address: Address = None,
    run_id: RunId = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say what features mean, from excerpts of one half of the documents; raylens score uses the other.

    A rerun explains what is missing, and asks no question twice. Explanations appear in raylens feature and in
    the view explanations.
    """
    from raylens.config import ExplainConfig

    config = ExplainConfig.of(
        {
            "explainer": explainer,
            "max_model_len": explainer_model_max_len,
            "prompt_dir": prompt_dir,
            "features": tuple(feature) if feature else None,
            "max_latents": max_latents,
            "example_ctx_len": example_ctx_len,
            "center_examples": center_examples,
            "sampling": sampling,
            "n_examples_train": n_examples_train,
            "n_non_activating": n_non_activating,
            "non_activating_source": non_activating_source,
            "neighbours_type": neighbours_type,
            "embedding_model": embedding_model,
            "min_examples": min_examples,
            "seed": seed,
            "address": address,
        }
    )
    asked = chat.chat_settings(
        explainer_model,
        "--explainer-model",
        provider=provider,
        base_url=base_url,
        quantization=quantization,
        max_concurrency=max_concurrency,
        requests_per_minute=requests_per_minute,
        timeout_s=timeout,
        budget_usd=budget_usd,
        prompt_price=prompt_price,
        answer_price=answer_price,
        max_calls=max_calls,
    )
    chat.require_asking(config.explainer, asked)
    workspace = state_of(context).open_workspace()
    one = one_sae(workspace, cache, sae)
    figures = run_explain(workspace, one, config, asked, run_id)
    from raylens_jobs.explain_outcome import nothing_explained

    nothing = nothing_explained(figures)
    if as_json:
        print_json(figures)
        if nothing is not None:
            raise nothing
        return
    counts = [f"{count:,} {_STATUS.get(status, status)}" for status, count in sorted(figures["statuses"].items())]
    if figures["unanswered"]:
        counts.append(f"{figures['unanswered']:,} unanswered, which a rerun asks about again")
    print_text(
        f"{figures['features']:,} features of {one.sae} in {duration(figures['seconds'])}"
        + (f": {', '.join(counts)}" if counts else "; nothing was missing")
    )
    print_notes(figures)
    if nothing is not None:
        raise nothing
    place = f"--sae {one.sae} --cache {one.cache_id} --pass {figures['pass_id']}"
    print_text(f"next: raylens{state_of(context).workspace_option()} score {place}")


_STATUS: Final = {
    "ok": "explained",
    "not_found": "without a rule",
    "failed": "without a readable answer",
    "dead": "dead",
    "too_few": "with too few excerpts",
    "one_sided": "in documents of one half only",
}
