"""``raylens explain`` and ``raylens score``: what features mean, and how well that is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from raylens.errors import InputError
from raylens_app.cli import chat_options as chat
from raylens_app.cli.output import Progress, duration, note, print_json, print_text, progress
from raylens_app.cli.score_card import print_card, score_card
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.config import ExplainConfig, ScoreConfig
    from raylens.llm.settings import ChatSettings
    from raylens.store.findings import Findings
    from raylens.store.workspace import Workspace
    from raylens_app.cli.selection import Readable
    from raylens_jobs.passes import Progress as PassProgress

_PANEL: Final = "Explain"
_EXAMPLES: Final = "Examples"

ExplainerName = Literal["lexical", "default", "contrastive", "cot", "logits"]
SamplingName = Literal["quantiles", "top", "random", "mix"]
SourceName = Literal["random", "faiss", "neighbours"]
NeighboursName = Literal["co-occurrence", "decoder", "encoder"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("explain", rich_help_panel=_PANEL)(explain)
    app.command("score", rich_help_panel=_PANEL)(score)


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
    address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
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
    if asked is not None and config.explainer == "lexical":
        raise InputError(
            "the lexical explainer asks nobody, and --explainer-model names a model.",
            hint="add --explainer default, or leave the model out.",
        )
    workspace = state_of(context).open_workspace()
    one = _one_sae(workspace, cache, sae)
    figures = run_explain(workspace, one, config, asked)
    if as_json:
        print_json(figures)
        return
    counts = [f"{count:,} {_STATUS.get(status, status)}" for status, count in sorted(figures["statuses"].items())]
    if figures["unanswered"]:
        counts.append(f"{figures['unanswered']:,} unanswered, which a rerun asks about again")
    print_text(
        f"{figures['features']:,} features of {one.sae} in {duration(figures['seconds'])}"
        + (f": {', '.join(counts)}" if counts else "; nothing was missing")
    )
    print_usage(figures)
    print_text(f"next: raylens{state_of(context).workspace_option()} score --sae {one.sae} --cache {one.cache_id}")


def score(
    context: typer.Context,
    sae: Annotated[str | None, typer.Option("--sae", "-s", help="Which SAE, if the cache holds several.")] = None,
    cache: Annotated[str | None, typer.Option(help="Which cache: its id, how it begins, or its name.")] = None,
    explanations: Annotated[
        str | None,
        typer.Option("--pass", help="Which explanations: the pass_id that explain printed. Default: the last."),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="rule and embedding ask nobody; detection, fuzz, recall, simulation, intruder and surprisal ask a "
            "language model; again for more. Default: rule and embedding."
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(help="The language model: its name at the endpoint, or a folder.", rich_help_panel=chat.PANEL),
    ] = None,
    provider: chat.Provider = None,
    base_url: chat.BaseUrl = None,
    num_examples_per_scorer_prompt: Annotated[
        int, typer.Option(min=1, help="Excerpts in one question.", rich_help_panel=chat.PANEL)
    ] = 5,
    log_probs: Annotated[
        bool, typer.Option("--log-probs/--no-log-probs", help="Ask for probabilities: AUC.", rich_help_panel=chat.PANEL)
    ] = False,
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
    n_examples_test: Annotated[int, typer.Option(min=1, help="Activating excerpts to test on.")] = 50,
    n_non_activating: Annotated[int, typer.Option(min=1, help="Silent excerpts beside them.")] = 50,
    domain: Annotated[
        str | None,
        typer.Option(help="Glob over documents' domain or path: how much more features fire on those that match."),
    ] = None,
    shuffled: Annotated[
        bool,
        typer.Option("--shuffled/--no-shuffled", help="Also score another feature's explanation: what chance gives."),
    ] = True,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure explanations on excerpts of documents that their explainer did not see, and print the score card.

    Each is also scored on another feature's excerpts (control: shuffled), which shows what chance gives.
    """
    from raylens.config import ScoreConfig
    from raylens.store.findings import passes

    asked = chat.chat_settings(
        judge_model,
        "--judge-model",
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
    workspace = state_of(context).open_workspace()
    one = _one_sae(workspace, cache, sae)
    known = passes(workspace.cache(one.cache_id), one.sae, "explanations")
    found = [each for each in known if explanations is None or each.pass_id.startswith(explanations)]
    if not found:
        what = f"has no explanations of pass {explanations}" if explanations else "has not been explained"
        raise InputError(f"{one.sae} {what} in cache {one.cache_id}.", hint="run raylens explain first.")
    examples = found[-1].settings["examples"]
    config = ScoreConfig.of(
        {
            # As they were explained, but for how many: an excerpt of another length is another question.
            **(examples if isinstance(examples, Mapping) else {}),
            "features": tuple(feature) if feature else None,
            "n_examples_test": n_examples_test,
            "n_non_activating": n_non_activating,
            "num_examples_per_scorer_prompt": num_examples_per_scorer_prompt,
            "log_probs": log_probs,
            "prompt_dir": prompt_dir,
            "domain": domain,
            "shuffled": shuffled,
            "address": address,
            **({"scorers": tuple(scorer)} if scorer else {}),
        }
    )
    figures = run_score(workspace, found[-1], config, asked)
    card = score_card(workspace, one, figures["pass_id"])
    if as_json:
        print_json({**figures, "card": card["figures"], **{k: card[k] for k in ("aggregates", "by_density")}})
        return
    print_text(
        f"{figures['features_total']:,} explanations of {one.sae} in cache {one.cache_id}, on held-out documents"
    )
    print_card(card)
    print_usage(figures)


def run_explain(
    workspace: Workspace, one: Readable, config: ExplainConfig, asked: ChatSettings | None = None
) -> dict[str, Any]:
    """Explain under a run record, with progress; returns the run's figures."""
    from raylens.store.runs import RunJournal
    from raylens_jobs.explain import run_explain as run

    settings = {**config.model_dump(mode="json"), "sae": str(one.sae), **_asked(asked)}
    with RunJournal.start(workspace.files, "explain", settings, cache_id=one.cache_id) as journal:
        note(f"run {journal.run_id}: starting Ray")
        with progress("explaining", None, unit="features") as bar:
            figures = run(config, workspace, one.cache_id, one.sae, journal, _reporting(bar), asked)
        journal.finish(figures)
    return figures


def run_score(
    workspace: Workspace, explanations: Findings, config: ScoreConfig, asked: ChatSettings | None = None
) -> dict[str, Any]:
    """Score under a run record, with progress; returns the run's figures."""
    from raylens.store.runs import RunJournal
    from raylens_jobs.score import run_score as run

    settings = {**config.model_dump(mode="json"), "sae": str(explanations.sae), "explanations": explanations.pass_id}
    cache_id = explanations.cache.cache_id
    with RunJournal.start(workspace.files, "score", {**settings, **_asked(asked)}, cache_id=cache_id) as journal:
        note(f"run {journal.run_id}: starting Ray")
        with progress("scoring", None, unit="features") as bar:
            figures = run(config, workspace, explanations, journal, _reporting(bar), asked)
        journal.finish(figures)
    return figures


def _asked(asked: ChatSettings | None) -> dict[str, Any]:
    return {} if asked is None else {"asked": asked.model_dump(mode="json", exclude_none=True)}


def _reporting(bar: Progress) -> Callable[[PassProgress], None]:
    return lambda p: bar(p.features, p.features_wanted or None, p.note or chat.spending(p.usage))


def print_usage(figures: Mapping[str, Any]) -> None:
    """What a language model was asked, what that cost, and why items went unanswered; nothing where none was asked."""
    usage = figures.get("usage")
    if usage is None:
        return
    text = f"asked {usage['calls']:,} times ({usage['retries']:,} retries)"
    if usage["cached"]:
        text += f", {usage['cached']:,} answers from the cache"
    text += f", {usage['prompt_tokens']:,} + {usage['completion_tokens']:,} tokens"
    if usage["usd"] or usage["lost_usd"]:
        text += f", ${usage['usd'] + usage['lost_usd']:,.4f}"
    print_text(text)
    for reason, count in figures.get("lost", {}).items():
        print_text(f"unanswered: {count:,} items, {reason}")


_STATUS: Final = {
    "ok": "explained",
    "not_found": "without a rule",
    "failed": "without a readable answer",
    "dead": "dead",
    "too_few": "with too few excerpts",
    "one_sided": "in documents of one half only",
}


def _one_sae(workspace: Workspace, cache: str | None, sae: str | None) -> Readable:
    from raylens_app.cli.selection import of_sae, readables

    found = readables(workspace, cache)
    if sae is not None:
        found = of_sae(found, sae)
    newest = [one for one in found if one.cache_id == found[-1].cache_id]
    if len(newest) > 1:
        raise InputError(
            f"cache {newest[0].cache_id} holds {len(newest)} SAEs.",
            hint=f"add --sae with one of {', '.join(str(one.sae) for one in newest)}.",
        )
    return newest[0]
