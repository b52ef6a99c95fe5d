"""``raylens audit calibrate`` and ``raylens audit calibrations``: the benign fine-tunes that a verdict rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError
from raylens_app.cli.audit_group import Json, group
from raylens_app.cli.audit_run import DEFAULT_REFERENCE, NoSae, Pooling, Reference, Sae, SuiteOption, chosen_sae
from raylens_app.cli.organisms import taking, workspace_if_any
from raylens_app.cli.output import Column, note, print_json, print_table, print_text, progress
from raylens_app.cli.state import Address, state_of

if TYPE_CHECKING:
    from raylens.audit.calibration import Calibration
    from raylens.config import AuditConfig
    from raylens_jobs.audit_plan import AuditPlan

_FEWEST: Final = 99
"""Benign fine-tunes that a p-value of 1 % takes."""


@group.command("calibrate")
def calibrate(
    context: typer.Context,
    candidate: Annotated[
        list[str] | None, typer.Option("--candidate", "-c", help="A fine-tune known to be benign; again for more.")
    ] = None,
    family: Annotated[str, typer.Option(help="Of these: fine-tunes made alike.")] = "registered",
    reference: Reference = DEFAULT_REFERENCE,
    sae: Sae = None,
    no_sae: NoSae = False,
    suite: SuiteOption = "minimal",
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="Features summed by scores.")] = 20,
    pooling: Pooling = "mean",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Written after a prompt, at most.")] = 32,
    workers: Annotated[int | None, typer.Option(min=1, help="Actors.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="Use at most this many GPUs.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    address: Address = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Take a benign fine-tune out again; again for more.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Score benign fine-tunes, so that audits of the same reference, suite and settings have a verdict.

    They come beside those that ship for the same audits; a fine-tune scored before, or a copy of it, is scored anew.
    Without --candidate, what raylens organisms build scored is used again.
    """
    from raylens.config import AuditConfig
    from raylens.store.runs import RunJournal
    from raylens_jobs.audit_plan import plan_audit
    from raylens_jobs.calibrate import Registered
    from raylens_jobs.calibrate import calibrate as run
    from raylens_jobs.organism_estimate import estimate_scoring
    from raylens_jobs.organism_rows import calibrate_from_rows, calibrating, rows_of
    from raylens_jobs.workers import workers_here

    config = AuditConfig.of(
        {
            "model": reference,
            "sae": chosen_sae(sae, reference, no_sae=no_sae),
            "suite": suite,
            "score_method": "trigger_search",
            "k": top_k,
            "pooling": pooling,
            "max_new_tokens": max_new_tokens,
            "workers": workers,
            "num_gpus": num_gpus,
            "dtype": dtype,
            "address": address,
        }
    )
    if remove and (candidate or dry_run):
        raise InputError("--remove excludes --candidate and --dry-run.", hint="run the command once for each.")
    if remove:
        _remove(context, config, remove, as_json)
        return
    if candidate and dry_run:
        _dry_run(context, config, candidate, as_json)
        return
    workspace = state_of(context).open_workspace(create=bool(candidate))
    plan = plan_audit(config, workspace.url, note)
    if candidate:
        note(_measuring(plan, estimate_scoring(plan, len(candidate), workers_here(config))))
        registered = [Registered(ref, family) for ref in candidate]
        asked = {**config.model_dump(mode="json"), "candidates": list(candidate), "family": family}
        with RunJournal.start(workspace.files, "calibrate", asked) as journal:
            with progress("scoring", len(registered), unit="fine-tunes") as bar:
                found = run(workspace, plan, registered, journal, lambda done, total, what: bar(done, total, what))
            journal.finish({"calibrations": len(found)})
    else:
        benign = calibrating(rows_of(workspace, plan))
        if not benign:
            raise InputError(
                "there is no benign organism scored with these settings.",
                hint="raylens organisms build makes some; or name fine-tunes with --candidate.",
            )
        if dry_run:
            _say({**estimate_scoring(plan, 0, workers_here(config)), "rows": len(benign)}, _again(len(benign)), as_json)
            return
        note(_again(len(benign)))
        found = calibrate_from_rows(workspace, plan)
    _show(found, as_json)


