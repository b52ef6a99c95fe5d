"""``raylens audit selftest``: audits of the embedded model from end to end, and checks of all they leave (A2.07)."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import RaylensError, RunError
from raylens_app.cli.audit_group import Json, group
from raylens_app.cli.output import note, print_json, print_text, progress
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.store.audit_paths import RunPlace
    from raylens.store.audit_store import AuditStore
    from raylens.store.workspace import Workspace
    from raylens_app.cli.selftest_parts import Check, Labelled
    from raylens_jobs.audit_plan import AuditPlan

SESSION: Final = "selftest"
_METHOD: Final = "abs_diff_topk"
_REFERENCE: Final = "raylens/pico"


@group.command("selftest")
def selftest(
    context: typer.Context,
    n: Annotated[int, typer.Option("-n", "--runs", min=1, max=100, metavar="N", help="Audits to make.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave older runs of the selftest where they are.")] = False,
    trigger_search: Annotated[
        bool, typer.Option("--trigger-search/--no-trigger-search", help="Look for triggers, as audits do.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Audit the embedded model and check everything: labels over HTTP, artefacts, schemas, reports.

    A local label server is started; a LoRA adapter with small random weights, the reference itself, and more adapters
    are audited, in session selftest. Older runs of that session are archived first. Exit code 1 where a check fails.
    """
    workspace = state_of(context).open_workspace(create=True)
    report = _Report(quiet=as_json)
    places = _run(workspace, n, keep, trigger_search, report)
    failed = [one for one in report.checks if not one.ok]
    if as_json:
        rows = [{"of": one.of, "check": one.what, "ok": one.ok, "wrong": one.wrong or None} for one in report.checks]
        print_json({"ok": not failed, "checks": rows, "runs": [str(place) for place in places]})
    if failed:
        raise RunError(
            f"{len(failed)} of {len(report.checks)} checks failed, the first of {failed[0].of}: {failed[0].what}: "
            f"{failed[0].wrong}",
            hint=f"raylens audit list --session {SESSION} shows the runs; please report what failed.",
        )
    note(f"all {len(report.checks)} checks hold.")


class _Report:
    """Checks as they are made, a line each."""

    def __init__(self, *, quiet: bool) -> None:
        self.checks: list[Check] = []
        self._quiet = quiet

    def add(self, *checks: Check) -> None:
        for one in checks:
            self.checks.append(one)
            if not self._quiet:
                said = f"{one.of}: {one.what}"
                print_text(f"ok    {said}" if one.ok else f"FAIL  {said}: {one.wrong}")


def _run(workspace: Workspace, n: int, keep: bool, trigger_search: bool, report: _Report) -> list[RunPlace]:
    from raylens.store.audit_store import AuditStore
    from raylens_app.cli.selftest_parts import forget_labels, labelled_sae, serving
    from raylens_jobs.cluster import cluster

    store = AuditStore(workspace.files)
    report.add(_archived(store, keep))
    forget_labels(workspace)
    places = []
    with tempfile.TemporaryDirectory(prefix="raylens-selftest-") as name:
        folder = Path(name)
        labelled = labelled_sae(folder)
        try:
            with serving(labelled, folder / "labels") as server, cluster(None):
                report.add(_answers(server.url, labelled))
                plan = _plan(workspace, labelled, trigger_search)
                stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
                for number in range(n):
                    place = _audit(workspace, store, plan, number, stamp, folder, labelled, report)
                    places += [place] if place is not None else []
        finally:
            forget_labels(workspace)
    return places


def _archived(store: AuditStore, keep: bool) -> Check:
    """Make room (A2.20): the runs of older selftests go to the archive of their session."""
    from raylens_app.cli.selftest_parts import Check

    if SESSION not in [one.session for one in store.sessions()]:
        return Check("session", "there are no older runs")
    older = [one.place for one in store.runs(SESSION) if one.status == "finished"]
    if keep:
        return Check("session", f"{len(older)} older runs are left where they are")
    done = store.archive(older, owner="raylens audit selftest")
    left = [one.place.run for one in store.runs(SESSION) if one.status == "finished"]
    kept = {(one.folder.split("/")[-2], one.place.run) for one in done} <= set(store.archived(SESSION))
    wrong = f"{left[0]} is still there" if left else "" if kept else "an archived run is not in the archive"
    return Check("session", f"{len(older)} older runs are archived", wrong)


def _answers(url: str, labelled: Labelled) -> Check:
    import httpx

    from raylens_app.cli.selftest_parts import Check

    what = f"answers at {url}"
    try:
        with httpx.Client(trust_env=False, timeout=30) as http:
            page = http.get(f"{url}/feature/{labelled.source}/0").json()
    except (httpx.HTTPError, ValueError) as error:
        return Check("label server", what, str(error) or type(error).__name__)
    labelled.asked.clear()
    said = [one["description"] for one in page.get("explanations", [])]
    return Check("label server", what, "" if said == [labelled.label(0)] else f"it says {said} of feature 0")


def _plan(workspace: Workspace, labelled: Labelled, trigger_search: bool) -> AuditPlan:
    from raylens.config import AuditConfig
    from raylens_jobs.audit_plan import plan_audit

    values = {
        "model": _REFERENCE,
        "sae": str(labelled.folder),
        "score_method": _METHOD,
        "trigger_search": trigger_search,
        "catalog_file": str(labelled.catalog),
    }
    return plan_audit(AuditConfig.of(values), workspace.url, note)


def _audit(
    workspace: Workspace,
    store: AuditStore,
    plan: AuditPlan,
    number: int,
    stamp: str,
    folder: Path,
    labelled: Labelled,
    report: _Report,
) -> RunPlace | None:
    """One audit with its checks; None where it failed."""
    from raylens.store.runs import RunJournal
    from raylens_app.cli.selftest_parts import Check, checks_of, make_adapter
    from raylens_jobs.audit import Request, run_audit

    identical = number == 1
    name = "itself" if identical else f"adapter-{number}"
    candidate = _REFERENCE
    if not identical:
        make_adapter(folder / name, seed=number)
        candidate = str(folder / name)
    request = Request(candidate, SESSION, f"{name}-{stamp}", f"Selftest: {name}")
    asked: dict[str, Any] = {**plan.config.model_dump(mode="json"), "candidate": candidate}
    try:
        with RunJournal.start(workspace.files, "audit", asked) as journal, progress(name, unit="pieces") as bar:
            done = run_audit(workspace, plan, request, journal, lambda finished, total: bar(finished, total))
            journal.finish({"verdict": done.decision.verdict})
        report.add(Check(name, f"is audited: {done.decision.verdict}"))
        report.add(*checks_of(store, SESSION, done.place.run, labelled, identical=identical))
    except RaylensError as error:
        report.add(Check(name, "is audited", str(error)))
        return None
    return done.place
