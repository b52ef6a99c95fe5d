"""``raylens explain`` and ``raylens score``: what features mean, and how well that is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError
from raylens_app.cli.output import Column, duration, note, print_json, print_table, print_text, progress
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.config import ExplainConfig, ScoreConfig
    from raylens.store.findings import Findings
    from raylens.store.workspace import Workspace
    from raylens_app.cli.selection import Readable

_PANEL: Final = "Explain"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("explain", rich_help_panel=_PANEL)(explain)
    app.command("score", rich_help_panel=_PANEL)(score)


def explain(
    context: typer.Context,
    sae: Annotated[str | None, typer.Option("--sae", "-s", help="Which SAE, if the cache holds several.")] = None,
    cache: Annotated[str | None, typer.Option(help="Which cache: its id, how it begins, or its name.")] = None,
    explainer: Annotated[str, typer.Option(help="lexical: a phrase and a rule, without a language model.")] = "lexical",
    feature: Annotated[list[int] | None, typer.Option(help="Feature number; again for more. Default: all.")] = None,
    max_latents: Annotated[int | None, typer.Option(min=1, help="Explain at most so many.")] = None,
    example_ctx_len: Annotated[int, typer.Option(help="Tokens of an excerpt.")] = 32,
    center_examples: Annotated[
        bool, typer.Option("--center-examples/--no-center-examples", help="Put the peak at three quarters.")
    ] = True,
    sampling: Annotated[str, typer.Option(help="quantiles, top, random or mix.")] = "quantiles",
    n_examples_train: Annotated[int, typer.Option(min=1, help="Excerpts that the explainer sees.")] = 40,
    n_non_activating: Annotated[int, typer.Option(min=0, help="Silent ones beside them.")] = 50,
    min_examples: Annotated[int, typer.Option(min=1, help="Skip a feature that fires in fewer.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the split by document, and of every choice.")] = 22,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say what features mean, from excerpts of one half of the documents; raylens score uses the other.

    A rerun explains what is missing. Explanations appear in raylens feature and in the view explanations.
    """
    from raylens.config import ExplainConfig

    config = ExplainConfig.of(
        {
            "explainer": explainer,
            "features": tuple(feature) if feature else None,
            "max_latents": max_latents,
            "example_ctx_len": example_ctx_len,
            "center_examples": center_examples,
            "sampling": sampling,
            "n_examples_train": n_examples_train,
            "n_non_activating": n_non_activating,
            "min_examples": min_examples,
            "seed": seed,
            "address": address,
        }
    )
    workspace = state_of(context).open_workspace()
    one = _one_sae(workspace, cache, sae)
    figures = run_explain(workspace, one, config)
    if as_json:
        print_json(figures)
        return
    counts = ", ".join(
        f"{count:,} {_STATUS.get(status, status)}" for status, count in sorted(figures["statuses"].items())
    )
    print_text(
        f"{figures['features']:,} features of {one.sae} in {duration(figures['seconds'])}"
        + (f": {counts}" if counts else "; nothing was missing")
    )
    print_text(f"next: raylens{state_of(context).workspace_option()} score --sae {one.sae} --cache {one.cache_id}")


