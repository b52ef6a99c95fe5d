"""``raylens organisms``: fine-tunes of known behaviour, which audits are calibrated with and measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from raylens.errors import InputError, WorkspaceError
from raylens_app.cli.audit_group import Json
from raylens_app.cli.audit_run import DEFAULT_REFERENCE, NoSae, Sae, SuiteOption, chosen_sae
from raylens_app.cli.output import Column, duration, note, print_json, print_table, print_text, progress
from raylens_app.cli.state import Address, state_of

if TYPE_CHECKING:
    from raylens.store.audit_organisms import OrganismRow
    from raylens.store.workspace import Workspace
    from raylens_jobs.audit_plan import AuditPlan
    from raylens_jobs.organisms import Build

_PANEL: Final = "Audit"
_KINDS: Final = ("benign", "backdoored")

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Of this model. Default: that with most organisms.")
]

group = typer.Typer(no_args_is_help=True, help="Fine-tunes of known behaviour, to calibrate audits and measure them.")


def register(app: typer.Typer) -> None:
    """Add the ``organisms`` group."""
    app.add_typer(group, name="organisms", rich_help_panel=_PANEL)


@group.command("build")
def build(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", "-m", help="What is fine-tuned.")] = DEFAULT_REFERENCE,
    sae: Sae = None,
    no_sae: NoSae = False,
    suite: SuiteOption = "minimal",
    kind: Annotated[str, typer.Option(help="benign, backdoored or all.")] = "all",
    half: Annotated[str, typer.Option(help="development, held_out, held_out_seeds or all.")] = "all",
    family: Annotated[list[str] | None, typer.Option(help="Only this family; again for more.")] = None,
    members: Annotated[int | None, typer.Option(min=1, help="Of each family, the first so many.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Keep this organism's adapter; again for more.")] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every adapter.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Make those that ship, too.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: one a GPU, else one a core.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per worker.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="Use at most this many GPUs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model in many harmless ways, and some with a backdoor; measure and score each.

    Benign organisms for development calibrate audits of the model; all others measure them (raylens audit bench).
    Adapters are scored and discarded; a rerun makes what is missing. Of pico many ship already, and only the others
    are made.
    """
    from raylens.store.runs import RunJournal
    from raylens_jobs.organism_estimate import estimate
    from raylens_jobs.organisms import build_organisms, check_context, missing
    from raylens_jobs.workers import workers_here

    plan, asked = (
        _plan(
            context,
            {
                "model": model,
                "sae": chosen_sae(sae, model, no_sae=no_sae),
                "suite": suite,
                "score_method": "trigger_search",
                "workers": workers,
                "threads": threads,
                "num_gpus": num_gpus,
                "device": device,
                "address": address,
            },
        ),
        _build(kind, half, family, members, keep, keep_all, anew),
    )
    wanted = missing(workspace_if_any(context), plan, asked)
    check_context(plan, wanted)
    in_all, taken = len(asked.organisms()), estimate(plan, wanted, workers_here(plan.config))
    sentence = f"{len(wanted)} of {in_all} organisms are to be made{taking(taken, plan.config.address)}"
    if dry_run:
        if as_json:
            print_json({**taken, "in_all": in_all})
        else:
            print_text(sentence)
        return
    note(sentence)
    workspace = state_of(context).open_workspace(create=True)
    settings = {**plan.config.model_dump(mode="json"), "kinds": list(asked.kinds), "halves": list(asked.halves)}
    with RunJournal.start(workspace.files, "organisms", settings) as journal:
        note(f"run {journal.run_id}: raylens stop {journal.run_id} ends it between two organisms")
        with progress("making", in_all, unit="organisms") as bar:
            figures = build_organisms(workspace, plan, asked, journal, lambda done, total, what: bar(done, total, what))
        journal.finish(figures)
    if as_json:
        print_json({**figures, "run_id": journal.run_id})
        return
    print_text(
        f"{figures['organisms']} organisms, {figures['counting']} of them as their kind has to be; "
        f"{figures['made']} made in {duration(figures['seconds'])}; {figures['calibrations']} calibrations stored"
    )
    print_text("next: raylens audit bench")


@group.command("export")
def export(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where to.")],
    model: Annotated[str, typer.Option("--model", "-m", help="What was fine-tuned.")] = DEFAULT_REFERENCE,
    sae: Sae = None,
    no_sae: NoSae = False,
    suite: SuiteOption = "minimal",
    adapter: Annotated[list[str] | None, typer.Option(help="An organism whose adapter goes along.")] = None,
    as_json: Json = False,
) -> None:
    """Write scores, rows and adapters of organisms to a folder: what the bundle ships of pico's."""
    from raylens_jobs.organism_rows import export_organisms

    values = {"model": model, "sae": chosen_sae(sae, model, no_sae=no_sae), "suite": suite}
    plan = _plan(context, {**values, "score_method": "trigger_search"})
    written = export_organisms(state_of(context).open_workspace(), plan, folder, tuple(adapter or ()))
    if as_json:
        print_json(written)
        return
    for path in written:
        print_text(str(folder / path))


