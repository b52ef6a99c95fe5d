"""A row an audit, with its verdict: what lists of audits show, over HTTP and in the app alike."""

from __future__ import annotations

from typing import Final

from raylens.api.audits import AuditRow
from raylens.audit.artefacts import DecisionFile
from raylens.errors import DamagedFileError
from raylens.store.audit_listing import RunSummary
from raylens.store.audit_store import AuditStore

_DECISION: Final = frozenset({"verdict", "p_value", "n_benign", "target_fpr", "score_method", "capability"})


def audit_rows(store: AuditStore) -> tuple[AuditRow, ...]:
    """All audits of a workspace, archived ones aside; the one that was finished last first."""
    return tuple(audit_row(store, one) for one in sorted(store.runs(), key=latest, reverse=True))


def latest(one: RunSummary) -> tuple[str, str]:
    """By when it was finished, or else begun."""
    at = one.finished_at or one.started_at
    return (at.isoformat() if at else "", str(one.place))


def audit_row(store: AuditStore, one: RunSummary) -> AuditRow:
    """What a list says of an audit; of one whose decision cannot be read, that it is damaged."""
    row = AuditRow(
        session=one.place.session,
        run=one.place.run,
        state="finished" if one.status == "finished" else "at work" if one.writer else "unfinished",
        writer=one.writer,
        started_at=one.started_at,
        finished_at=one.finished_at,
    )
    if one.status != "finished":
        return row
    try:
        said = store.decision(one.place.session, one.place.run)
    except DamagedFileError:
        return row.model_copy(update={"state": "damaged"})
    return row.model_copy(update=decided(said))


def decided(said: DecisionFile) -> dict[str, object]:
    """What a row says of a finished audit."""
    return {
        **said.decision.model_dump(include=set(_DECISION)),
        "score": said.decision.aggregate_score,
        "title": said.title,
        "reference": said.reference.name,
        "candidate": said.candidate.name,
        "suite": said.suite.name,
    }