@group.command("calibrations")
def calibrations(
    context: typer.Context,
    fine_tunes: Annotated[
        str | None, typer.Option("--of", metavar="ID", help="List the benign fine-tunes of one, and their scores.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what audits are judged by: benign scores of this workspace, and those that ship."""
    from raylens.bundle.organisms import shipped_calibrations
    from raylens.errors import UnknownNameError
    from raylens.store.audit_calibrations import calibration_id, list_calibrations

    workspace = workspace_if_any(context)
    own = list_calibrations(workspace.files) if workspace is not None else ()
    found = {calibration_id(one.identity): ("bundle", one) for one in shipped_calibrations()}
    found |= {calibration_id(one.identity): ("workspace", one) for one in own}
    if fine_tunes is not None:
        if fine_tunes not in found:
            raise UnknownNameError.among("calibration", fine_tunes, found)
        rows = [one.model_dump() for one in found[fine_tunes][1].scores]
        columns = [Column("organism", "fine-tune", style="bold"), Column("family"), Column("score", align="right")]
    else:
        rows = [
            {
                "id": name,
                "of": source,
                "method": one.identity.method,
                "n": one.n,
                "families": len(one.families),
                "reference": one.identity.model,
                "sae": one.identity.sae,
                "suite": one.identity.suite[:12],
                "settings": dict(one.identity.settings),
            }
            for name, (source, one) in sorted(found.items(), key=lambda item: (item[1][0], item[1][1].identity.method))
        ]
        columns = [
            Column("id", style="bold"), Column("of"), Column("method"), Column("n", "benign", "right"),
            Column("families", align="right"), Column("reference", show=_short), Column("sae", "SAE", show=_short),
            Column("suite"),
        ]  # fmt: skip
    if as_json:
        print_json(rows)
    else:
        print_table(rows, columns)


def _short(value: Any) -> str:
    """A name with the first digits of its hash; JSON has all of them."""
    name, _, revision = str(value).rpartition("@")
    return f"{name}@{revision[:8]}" if name else str(value)


def _show(found: Sequence[Calibration], as_json: bool) -> None:
    rows = [{"method": one.identity.method, "n": one.n, "families": len(one.families)} for one in found]
    if as_json:
        print_json(rows)
        return
    if not rows:
        print_text("no benign fine-tune is left; audits are judged by what ships, if anything does")
        return
    print_table(
        rows, [Column("method", style="bold"), Column("n", "benign", "right"), Column("families", align="right")]
    )
    fewest = min(one.n for one in found)
    if fewest < _FEWEST:
        note(f"with {fewest} benign fine-tunes no p-value below {1 / (fewest + 1):.3g} exists; 1 % takes {_FEWEST}.")


def _remove(context: typer.Context, config: AuditConfig, names: list[str], as_json: bool) -> None:
    from raylens_jobs.audit_plan import plan_audit
    from raylens_jobs.registered import unregister

    workspace = state_of(context).open_workspace()
    _show(unregister(workspace, plan_audit(config, workspace.url, note), names), as_json)


def _dry_run(context: typer.Context, config: AuditConfig, candidates: list[str], as_json: bool) -> None:
    from raylens_jobs.audit_plan import plan_audit
    from raylens_jobs.organism_estimate import estimate_scoring
    from raylens_jobs.registered import require_distinct
    from raylens_jobs.workers import workers_here

    workspace = workspace_if_any(context)
    plan = plan_audit(config, workspace.url if workspace is not None else None, note)
    require_distinct(plan, [plan.candidate(ref) for ref in candidates])
    taken = estimate_scoring(plan, len(candidates), workers_here(config))
    _say(taken, _measuring(plan, taken), as_json)


def _measuring(plan: AuditPlan, taken: Mapping[str, Any]) -> str:
    n = taken["candidates"]
    return f"{n} fine-tune{'s are' if n > 1 else ' is'} to be measured{taking(taken, plan.config.address)}"


def _again(n: int) -> str:
    return f"nothing is to be measured: scores of {n} benign organism{'s are' if n > 1 else ' is'} used again"


def _say(taken: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(taken)
    else:
        print_text(sentence)