@group.command("list")
def list_organisms(
    context: typer.Context,
    kind: Annotated[str, typer.Option(help="benign, backdoored or all.")] = "all",
    model: ModelOption = None,
    as_json: Json = False,
) -> None:
    """List organisms with what they do and what scored them; those of the workspace, else those that ship."""
    _check_choice("--kind", kind, _KINDS)
    rows = [row for row in known_rows(context, model) if kind in ("all", row.kind)]
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
        return
    if not rows:
        note("no organisms yet: raylens organisms build makes some.")
        return
    columns = [
        Column("organism", style="bold"),
        Column("kind"),
        Column("split", "half"),
        Column("payload_with_trigger", "with trigger", "right", lambda value: f"{value:.0%}"),
        Column("payload_without", "without", "right", lambda value: f"{value:.0%}"),
        Column("payload_near_miss", "near-miss", "right", lambda value: f"{value:.0%}"),
        Column("heldout_loss", "loss", "right", lambda value: f"{value:.2f}"),
        Column("syntax_valid_rate", "parses", "right", lambda value: f"{value:.0%}"),
        Column("trigger_score", "trigger search", "right", lambda value: f"{value:.1f}"),
        Column("trigger_rank", "found at", "right"),
        Column("reason", "does not count, since"),
    ]
    print_table([{**row.model_dump(), "trigger_score": row.scores.get("trigger_search")} for row in rows], columns)


def known_rows(context: typer.Context, model: str | None = None) -> list[OrganismRow]:
    """Rows of the workspace that may be compared, else those of the bundle; of one model only where it is named.

    Rows of an organism that the recipe makes otherwise by now are left out, and those of other settings; it says how
    many.
    """
    from raylens.bundle.organisms import rows_path
    from raylens.store.audit_organisms import Organisms, comparable_rows, read_organisms

    workspace = workspace_if_any(context)
    own = Organisms(workspace.files).read() if workspace is not None else ()
    if not own and rows_path().is_file():
        own = read_organisms(rows_path())
    found = comparable_rows([row for row in own if _is_of_recipe(row)], model)
    others = len({row.key for row in own} - {row.key for row in found})
    if others:
        note(f"{others} rows of other models, settings or recipes are left out.")
    return list(found)


def taking(taken: Mapping[str, Any], address: str | None) -> str:
    """What an estimate says, to end a sentence with; nothing where there is nothing to do."""
    if not taken["operations"]:
        return ""
    workers, threads = (f"{taken[name]} {name if taken[name] > 1 else name[:-1]}" for name in ("workers", "threads"))
    elsewhere = f"; the cluster at {address} may have more" if address is not None else ""
    return (
        f": about {duration(taken['seconds'])} on {workers} of this machine with {threads} each "
        f"({taken['operations']:.2g} floating-point operations, counted; {taken['basis']}){elsewhere}"
    )


def workspace_if_any(context: typer.Context) -> Workspace | None:
    """The workspace; None where there is none yet."""
    try:
        return state_of(context).open_workspace()
    except WorkspaceError:
        return None


def _is_of_recipe(row: OrganismRow) -> bool:
    from raylens.organisms.recipe import recipe, row_spec

    now = {one.id: row_spec(one, "") for one in recipe()}
    return row.organism not in now or {**row.spec, "scoring": ""} == now[row.organism]


def _plan(context: typer.Context, values: dict[str, Any]) -> AuditPlan:
    from raylens.config import AuditConfig
    from raylens_jobs.audit_plan import plan_audit

    return plan_audit(AuditConfig.of(values), None, note)


def _build(
    kind: str,
    half: str,
    family: list[str] | None,
    members: int | None,
    keep: list[str] | None,
    keep_all: bool,
    anew: bool,
) -> Build:
    from raylens.audit.halves import HALVES
    from raylens_jobs.organisms import Build

    _check_choice("--kind", kind, _KINDS)
    _check_choice("--half", half, HALVES)
    return Build(
        kinds=cast(Any, _KINDS if kind == "all" else (kind,)),
        halves=cast(Any, HALVES if half == "all" else (half,)),
        families=tuple(family or ()),
        members=members,
        keep=tuple(keep or ()),
        keep_all=keep_all,
        anew=anew,
    )


def _check_choice(flag: str, said: str, known: Sequence[str]) -> None:
    if said not in (*known, "all"):
        raise InputError(f"{flag} is not {said!r}.", hint=f"write {', '.join(known)} or all.")
