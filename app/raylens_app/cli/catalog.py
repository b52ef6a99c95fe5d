"""``raylens catalog``: which SAEs there are, and for which model; ``raylens catalog refresh``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raylens_app.cli.output import Column, note, print_json, print_table, print_text
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from rich.text import Text

    from raylens.catalog import Catalog, CatalogEntry

_SHOWN: Final = 40

group = typer.Typer(invoke_without_command=True, help="Which SAEs there are, and for which model.")


def register(app: typer.Typer) -> None:
    """Add the ``catalog`` group."""
    app.add_typer(group, name="catalog", rich_help_panel="Look")


def open_catalog(context: typer.Context, file: str | None) -> Catalog:
    """The catalogue with the user's own file: ``--catalog-file``, RAYLENS_CATALOG, or the workspace's."""
    from raylens.catalog import Catalog
    from raylens.catalog.user import find_user_file

    return Catalog.load(find_user_file(file, state_of(context).workspace))


@group.callback()
def show(
    context: typer.Context,
    model: Annotated[str | None, typer.Option("--model", help="SAEs of one model, by any of its names.")] = None,
    release: Annotated[str | None, typer.Option("--release", help="SAEs of one release or hub repository.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Only SAEs that have labels.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every SAE, not releases or the first few.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many rows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    catalog_file: Annotated[
        str | None,
        typer.Option("--catalog-file", envvar="RAYLENS_CATALOG", help="Your own SAEs and model names (YAML)."),
    ] = None,
) -> None:
    """List releases; with --model or --release, their SAEs."""
    if context.invoked_subcommand is not None:
        return
    catalog = open_catalog(context, catalog_file)
    if model is None and release is None and not every:
        _show_releases(catalog, labels=labels, limit=limit, as_json=as_json)
        return
    related: Sequence[CatalogEntry] = ()
    if release is not None:
        entries = catalog.release(release)
        if model is not None:
            name = catalog.aliases.canonical(model)
            related = [entry for entry in entries if entry.model != name]
            entries = tuple(entry for entry in entries if entry.model == name)
            catalog.find(model)
    elif model is not None:
        entries, related = catalog.find(model), catalog.related(model)
    else:
        entries = catalog.entries
    if labels:
        entries = tuple(entry for entry in entries if entry.labels_available)
        related = [entry for entry in related if entry.labels_available]
    if as_json:
        from raylens.catalog import OTHER_MODEL

        fit = "exact" if model is not None else None
        rows = [entry.row() | {"fit": fit} for entry in entries]
        rows += [entry.row() | {"fit": OTHER_MODEL} for entry in related]
        print_json(rows[:limit])
        return
    if model is not None and release is None and not every and limit is None and len(entries) > _SHOWN:
        _print_summaries([summary.row() for summary in catalog.summaries(entries)])
        note(f"{len(entries)} SAEs: --release RELEASE lists those of one, --all lists all.")
    else:
        _show_saes(entries, None if every and limit is None else limit or _SHOWN)
    if model is not None:
        _show_others(catalog, catalog.aliases.canonical(model), related, nothing=not entries)


@group.command()
def refresh(
    output: Annotated[
        Path | None, typer.Option("--output", help="Where to write; by default into the installed package.")
    ] = None,
) -> None:
    """Take the snapshot of sae-lens's directory again (needs the models extra; no network)."""
    from raylens.catalog import snapshot

    target = output or snapshot.PATH
    content = snapshot.build()
    snapshot.write(content, target)
    releases = content["releases"].values()
    saes = sum(len(release["saes"]) for release in releases)
    note(f"{saes} SAEs of {len(releases)} releases, from sae-lens {content['sae_lens']}: {target}")


def _show_releases(catalog: Catalog, *, labels: bool, limit: int | None, as_json: bool) -> None:
    from raylens.catalog import supported_models

    rows = [row for row in supported_models(catalog) if row["labels_available"] or not labels]
    if as_json:
        print_json(rows[:limit])
        return
    _print_summaries(rows[:limit])
    if limit is not None and len(rows) > limit:
        note(f"{len(rows) - limit} more releases.")
    note("raylens catalog --model MODEL or --release RELEASE lists SAEs.")


def _show_saes(entries: Sequence[CatalogEntry], limit: int | None) -> None:
    if not entries:
        return
    columns = [
        Column("sae", "SAE", style="bold", wrap=True),
        Column("hook", "reads"),
        Column("width", align="right"),
        Column("l0", "L0", align="right", show=lambda value: f"{value:g}"),
        Column("labels_available", "labels", show=_chip),
    ]
    _print_rows([entry.row() for entry in entries[:limit]], columns, "sae")
    if limit is not None and len(entries) > limit:
        note(f"{len(entries) - limit} more: --all, or --release RELEASE.")


def _show_others(catalog: Catalog, model: str, others: Sequence[CatalogEntry], *, nothing: bool) -> None:
    if nothing:
        note(f"no SAE that was trained on {model} is listed here.")
    if not others:
        return
    from raylens.catalog import OTHER_MODEL

    rows = [summary.row() for summary in catalog.summaries(others)]
    _print_summaries(rows, title=f"{OTHER_MODEL} than {model} (refused without --override-guard)")


def _print_summaries(rows: Sequence[Mapping[str, object]], title: str | None = None) -> None:
    columns = [
        Column("release", style="bold", wrap=True),
        Column("saes", "SAEs", align="right"),
        Column("layers", show=_span),
    ]
    if len({row["model"] for row in rows}) == 1:  # else the model's name takes the place
        columns += [Column("points", "reads", show=_listed), Column("widths", "width", show=_span)]
    columns.append(Column("labels_available", "labels", show=_chip))
    _print_rows(rows, columns, "release", title)


def _print_rows(
    rows: Sequence[Mapping[str, object]], columns: Sequence[Column], name: str, title: str | None = None
) -> None:
    """A table, with the model in its title where it is one; below it what a person should know, once each."""
    models = {str(row["model"]) for row in rows}
    if len(models) == 1:
        (model,) = models
        title = f"{title}: {model}" if title else model
    else:
        columns = [Column("model", wrap=True), *columns]
    print_table(rows, columns, title=title)
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            notes.setdefault(str(row["note"]), []).append(str(row[name]))
    for text, names in notes.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print_text(f"{names[0]}{more}: {text}")


def _chip(value: object) -> Text:
    """A small mark where labels are to be had (A0.08)."""
    from rich.text import Text

    return Text("labels", style="black on green") if value else Text("")


def _listed(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else ""


def _span(value: object) -> str:
    """``[0, 1, 2, 3]`` as ``0–3``, ``[3, 7, 11]`` as ``3…11``."""
    if not isinstance(value, list) or not value:
        return ""
    first, last = value[0], value[-1]
    between = "–" if value == list(range(first, last + 1)) else "…"
    return f"{first}" if first == last else f"{first}{between}{last}"
