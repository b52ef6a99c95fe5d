"""``raylens export``: what a workspace says of features, as files for colleagues and other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from raylens.errors import InputError
from raylens_app.cli.output import print_json, print_text
from raylens_app.cli.state import state_of


class Format(StrEnum):
    """What files an analysis is written as."""

    PARQUET = "parquet"
    NEURONPEDIA = "neuronpedia"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(no_args_is_help=True, help="Write what is known of features as files, for colleagues.")
    group.command("features")(features)
    app.add_typer(group, name="export", rich_help_panel="Make")


def features(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")],
    sae: Annotated[
        str | None, typer.Option("--sae", "-s", metavar="SAE", help="Which; the end of its id will do.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(metavar="CACHE", help="Id, how it begins, or name. Default: the one merged last.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="Parquet tables, or Neuronpedia's export files (JSON lines, packed).")
    ] = Format.PARQUET,
    windows: Annotated[
        int, typer.Option("--windows", "-n", min=1, max=1000, help="Of each feature, the strongest.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Export all that a cache says of the features of an SAE: statistics, logits, windows, explanations and scores.

    raylens import features takes it in elsewhere. Parquet holds everything; Neuronpedia's files have no place for
    co-firing features, the map, and neighbours by encoder. What people said of features stays here.
    """
    from raylens.labels.analysis_pages import save_pages
    from raylens.labels.names import NeuronpediaId, local_source
    from raylens.store.analysis_cache import read_from_cache
    from raylens.store.analysis_files import save_parquet
    from raylens.store.selection import of_sae, readables

    if out.exists():
        raise InputError(f"{out} is there already.", hint="name a new folder.")
    workspace = state_of(context).open_workspace()
    found = readables(workspace, cache)
    last = [one for one in found if one.cache_id == found[-1].cache_id] if cache is None else found
    matching = of_sae(found if cache is None else last, sae)[-1:] if sae is not None else last
    if len(matching) != 1:
        listed = ", ".join(str(one.sae) for one in matching)
        raise InputError(f"the cache holds {len(matching)} SAEs.", hint=f"name one with --sae: {listed}.")
    (one,) = matching
    analysis = read_from_cache(workspace, one.cache_id, one.sae, windows)
    if form is Format.PARQUET:
        save_parquet(analysis, out)
    else:
        named = analysis.header.spec.get("neuronpedia_id")
        own = local_source(one.sae, analysis.header.model or "", one.layer)
        save_pages(analysis, out, NeuronpediaId.parse(named) if isinstance(named, str) else own)
    figures = {
        "cache_id": one.cache_id,
        "sae": str(one.sae),
        "out": str(out),
        "format": form.value,
        "features": analysis.header.d_sae,
        "windows": analysis.tables["windows"].num_rows,
        "explanations": analysis.tables["explanations"].num_rows,
        "scores": analysis.tables["scores"].num_rows,
    }
    if as_json:
        print_json(figures)
        return
    print_text(
        f"{out}: {figures['features']:,} features of {one.sae}, {figures['windows']:,} windows, "
        f"{figures['explanations']:,} explanations, {figures['scores']:,} scores"
    )
