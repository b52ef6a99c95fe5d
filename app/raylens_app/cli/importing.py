"""``raylens import``: caches and explanations that other pipelines, or colleagues, made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raylens.errors import InputError
from raylens_app.cli.output import duration, note, print_json, print_text, progress
from raylens_app.cli.state import state_of


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(no_args_is_help=True, help="Read what others made: caches, explanations, scores.")
    group.command("delphi")(delphi)
    group.command("features")(features)
    app.add_typer(group, name="import", rich_help_panel="Make")


def delphi(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A delphi run's folder, or its latents folder.")],
    hookpoint: Annotated[
        list[str] | None, typer.Option(help="Only this hookpoint; again for more. Default: all.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", "--model", "-m", help="Folder, hub id or raylens/pico. Default: what the run names."
        ),
    ] = None,
    sae: Annotated[
        str | None, typer.Option("--sae", "-s", help="The SAE's id, to say that it is one you know: release/id.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name to call the cache by.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Import the latents that EleutherAI's delphi cached, with its explanations and scores.

    They become a cache like any other: raylens features, feature, sql, explain and score work on it. Logits and
    neighbours need the SAE's weights and stay out. Running it again changes nothing.
    """
    from raylens.store.runs import RunJournal
    from raylens_jobs.delphi_plan import plan_import
    from raylens_jobs.import_delphi import run_import

    plan = plan_import(folder, hookpoints=hookpoint, tokenizer=tokenizer, sae=sae, name=name)
    workspace = state_of(context).open_workspace(create=True)
    settings = {"from": "delphi", "folder": folder.name, "hookpoints": [one.name for one in plan.run.hookpoints]}
    with RunJournal.start(workspace.files, "import", settings, cache_id=plan.cache_id) as journal:
        with progress("importing", None, unit="blocks") as bar:
            figures = run_import(plan, workspace, journal, bar)
        journal.finish(figures)
    if as_json:
        print_json({"run_id": journal.run_id, **figures})
        return
    print_text(
        f"cache {plan.cache_id}: {figures['tokens']:,} tokens in {figures['windows']:,} windows, "
        f"{figures['activations']:,} activations of {', '.join(figures['saes'])}, in {duration(figures['seconds'])}"
    )
    scores = "".join(f", {count:,} scored by {scorer}" for scorer, count in figures["scores"].items())
    print_text(f"{figures['explanations']:,} explanations{scores}")
    if figures["clipped"]:
        note(
            f"{figures['clipped']:,} activations were infinite: above 65504, which float16 cannot hold. "
            "They are stored as 65504."
        )
    if figures["dropped"]:
        note(f"{figures['dropped']:,} negative activations were left out: a feature fires above 0.")
    if figures["unparsed"]:
        note(f"{figures['unparsed']:,} explanations could not be parsed by delphi and are stored as failed, unscored.")
    if figures["unknown_scores"]:
        note(f"left out, because their form does not say what was asked: {', '.join(figures['unknown_scores'])}.")
    print_text(f"next: raylens{state_of(context).workspace_option()} features --cache {plan.cache_id}")


def features(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What raylens export features made, in either format.")],
    name: Annotated[str | None, typer.Option(help="A name to call the cache by.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Import a colleague's analysis of features: a cache of its own, which raylens features, feature and sql show.

    Every row is checked before anything is written. Nothing of this workspace is overwritten: where a cache of your
    own holds the same SAE, --cache says which is meant. Running it again changes nothing.
    """
    from raylens.labels.analysis_pages import is_pages, load_pages
    from raylens.store.analysis_cache import write_to_cache
    from raylens.store.analysis_files import load_parquet
    from raylens.store.runs import RunJournal

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.", hint="name one that raylens export features made.")
    analysis = load_pages(folder) if is_pages(folder) else load_parquet(folder)
    workspace = state_of(context).open_workspace(create=True)
    with RunJournal.start(workspace.files, "import", {"from": "features", "folder": folder.name}) as journal:
        cache, is_new = write_to_cache(workspace, analysis, journal.run_id, name)
        tables = analysis.tables
        figures = {
            "cache_id": cache,
            "new": is_new,
            "sae": analysis.header.sae,
            "features": analysis.header.d_sae,
            "windows": tables["windows"].num_rows,
            "explanations": tables["explanations"].num_rows,
            "scores": tables["scores"].num_rows,
        }
        journal.finish(figures)
    if as_json:
        print_json({"run_id": journal.run_id, **figures})
        return
    if not is_new:
        print_text(f"cache {cache} holds it already")
        return
    print_text(
        f"cache {cache}: {figures['features']:,} features of {figures['sae']}, {figures['windows']:,} windows, "
        f"{figures['explanations']:,} explanations, {figures['scores']:,} scores"
    )
    note(f"raylens features --cache {cache}")
