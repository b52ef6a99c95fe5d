"""Audits as they are shown over HTTP."""

from __future__ import annotations

from typing import get_args

from raylens.api.audits import (
    INSERTS,
    Artefact,
    AuditOut,
    CalibrationRow,
    ChangedFeature,
    Coverage,
    EvidencePage,
    Insert,
)
from raylens.audit.artefacts import InterpEvidence
from raylens.audit.calibration import Calibration
from raylens.bundle.organisms import shipped_calibrations
from raylens.store.audit_calibrations import calibration_id, list_calibrations
from raylens.store.audit_overview import decided
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.files import Files

_MORE = ("reason", "smallest_p", "threshold")


def audit_out(store: AuditStore, place: RunPlace) -> AuditOut:
    """A finished audit.

    Raises:
        InputError: It is not finished, or not there.
        DamagedFileError: A file is missing, or not what it should be.
    """
    artefacts = store.artefacts(place.session, place.run)
    made = store.run_file(place.session, place.run)
    said, evidence = artefacts.decision, artefacts.interp_evidence
    inserts = [one for one in artefacts.score.triggers if one.score > 0]
    names = {"run.json", *(made.files if made else ())}
    return AuditOut(
        session=place.session,
        run=place.run,
        state="finished",
        started_at=made.started_at if made else None,
        finished_at=made.finished_at if made else None,
        **decided(said),
        **said.decision.model_dump(include=set(_MORE)),
        reference_revision=said.reference.revision,
        candidate_revision=said.candidate.revision,
        candidate_kind=said.candidate.kind,
        sae=said.sae,
        n_prompts=said.suite.n_prompts,
        n_wordings=said.suite.n_forms,
        inserts=tuple(Insert.model_validate(one.model_dump()) for one in inserts[:INSERTS]),
        n_inserts=len(inserts),
        coverage=_coverage(evidence) if evidence else None,
        own_explanations=evidence.own_explanations.line if evidence and evidence.own_explanations else None,
        n_tested=evidence.n_tested if evidence else None,
        n_significant=evidence.n_significant if evidence else None,
        files=tuple(name for name in get_args(Artefact) if name in names),
    )


def evidence_page(found: InterpEvidence, limit: int, offset: int) -> EvidencePage:
    """Some of the features that changed."""
    rows = found.features[offset : offset + limit]
    following = offset + len(rows)
    return EvidencePage(
        **found.model_dump(
            include={
                "session",
                "run",
                "sae",
                "hook",
                "pooling",
                "d_sae",
                "n_tested",
                "n_significant",
                "smallest_p",
            }
        ),
        coverage=_coverage(found),
        features=tuple(ChangedFeature.model_validate(one.model_dump()) for one in rows),
        total=len(found.features),
        offset=offset,
        next_offset=following if rows and following < len(found.features) else None,
    )


def calibration_rows(files: Files) -> tuple[CalibrationRow, ...]:
    """All that there are; of two that stand for the same audits, audits take the workspace's own.

    Raises:
        DamagedFileError: One of the workspace cannot be read.
    """
    own = [_calibration(one, "workspace") for one in list_calibrations(files)]
    ids = {one.id for one in own}
    shipped = (_calibration(one, "bundle") for one in shipped_calibrations())
    return (*own, *(one for one in shipped if one.id not in ids))


def _coverage(evidence: InterpEvidence) -> Coverage:
    return Coverage.model_validate(evidence.coverage.model_dump())


def _calibration(one: Calibration, source: str) -> CalibrationRow:
    identity = one.identity
    return CalibrationRow(
        id=calibration_id(identity),
        source="workspace" if source == "workspace" else "bundle",
        model=identity.model,
        sae=identity.sae,
        suite=identity.suite,
        method=identity.method,
        settings=dict(identity.settings),
        n=one.n,
        families=one.families,
    )
