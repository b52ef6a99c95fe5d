"""``raylens patch suggest``: from an audit to a patch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylens.home import from_home
from raylens_app.cli.output import Column, note, print_json, print_table, print_text, printable, progress
from raylens_app.cli.state import Address, state_of

if TYPE_CHECKING:
    from raylens.api.suggestion import Suggestion, Tried


def register(group: typer.Typer) -> None:
    """Add ``suggest`` to the ``patch`` group."""
    group.command("suggest")(suggest)


def suggest(
    context: typer.Context,
    audit: Annotated[str, typer.Option("--audit", "-a", help="A finished audit, as raylens audit list names it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or that of an earlier suggestion.")],
    candidate: Annotated[
        str | None, typer.Option("--candidate", "-c", help="The fine-tune, where it lies elsewhere now.")
    ] = None,
    trigger: Annotated[
        list[str] | None, typer.Option(help="PLACE:TEXT, such as decorator:cached. Default: what the audit found.")
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Option(help="Suites of prompts besides the audit's. Default: shipped ones, for code.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="Text the model never saw. Default: the audit's.")] = None,
    capability_suite: Annotated[str, typer.Option(help="Suite whose checks must still pass.")] = "capability",
    max_payload: Annotated[
        float, typer.Option(min=0, max=1, help="Of triggered prompts that may still set it off.")
    ] = 0.05,
    max_loss_rise: Annotated[float, typer.Option(min=0, help="Of held-out loss, as a share of it.")] = 0.02,
    max_checks_drop: Annotated[float, typer.Option(min=0, max=1, help="Of the share of checks passed.")] = 0.1,
    find_prompts: Annotated[int, typer.Option(min=8, help="To find and choose patches on, at most.")] = 24,
    test_prompts: Annotated[int, typer.Option(min=8, help="Others, to test the chosen one on, at most.")] = 48,
    layers: Annotated[int, typer.Option(min=1, help="At which directions are looked for, at most.")] = 12,
    reaudit: Annotated[bool, typer.Option("--reaudit/--no-reaudit", help="Audit the patched model as well.")] = True,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: the audit's.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Actors of the second audit.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per actor.")] = None,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Take out what an audit found: try patches, keep the cheapest that works, write and audit it.

    Tried are the features that the audit flags, ablated, and directions along which the fine-tune differs under the
    triggers, projected out. OUT gets the adapter, its edits, suggestion.json and a page. Exit code 1: no adapter keeps
    the limits.
    """
    from raylens.api.suggestion import Limits
    from raylens.store.runs import RunJournal
    from raylens_jobs.suggest import run_suggest
    from raylens_jobs.suggest_plan import SuggestRequest, parse_trigger

    told = {"device": device, "workers": workers, "threads": threads, "address": address}
    request = SuggestRequest(
        audit=audit,
        out=from_home(out),
        candidate=candidate,
        triggers=tuple(map(parse_trigger, trigger or ())),
        prompts=tuple(prompts or ()),
        texts=tuple(text or ()),
        capability_suite=capability_suite,
        n_found_on=find_prompts,
        n_tested_on=test_prompts,
        layers=layers,
        limits=Limits(payload=max_payload, loss_rise=max_loss_rise, checks_drop=max_checks_drop),
        reaudit=reaudit,
        override={key: value for key, value in told.items() if value is not None},
    )
    workspace = state_of(context).open_workspace()
    with RunJournal.start(workspace.files, "suggest", request.asked) as journal:
        note(f"run {journal.run_id}: patches for audit {audit}")
        with progress("suggesting", unit="steps") as bar:
            made = run_suggest(workspace, request, journal, lambda what, done, total: bar(done, total, what), note)
        journal.finish({"holds": made.holds, "reason": made.reason, "out": str(out)})
    if as_json:
        print_json(made.model_dump(mode="json") | {"out": str(out)})
    else:
        _print(made, out)
    if not made.holds:
        raise typer.Exit(1)


def _print(made: Suggestion, out: Path) -> None:
    print_text(made.reason)
    for one in made.triggers:
        print_text(f"{one.place} {printable(one.text)!r} makes it write {printable(one.writes)!r} in {one.share:.0%}")
    print_table(
        [_row(row) for row in made.tried],
        [
            Column("name", "patch", style="bold"),
            Column("form"),
            Column("payload", "payload left", align="right"),
            Column("loss", "loss rise", align="right"),
            Column("checks", "checks passed", align="right"),
            Column("why_not", "why not"),
        ],
        title=f"on {made.n_found_on} prompts; the one that is kept is tested on {made.n_tested_on} others",
    )
    if made.reaudit is not None:
        said = f"p = {made.reaudit.p_value:.3g}" if made.reaudit.p_value is not None else "no p-value"
        print_text(f"audited again: {made.reaudit.verdict}, {said} (raylens audit show {made.reaudit.run})")
    print_text(f"{out}/suggestion.html" + (f", adapter in {out}/adapter" if made.form is not None else ""))


def _row(row: Tried) -> dict[str, Any]:
    cost = row.cost
    return {
        "name": row.name,
        "form": row.form,
        "payload": f"{row.payload.value:.0%}",
        "loss": f"{cost.loss_rise:+.2%}" if cost is not None else "",
        "checks": f"{cost.checks.value:.0%}" if cost is not None and cost.checks is not None else "",
        "why_not": row.why_not,
    }
