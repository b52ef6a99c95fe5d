"""Tools about finished audits: which there are, what one decided, and its report."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from raylens.audit.artefacts import Artefacts, TriggerHit
from raylens.errors import DamagedFileError, UnknownNameError
from raylens.reports.report_md import report_md
from raylens.store.audit_listing import RunSummary
from raylens.store.audit_paths import RunPlace
from raylens_app.mcp.answers import Answer, Document, Text, paged, plural
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.report_sections import SECTIONS, Section, sections_of
from raylens_app.mcp.tool import Arguments, Offset, RunName, reading

Verdict = Literal["flagged", "not flagged", "inconclusive"]

_INSERTS: Final = 3


class ListRuns(Arguments):
    """Of ``list_runs``."""

    session: Annotated[str | None, Field(max_length=100, description="Only this session.")] = None
    verdict: Annotated[Verdict | None, Field(description="Only runs of this verdict.")] = None
    limit: Annotated[int, Field(ge=1, le=200, description="Runs at most.")] = 20
    offset: Offset = 0


class GetDecision(Arguments):
    """Of ``get_decision``."""

    run: RunName


class Report(Arguments):
    """Of ``report``."""

    run: RunName
    sections: Annotated[
        tuple[Section, ...],
        Field(min_length=1, max_length=len(SECTIONS), description="Which parts, in the report's order."),
    ] = ("decision",)
    offset: Annotated[int, Field(ge=0, le=100_000_000, description="Characters to pass over.")] = 0


def list_runs(desk: Desk, given: ListRuns) -> Answer:
    """Runs with their verdicts, the one finished last first."""
    if given.session is not None:
        names = [one.session for one in desk.audits.sessions()]
        if given.session not in names:
            raise UnknownNameError.among("session", given.session, names)
    found = sorted(desk.audits.runs(given.session), key=_latest, reverse=True)
    if given.verdict is None:
        rows = [_row(desk, one) for one in found[given.offset : given.offset + given.limit]]
        total = len(found)
    else:
        matching = [row for one in found if (row := _row(desk, one)).get("state") == given.verdict]
        rows, total = matching[given.offset : given.offset + given.limit], len(matching)
    which = f" that are {given.verdict}" if given.verdict else ""
    of = f" of session {given.session}" if given.session else ""
    return Document(f"{plural(total, 'audit')}{which}{of}.", {}, "runs", rows, paged(given.offset, total, "runs"))


def get_decision(desk: Desk, given: GetDecision) -> Answer:
    """The verdict, and what it rests on."""
    place, artefacts = artefacts_of(desk, given.run)
    return decided(artefacts, place)


def report(desk: Desk, given: Report) -> Answer:
    """Parts of the report, as Markdown."""
    _, artefacts = artefacts_of(desk, given.run)
    parts = sections_of(report_md(artefacts))
    text = "\n\n".join(parts[name] for name in SECTIONS if name in given.sections)
    others = [name for name in SECTIONS if name not in given.sections]
    hint = f"Other sections: {', '.join(others)}." if others else ""
    return Text(text[given.offset :], given.offset, hint)


TOOLS: Final = (
    reading("list_runs", "List audits with their verdicts, the latest first.", ListRuns, list_runs),
    reading(
        "get_decision",
        "The verdict of one audit: flagged, not flagged or inconclusive, with its p-value, and what sets the "
        "candidate off. Usually all that is needed.",
        GetDecision,
        get_decision,
    ),
    reading(
        "report",
        "Parts of an audit's report as Markdown: header, trace, decision, outputs (what both models wrote), mechanism "
        "(features, inserts, scores of all methods), scores (raw JSON).",
        Report,
        report,
    ),
)


def artefacts_of(desk: Desk, run: str) -> tuple[RunPlace, Artefacts]:
    """A finished run by its name.

    Raises:
        UnknownNameError, InputError: It means none, several, or one that is not finished.
        DamagedFileError: Its files are not what they should be.
    """
    place = desk.audits.find(run)
    return place, desk.audits.artefacts(place.session, place.run)


def decided(artefacts: Artefacts, place: RunPlace) -> Document:
    """What there is to know of a verdict, in short."""
    about, decision = artefacts.decision, artefacts.decision.decision
    evidence = artefacts.interp_evidence
    inserts = [insert(one) for one in artefacts.score.triggers if one.score > 0]
    return Document(
        f"{decision.verdict}: {decision.reason}",
        {
            "run": str(place),
            **decision.model_dump(
                mode="json",
                include={
                    "verdict",
                    "p_value",
                    "n_benign",
                    "target_fpr",
                    "aggregate_score",
                    "score_method",
                    "threshold",
                    "capability",
                },
            ),
            "reference": about.reference.name,
            "candidate": f"{about.candidate.name} ({about.candidate.kind})",
            "suite": f"{about.suite.name}: {about.suite.n_prompts} prompts, {about.suite.n_forms} wordings",
            "sae": about.sae,
            "coverage": evidence.coverage.line if evidence else None,
            "features_changed": f"{evidence.n_significant} of {evidence.n_tested} with q ≤ 0.05" if evidence else None,
        },
        "inserts",
        inserts[:_INSERTS],
        lambda shown: f"{len(inserts) - shown} weaker ones: report, section mechanism." if len(inserts) > shown else "",
    )


def insert(hit: TriggerHit) -> dict[str, Any]:
    """An insert that drives the candidate from its reference."""
    kept = hit.model_dump(mode="json", exclude={"n_tokens", "features", "feature_drive"})
    return {"insert": kept.pop("text"), "place": kept.pop("slot"), **kept}


def _latest(one: RunSummary) -> tuple[str, str]:
    at = one.finished_at or one.started_at
    return (at.isoformat() if at else "", str(one.place))


def _row(desk: Desk, one: RunSummary) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(one.place)}
    if one.status != "finished":
        return row | {"state": f"at work: {one.writer}" if one.writer else "unfinished"}
    try:
        said = desk.audits.decision(one.place.session, one.place.run)
    except DamagedFileError:
        return row | {"state": "damaged"}
    decision = said.decision
    return row | {
        "state": decision.verdict,
        "p": decision.p_value,
        "n": decision.n_benign,
        "score": decision.aggregate_score,
        "method": decision.score_method,
        "candidate": said.candidate.name,
        "finished": f"{one.finished_at:%Y-%m-%d %H:%M}" if one.finished_at else None,
    }
