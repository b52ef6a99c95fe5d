"""``raylens audit list|show|report|archive|validate``: what audits found, read from the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import DamagedFileError, InputError, UnknownNameError
from raylens_app.cli.audit_group import Json, Run, Session, group
from raylens_app.cli.output import Column, note, print_json, print_table, print_text, printable, printable_lines
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from rich.text import Text

    from raylens.audit.artefacts import Artefacts
    from raylens.audit.feature_rows import FeatureRow
    from raylens.store.audit_files import Problem
    from raylens.store.audit_listing import RunSummary
    from raylens.store.audit_store import AuditStore

_COLOURS: Final = {"flagged": "bold red", "not flagged": "green", "inconclusive": "yellow"}
_FEATURES: Final = 20


@group.command("list")
def list_audits(
    context: typer.Context,
    session: Session = None,
    archived: Annotated[bool, typer.Option("--archived", help="Those that were archived instead.")] = False,
    as_json: Json = False,
) -> None:
    """List audits, with their verdicts, the one that was finished last at the top."""
    store = _store(context, session)
    if archived:
        _list_archived(store, session, as_json)
        return
    rows = [_row(store, one) for one in store.runs(session)]
    rows.sort(key=lambda row: (row["finished_at"] or row["started_at"] or "", row["run"]), reverse=True)
    if as_json:
        print_json(rows)
        return
    if not rows:
        note("no audits yet: raylens audit run makes the first.")
        return
    columns = [
        Column("session", style="dim"),
        Column("run", style="bold"),
        Column("state", "verdict", show=_coloured),
        Column("p_value", "p", "right", lambda value: f"{value:.3g}"),
        Column("n_benign", "n", "right"),
        Column("aggregate_score", "score", "right", lambda value: f"{value:.4g}"),
        Column("score_method", "method"),
        Column("candidate"),
        Column("finished_at", "finished (UTC)", show=lambda at: str(at)[:16].replace("T", " ")),
    ]
    print_table(rows, columns)


@group.command()
def show(
    context: typer.Context,
    run: Run,
    top: Annotated[int, typer.Option(min=0, help="Features to list at most.")] = _FEATURES,
    as_json: Json = False,
) -> None:
    """Show a run's decision, how much of its features is explained, and those that changed most."""
    store = _store(context)
    place = store.find(run)
    artefacts = store.artefacts(place.session, place.run)
    evidence = artefacts.interp_evidence
    if as_json:
        document: dict[str, Any] = artefacts.decision.model_dump(mode="json")
        document["capability"] = artefacts.suite_results.capability.model_dump(mode="json")
        document["triggers"] = [one.model_dump(mode="json") for one in artefacts.score.triggers]
        document["coverage"] = evidence.coverage.model_dump(mode="json") if evidence else None
        own = evidence.own_explanations if evidence else None
        document["own_explanations"] = own.model_dump(mode="json") if own else None
        document["stability"] = evidence.stability.model_dump(mode="json") if evidence else None
        document["features"] = [one.model_dump(mode="json") for one in evidence.features[:top]] if evidence else []
        print_json(document)
        return
    _print_decision(artefacts)
    if evidence is None:
        return
    print_text()
    print_text(f"coverage: {evidence.coverage.line}")
    if evidence.own_explanations is not None:
        print_text(f"own explanations: {evidence.own_explanations.line}")
    if evidence.features and top:
        print_table([_feature(one) for one in evidence.features[:top]], _FEATURE_COLUMNS)
    if len(evidence.features) > top:
        note(f"{len(evidence.features) - top} more features: --top {len(evidence.features)}.")


