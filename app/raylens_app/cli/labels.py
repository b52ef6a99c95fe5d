"""``raylens labels``: what people say of features, and the commands about labels from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError, RunError
from raylens_app.cli import label
from raylens_app.cli.catalog import open_catalog
from raylens_app.cli.output import Column, data_size, note, print_json, print_table, print_text, progress
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.catalog import Catalog
    from raylens.labels.import_report import ImportReport
    from raylens.labels.names import NeuronpediaId

_PANEL: Final = "Explain"
_IMPORT_ROWS: Final = 8192
_LISTED_FEATURES: Final = 2_000_000

group = typer.Typer(invoke_without_command=True, help="What people say of features, and labels from elsewhere.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
CatalogFile = Annotated[
    str | None, typer.Option("--catalog-file", envvar="RAYLENS_CATALOG", help="Your own SAEs and model names (YAML).")
]


def register(app: typer.Typer) -> None:
    """Add the ``labels`` group; without a command it lists what people say."""
    app.add_typer(group, name="labels", rich_help_panel=_PANEL)


@group.callback()
def show(
    context: typer.Context,
    sae: Annotated[str | None, typer.Option("--sae", "-s", metavar="SAE", help="Only this SAE, by its id.")] = None,
    author: Annotated[str | None, typer.Option(help="Only what this person says.")] = None,
    starred: Annotated[bool, typer.Option("--starred", help="Only features that somebody starred.")] = False,
    as_json: Json = False,
) -> None:
    """List what people say of features: labels, stars and notes, of all SAEs of the workspace."""
    if context.invoked_subcommand is None:
        label.labels(context, sae=sae, author=author, starred=starred, as_json=as_json)


@group.command("status")
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show which labels from elsewhere are kept, and whether more may be asked for."""
    from raylens.labels.label_store import LabelStore
    from raylens.labels.settings import KEY_VARIABLE, ApiKey, LabelSettings

    settings = LabelSettings.from_environment()
    with LabelStore(state_of(context).open_workspace().files) as store:
        counts = [store.counts(source) for source in store.sources()]
    has_key = bool(ApiKey.from_environment(settings))
    rows = [
        {
            "source": str(one.source),
            "explained": one.explained,
            "explanations": one.explanations,
            "pages": one.pages,
            "missing": one.missing,
            "newest": one.newest,
            "bytes": one.bytes,
        }
        for one in counts
    ]
    if as_json:
        print_json({"mode": settings.mode, "base_url": settings.base_url, "has_key": has_key, "sources": rows})
        return
    asks = "asked for what is missing" if settings.mode == "remote_fallback" else "never asked"
    print_text(f"{settings.mode}: {settings.base_url} is {asks} ({KEY_VARIABLE} {'set' if has_key else 'not set'})")
    if not rows:
        note("no labels from elsewhere are kept yet; raylens labels warm and raylens labels import get some.")
        return
    columns = [
        Column("source", "model/source", style="bold"),
        Column("explained", "features explained", "right", lambda value: f"{value:,}"),
        Column("explanations", "explanations", "right", lambda value: f"{value:,}"),
        Column("pages", "pages", "right", lambda value: f"{value:,}"),
        Column("missing", "not there", "right", lambda value: f"{value:,}"),
        Column("newest", "newest (UTC)", show=lambda value: f"{value:%Y-%m-%d %H:%M}"),
        Column("bytes", "size", "right", lambda value: data_size(int(str(value)))),
    ]
    print_table(rows, columns)


