"""``raylens score``: how well explanations say what features mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from raylens.errors import InputError
from raylens_app.cli import chat_options as chat
from raylens_app.cli.output import print_json, print_text
from raylens_app.cli.passes import one_sae, print_notes, run_score
from raylens_app.cli.score_card import print_card, score_card
from raylens_app.cli.state import Address, RunId, state_of

if TYPE_CHECKING:
    from raylens.store.findings import Findings
    from raylens.store.selection import Readable


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("score", rich_help_panel="Explain")(score)


def score(
    context: typer.Context,
    sae: Annotated[str | None, typer.Option("--sae", "-s", help="Which SAE, if the cache holds several.")] = None,
    cache: Annotated[str | None, typer.Option(help="Which cache: its id, how it begins, or its name.")] = None,
    explanations: Annotated[
        str | None,
        typer.Option(
            "--pass",
            help="Which explanations: the pass_id that explain printed. Default: the last that has any.",
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="rule and embedding ask nobody; detection, fuzz, recall, simulation, surprisal, intruder and concept "
            "ask a language model; again for more. Default: rule and embedding."
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
    address: Address = None,
    run_id: RunId = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure explanations on excerpts of documents that their explainer did not see, and print the score card.

    Each feature is also scored with the explanation of another (control: shuffled), which shows what chance gives.
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
    one = one_sae(workspace, cache, sae)
    known = passes(workspace.cache(one.cache_id), one.sae, "explanations")
    chosen = last_explained(passes_named(known, explanations, one), feature)
    examples = chosen.settings["examples"]
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
    figures = run_score(workspace, chosen, config, asked, run_id)
    card = score_card(workspace, one, figures["pass_id"])
    if as_json:
        print_json({**figures, "card": card["figures"], **{k: card[k] for k in ("aggregates", "by_density")}})
        return
    print_text(
        f"{figures['features_total']:,} explanations of {one.sae} in cache {one.cache_id}, on held-out documents"
    )
    print_card(card)
    print_notes(figures)


def passes_named(known: Sequence[Findings], explanations: str | None, one: Readable) -> Sequence[Findings]:
    """Passes whose id begins so, which must name one of them; all where none is named."""
    found = [each for each in known if explanations is None or each.pass_id.startswith(explanations)]
    if not found:
        what = f"has no explanations of pass {explanations}" if explanations else "has not been explained"
        raise InputError(f"{one.sae} {what} in cache {one.cache_id}.", hint="run raylens explain first.")
    if explanations is not None and len({each.pass_id for each in found}) > 1:
        raise InputError(
            f"--pass {explanations} is the beginning of {len(found)} passes.",
            hint=f"name one: {', '.join(each.pass_id for each in found)}.",
        )
    return found


def last_explained(found: Sequence[Findings], features: Collection[int] | None) -> Findings:
    """The last pass that explained any of these features: an endpoint that was down leaves one that holds nothing."""
    for each in reversed(found):
        rows = each.each(["feature", "status"])
        if any(row["status"] == "ok" and (not features or row["feature"] in features) for row in rows):
            return each
    return found[-1]