@group.command()
def report(
    context: typer.Context,
    run: Run,
    html: Annotated[bool, typer.Option("--html", help="report.html and not report.md.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here and not to stdout.")
    ] = None,
) -> None:
    """Make a run's report anew from its JSON files; the same files give the same bytes."""
    import sys

    store = _store(context)
    place = store.find(run)
    text = _reports(store.artefacts(place.session, place.run))["report.html" if html else "report.md"]
    if output is not None:
        kept = Path(store.files.native(place.folder)).resolve()
        if output.resolve().is_relative_to(kept):
            raise InputError(f"{output} is among the files of the run itself.", hint="name a file elsewhere.")
        try:
            output.write_bytes(text.encode())
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise InputError(f"{output} cannot be written: {why.lower()}.", hint="name another file.") from error
        note(f"wrote {output}.")
    elif sys.stdout.isatty():
        typer.echo(printable_lines(text))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())


@group.command()
def archive(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's name, how it begins, or session/run.")
    ] = None,
    session: Annotated[str | None, typer.Option("--session", metavar="NAME", help="Every run of this session.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run of every session.")] = False,
    as_json: Json = False,
) -> None:
    """Move finished runs to runs/_archive/TIME/ of their session; lists and SQL views no longer have them.

    Nothing is removed. Unfinished runs stay where they are, so that the same audit can go on with them.
    """
    if [run is not None, session is not None, every].count(True) != 1:
        raise InputError("it is not said what to archive.", hint="either name a run, or give --session NAME, or --all.")
    store = _store(context, session)
    if run is not None:
        places = [store.find(run)]
    else:
        places = [one.place for one in store.runs(session) if one.status == "finished"]
    done = store.archive(places)
    if as_json:
        print_json([{"session": a.place.session, "run": a.place.run, "folder": a.folder} for a in done])
        return
    for one in done:
        print_text(f"{one.place} → {one.folder}")
    note(f"archived {len(done)} run{'' if len(done) == 1 else 's'}.")


@group.command()
def validate(context: typer.Context, run: Run, as_json: Json = False) -> None:
    """Check a run's files: each against its type, all against one another and against run.json; reports made anew.

    Exit code 1 where something is wrong.
    """
    from raylens.store.audit_files import NAMES
    from raylens.store.audit_manifest import RUN

    store = _store(context)
    place = store.find(run)
    texts = store.read_run(place.session, place.run)
    found = _problems(store, texts, place.session, place.run)
    if as_json:
        wrong = [{"file": one.file, "problem": one.what} for one in found]
        print_json({"session": place.session, "run": place.run, "valid": not found, "problems": wrong})
    else:
        names = [name for name in (*NAMES, RUN) if name in texts]
        names += [name for name in dict.fromkeys(one.file for one in found) if name not in names]
        rows = [{"file": n, "is": "; ".join(one.what for one in found if one.file == n) or "valid"} for n in names]
        print_table(rows, [Column("file", style="bold"), Column("is", "", wrap=True)])
    if found:
        raise DamagedFileError(
            f"audit {place} is not valid: {len(found)} problem{'' if len(found) == 1 else 's'}.",
            hint="restore its files, or make it anew with raylens audit run --again.",
        )


_FEATURE_COLUMNS: Final = (
    Column("id", "feature", style="bold"),
    Column("delta", align="right", show=lambda value: f"{value:+.4g}"),
    Column("direction", ""),
    Column("q_value", "q", "right", lambda value: f"{value:.3g}"),
    Column("rates", "fires on", "right"),
    Column("meaning", wrap=True),
)


def _store(context: typer.Context, session: str | None = None) -> AuditStore:
    """The audits of the workspace; ``session`` must be one of its sessions."""
    from raylens.store.audit_store import AuditStore

    store = AuditStore(state_of(context).open_workspace().files)
    names = [one.session for one in store.sessions()] if session is not None else []
    if session is not None and session not in names:
        raise UnknownNameError.among("session", session, names)
    return store