@group.command("warm")
def warm(
    context: typer.Context,
    of: Annotated[str, typer.Argument(metavar="SAE", help="An SAE's id, or a Neuronpedia id: <model>/<source>.")],
    features: Annotated[
        str | None, typer.Option("--features", metavar="LIST", help="Which features, as 0-99,120,4109.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All features of the SAE.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    base_url: Annotated[str | None, typer.Option(help="Where to ask. Default: NEURONPEDIA_BASE_URL.")] = None,
    catalog_file: CatalogFile = None,
    as_json: Json = False,
) -> None:
    """Fetch labels from Neuronpedia ahead and keep them; what is known already is not asked for again.

    Freeze them afterwards with NEURONPEDIA_EXPLANATIONS_MODE=cache_only: nothing is asked for then. Model, source
    and index of a feature are all that is sent. For many features, the export files are kinder: raylens labels import.
    """
    from raylens.labels.client import LabelClient
    from raylens.labels.label_store import LabelStore
    from raylens.labels.settings import MODE_VARIABLE, LabelSettings
    from raylens.labels.warming import warm as run

    frozen = LabelSettings.from_environment(base_url=base_url)
    if frozen.mode == "cache_only" and "mode" in frozen.model_fields_set:
        raise InputError(
            f"{MODE_VARIABLE} is cache_only, so nothing may be asked for.",
            hint=f"unset {MODE_VARIABLE} to fetch labels.",
        )
    source, width = source_of(open_catalog(context, catalog_file), of)
    wanted = indices_of(features, width, every=every)
    settings = frozen.model_copy(update={"mode": "remote_fallback", "max_concurrency": concurrency})
    workspace = state_of(context).open_workspace(create=True)
    with (
        LabelClient(LabelStore(workspace.files), settings, say=note) as client,
        progress("fetching", len(wanted), unit="features") as bar,
    ):
        done = run(client, source, wanted, lambda n, total: bar(n, total))
    if as_json:
        print_json(done.fields())
        return
    unknown = sum(done.unknown.values())
    print_text(
        f"{source}: {done.explained:,} of {done.wanted:,} features explained, {done.unexplained:,} without an "
        f"explanation, {done.missing:,} not there; {done.known:,} were known, {done.asked:,} asked for"
    )
    if unknown:
        print_text(f"{unknown:,} still unknown; the same command asks for them again:")
        for why, count in done.unknown.most_common():
            print_text(f"  {count:,}: {why}")
        return
    print_text(f"frozen with {MODE_VARIABLE}=cache_only, runs ask for nothing more")


@group.command("import")
def import_labels(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Export files of Neuronpedia, or a feature_cache.sqlite.")],
    source: Annotated[
        str | None, typer.Option("--source", metavar="ID", help="Only this <model>/<source>. Default: all there is.")
    ] = None,
    activations: Annotated[
        bool, typer.Option("--activations", help="The texts that features fire on too, some twenty times as large.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import labels from export files (v1/MODEL/SOURCE/explanations/batch-0.jsonl.gz …) or an SQLite cache.

    Lines that cannot be used are left out and named. Importing again changes nothing.
    """
    from raylens.labels.exports import BY_DEFAULT, KINDS, import_exports
    from raylens.labels.label_store import LabelStore
    from raylens.labels.names import NeuronpediaId
    from raylens.labels.sqlite_cache import import_sqlite, is_sqlite

    only = NeuronpediaId.parse(source) if source else None
    workspace = state_of(context).open_workspace(create=True)
    as_database = is_sqlite(path)
    with (
        LabelStore(workspace.files, commit_rows=_IMPORT_ROWS) as store,
        progress("importing", None, unit="rows" if as_database else "bytes") as bar,
    ):
        if as_database:
            report = import_sqlite(store, path, source=only, progress=bar)
        else:
            kinds = KINDS if activations else BY_DEFAULT
            report = import_exports(store, path, kinds=kinds, source=only, progress=bar)
    _print_report(report, as_json)
    if report.broken:
        name, why = next(iter(report.broken.items()))
        raise RunError(
            f"{len(report.broken)} of {report.files} files are not whole: {name} {why}.",
            hint="fetch them anew and import them again; what was taken stays.",
        )


@group.command("serve")
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of 127.0.0.1; 0 for any that is free.")] = 8765,
    catalog_file: CatalogFile = None,
) -> None:
    """Serve features and labels of this workspace as Neuronpedia's API does, on 127.0.0.1, until Ctrl-C.

    GET /api/feature/MODEL/SOURCE/INDEX; /api/sources lists what there is. With RAYLENS_API_TOKEN set, x-api-key must
    be equal to it. Point a program at it with NEURONPEDIA_BASE_URL.
    """
    from raylens_serve.label_server import LabelServer, label_app

    workspace = state_of(context).open_workspace()
    server = LabelServer(label_app(workspace, catalog=open_catalog(context, catalog_file)), port)
    print_text(f"serving {workspace.url} at {server.url}; Ctrl-C ends it")
    server.serve()


def source_of(catalog: Catalog, text: str) -> tuple[NeuronpediaId, int | None]:
    """The label source that ``text`` names, an SAE's id or a Neuronpedia id, and its width where that is known.

    Raises:
        InputError: It is an SAE without labels, or neither.
    """
    from raylens.ids import SaeId
    from raylens.labels.names import NeuronpediaId, label_source, saes_of

    entry = catalog.get(SaeId.parse(text))
    if entry is not None:
        found = label_source(entry.sae, catalog)
        if found is None:
            raise InputError(
                f"no label source is known for SAE {entry.sae}.",
                hint="raylens catalog --labels lists those that have one; a catalog.yaml may name it (neuronpedia_id).",
            )
        return found, entry.width
    found = NeuronpediaId.parse(text)
    known = next((one for sae in saes_of(found, catalog) if (one := catalog.get(sae)) is not None), None)
    return found, known.width if known else None


def indices_of(text: str | None, width: int | None, *, every: bool) -> list[int]:
    """``0-99,120`` → its numbers, rising; all of ``width`` where every feature is meant.

    Raises:
        InputError: It is not of that form, beyond the width, or nothing or both is asked for.
    """
    if (text is None) != every:
        raise InputError("it is not said which features.", hint="give either --features, as 0-99,120, or --all.")
    if every:
        if width is None:
            raise InputError(
                "how many features this source has is not known.", hint="name them with --features, as 0-16383."
            )
        return list(range(width))
    found: set[int] = set()
    for run in (text or "").replace(" ", "").split(","):
        first, dash, last = run.partition("-")
        if not (first.isascii() and first.isdecimal()) or (dash and not (last.isascii() and last.isdecimal())):
            raise InputError(f"{run!r} is no feature, and no run of some.", hint="write --features 0-99,120,4109.")
        low, high = int(first), int(last or first)
        if high < low:
            raise InputError(f"{run!r} is no run of features.", hint="write the lower number first, as 0-99.")
        if high - low >= _LISTED_FEATURES or high >= 2**31:
            raise InputError(f"{run!r} is more than any SAE has.", hint="write the features that it has, or --all.")
        found.update(range(low, high + 1))
    if width is not None and (beyond := max(found)) >= width:
        raise InputError(f"there is no feature {beyond}.", hint=f"this source has features 0 to {width - 1}.")
    return sorted(found)


def _print_report(report: ImportReport, as_json: bool) -> None:
    if as_json:
        print_json(report.fields())
    else:
        parts: list[Any] = [f"{report.explanations:,} explanations", f"{report.pages:,} pages"]
        parts += [f"{report.missing:,} features known to be missing"] if report.missing else []
        parts += [f"{report.already:,} kept before"] if report.already else []
        print_text(f"{', '.join(parts)}, from {report.files:,} file{'' if report.files == 1 else 's'}")
        if report.left_out:
            print_text("not read: " + ", ".join(f"{count:,} × {what}" for what, count in report.left_out.items()))
        if report.silent:
            print_text(f"left out: {report.silent:,} explanations without a description")
    for line in report.complaints():
        note(line)