def score(
    context: typer.Context,
    sae: Annotated[str | None, typer.Option("--sae", "-s", help="Which SAE, if the cache holds several.")] = None,
    cache: Annotated[str | None, typer.Option(help="Which cache: its id, how it begins, or its name.")] = None,
    explanations: Annotated[
        str | None,
        typer.Option("--pass", help="Which explanations: the pass_id that explain printed. Default: the last."),
    ] = None,
    scorer: Annotated[list[str] | None, typer.Option(help="rule or embedding; again for more. Default: both.")] = None,
    n_examples_test: Annotated[int, typer.Option(min=1, help="Activating excerpts to test on.")] = 50,
    n_non_activating: Annotated[int, typer.Option(min=1, help="Silent excerpts beside them.")] = 50,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure explanations on excerpts of documents that their explainer did not see, and print the score card.

    Each is also scored on another feature's excerpts (control: shuffled), which shows what chance gives.
    """
    from raylens.config import ScoreConfig
    from raylens.store.findings import passes

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
            "n_examples_test": n_examples_test,
            "n_non_activating": n_non_activating,
            "address": address,
            **({"scorers": tuple(scorer)} if scorer else {}),
        }
    )
    figures = run_score(workspace, found[-1], config)
    card = score_card(workspace, one, figures["pass_id"])
    if as_json:
        print_json({**figures, "card": card})
        return
    print_text(
        f"{figures['features_total']:,} explanations of {one.sae} in cache {one.cache_id}, on held-out documents"
    )
    print_card(card)


def run_explain(workspace: Workspace, one: Readable, config: ExplainConfig) -> dict[str, Any]:
    """Explain under a run record, with progress; returns the run's figures."""
    from raylens.store.runs import RunJournal
    from raylens_jobs.explain import run_explain as run

    settings = {**config.model_dump(mode="json"), "sae": str(one.sae)}
    with RunJournal.start(workspace.files, "explain", settings, cache_id=one.cache_id) as journal:
        note(f"run {journal.run_id}: starting Ray")
        with progress("explaining", None, unit="features") as bar:
            figures = run(
                config, workspace, one.cache_id, one.sae, journal, lambda p: bar(p.features, p.features_wanted)
            )
        journal.finish(figures)
    return figures


def run_score(workspace: Workspace, explanations: Findings, config: ScoreConfig) -> dict[str, Any]:
    """Score under a run record, with progress; returns the run's figures."""
    from raylens.store.runs import RunJournal
    from raylens_jobs.explain import run_score as run

    settings = {**config.model_dump(mode="json"), "sae": str(explanations.sae), "explanations": explanations.pass_id}
    with RunJournal.start(workspace.files, "score", settings, cache_id=explanations.cache.cache_id) as journal:
        note(f"run {journal.run_id}: starting Ray")
        with progress("scoring", None, unit="features") as bar:
            figures = run(config, workspace, explanations, journal, lambda p: bar(p.features, p.features_wanted))
        journal.finish(figures)
    return figures


def score_card(workspace: Workspace, one: Readable, pass_id: str) -> list[dict[str, Any]]:
    """One row a scorer and metric: the median over features, with its interval, beside that of the control."""
    from raylens.score.aggregate import median
    from raylens.store.findings import passes

    cache = workspace.cache(one.cache_id)
    scores = next(each for each in passes(cache, one.sae, "scores") if each.pass_id == pass_id).read().to_pylist()
    values: dict[tuple[str, str], dict[str | None, list[float | None]]] = {}
    for row in scores:
        values.setdefault((row["scorer"], row["metric"]), {}).setdefault(row["control"], []).append(row["value"])
    card: list[dict[str, Any]] = []
    for (scorer, metric), by_control in values.items():
        own, control = (median(metric, by_control.get(key, [])) for key in (None, "shuffled"))
        card.append(
            {
                "scorer": scorer,
                "metric": metric,
                "median": own.value,
                "ci_low": own.ci_low,
                "ci_high": own.ci_high,
                "n": own.n,
                "n_without_value": own.n_failed,
                "shuffled": control.value,
            }
        )
    return card


def print_card(card: Sequence[Mapping[str, Any]]) -> None:
    """The card as a table."""

    def shown(value: object) -> str:
        return "–" if value is None else f"{value:.3f}"

    rows = [
        {
            **row,
            "interval": f"{shown(row['ci_low'])} … {shown(row['ci_high'])}",
            "median": shown(row["median"]),
            "shuffled": shown(row["shuffled"]),
        }
        for row in card
    ]
    columns = [
        Column("scorer"),
        Column("metric"),
        Column("median", align="right"),
        Column("interval", title="95 % interval"),
        Column("n", title="features", align="right"),
        Column("shuffled", title="shuffled", align="right"),
    ]
    print_table(rows, columns)


_STATUS: Final = {
    "ok": "explained",
    "not_found": "without a rule",
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