def _row(store: AuditStore, one: RunSummary) -> dict[str, Any]:
    """What the list says of a run; of an unfinished one, who is writing it."""
    row: dict[str, Any] = {
        "session": one.place.session,
        "run": one.place.run,
        "status": one.status,
        "writer": one.writer,
        "started_at": one.started_at.isoformat() if one.started_at else None,
        "finished_at": one.finished_at.isoformat() if one.finished_at else None,
        "state": f"at work: {one.writer}" if one.writer else one.status,
    }
    if one.status == "finished":
        try:
            said = store.decision(one.place.session, one.place.run)
        except DamagedFileError:
            return row | {"state": "damaged"}
        keys = {"verdict", "p_value", "n_benign", "target_fpr", "aggregate_score", "score_method", "capability"}
        row |= said.decision.model_dump(include=keys)
        row |= {"state": said.decision.verdict, "title": said.title}
        row |= {"reference": said.reference.name, "candidate": said.candidate.name, "suite": said.suite.name}
    return row


def _list_archived(store: AuditStore, session: str | None, as_json: bool) -> None:
    names = [one.session for one in store.sessions()] if session is None else [session]
    rows = [{"session": n, "run": run, "archived_at": at} for n in names for at, run in store.archived(n)]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(rows, [Column("session", style="dim"), Column("run", style="bold"), Column("archived_at", "at")])
    else:
        note("no audits are archived.")


def _print_decision(artefacts: Artefacts) -> None:
    from rich.text import Text

    about, said = artefacts.decision, artefacts.decision.decision
    print_text(Text.assemble((printable(about.title or about.run), "bold"), "  ", _coloured(said.verdict)))
    facts = {
        "run": f"{about.session}/{about.run}",
        "reference": f"{about.reference.name} ({about.reference.revision})",
        "candidate": f"{about.candidate.name} ({about.candidate.kind} {about.candidate.revision})",
        "sae": about.sae or "none",
        "suite": f"{about.suite.name}: {about.suite.n_prompts} prompts, {about.suite.n_forms} wordings",
        "p": "none" if said.p_value is None else f"{said.p_value:.3g} of {said.n_benign} benign fine-tunes",
        "target": f"false-positive rate {said.target_fpr:g}",
        "score": f"{said.aggregate_score:.6g} ({said.score_method})",
        "threshold": "none" if said.threshold is None else f"{said.threshold:.6g}",
        "capability": said.capability,
        "reason": said.reason,
    }
    if artefacts.score.triggers:
        first = artefacts.score.triggers[0]
        facts["insert"] = f"{first.text!r} scores {first.score:.3g}; {len(artefacts.score.triggers)} found"
    rows = [{"what": what, "value": value} for what, value in facts.items()]
    print_table(rows, [Column("what", title="", style="dim"), Column("value", title="", wrap=True)])


def _feature(row: FeatureRow) -> dict[str, object]:
    """One line a feature, with what it means or what its neighbour does (A2.06)."""
    from raylens.reports.wording import meaning

    said = meaning(row)
    return {
        "id": row.id,
        "delta": row.delta,
        "direction": row.direction,
        "q_value": row.q_value,
        "rates": f"{row.rate_reference:.0%} → {row.rate_candidate:.0%}",
        "meaning": " · ".join(part for part in (said.text, said.remark) if part),
    }


def _reports(artefacts: Artefacts) -> dict[str, str]:
    from raylens.reports.report_html import report_html
    from raylens.reports.report_md import report_md

    return {"report.md": report_md(artefacts), "report.html": report_html(artefacts)}


def _problems(store: AuditStore, texts: dict[str, str], session: str, run: str) -> list[Problem]:
    from raylens.store.audit_files import Problem, changed, problems

    found = problems(texts)
    try:
        made = store.run_file(session, run)
        found += changed(texts, made) if made else [Problem("run.json", "is missing")]
    except DamagedFileError as error:
        found.append(Problem("run.json", error.message))
    if not found:
        anew = _reports(store.artefacts(session, run))
        differ = (name for name, text in anew.items() if name in texts and texts[name] != text)
        found = [Problem(name, "is not what its JSON files give") for name in differ]
    return found


def _coloured(verdict: object) -> Text:
    from rich.text import Text

    return Text(printable(str(verdict)), style=_COLOURS.get(str(verdict), "dim"))
