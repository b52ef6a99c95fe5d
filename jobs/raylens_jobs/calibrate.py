"""``raylens audit calibrate``: scores of benign fine-tunes, without which no verdict exists.

They come from the rows of ``raylens organisms build``, or from fine-tunes that the user knows to be benign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raylens.audit.calibration import BenignScore, Calibration
from raylens.audit.scores import SCORE_METHODS
from raylens.bundle.organisms import shipped_calibration
from raylens.errors import InputError, StoppedError
from raylens.store.audit_calibrations import save_calibration
from raylens.store.audit_effects import Effects
from raylens.store.audit_store import AuditStore
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.audit_evidence import auditor
from raylens_jobs.audit_plan import AuditPlan, shown
from raylens_jobs.audit_scores import Features, scores_of
from raylens_jobs.benign_effects import METHOD, effect_of, recalibrate
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.registered import registered_name, require_distinct
from raylens_jobs.workers import choose_workers

_SESSION = "calibration"


@dataclass(frozen=True, slots=True)
class Registered:
    """A fine-tune that somebody knows to be benign.

    Attributes:
        ref: A hub id, a checkpoint or an adapter folder.
        family: Fine-tunes made alike.
    """

    ref: str
    family: str


def calibrate(
    workspace: Workspace,
    plan: AuditPlan,
    benign: Sequence[Registered],
    journal: RunJournal,
    report: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> list[Calibration]:
    """Score each fine-tune by every method, and add the scores to those that are there.

    They come beside what ships for the same audits, if anything does. A fine-tune that was scored before is scored
    again, in place of what was there; a copy of it is the same fine-tune. What is done of one stays until all are
    done, so that a rerun goes on.

    Args:
        workspace: Where calibrations go.
        plan: Reference, SAE, suite and settings.
        benign: The fine-tunes.
        journal: The run's record.
        report: Called with fine-tunes done, in all, and the last one.

    Raises:
        InputError: One is no candidate, is the reference itself or named twice, or there are none.
        MismatchError: One cannot be compared with the reference.
        StoppedError: The run was asked to stop.
        RunError: An actor failed.
    """
    if not benign:
        raise InputError("no benign fine-tune is named.", hint="add --candidate, or use raylens organisms build.")
    found = [(one, plan.candidate(one.ref)) for one in benign]
    require_distinct(plan, [candidate for _, candidate in found])
    scores: dict[str, list[BenignScore]] = {}
    store, effects = AuditStore(workspace.files), Effects(workspace.files, plan.identity(METHOD))
    with cluster(plan.config.address):
        probe_shared(workspace)
        shared = store.references(plan.reference_key)
        with auditor(plan.subjects, plan.task, shared, choose_workers(plan.config)) as work:
            for done, (one, candidate) in enumerate(found, start=1):
                kept = store.parts(_SESSION, plan.pieces_key(candidate))
                evidence = work.evidence(one.ref, kept, candidate.revision)
                features = Features.of(evidence, plan.sae[1].d_sae, plan.config.pooling) if plan.sae else None
                name = registered_name(shown(one.ref), candidate)
                if features is not None:
                    effects.append(effect_of(name, one.family, candidate.revision, features))
                for method, measured in scores_of(evidence, features, plan.config.k).items():
                    if measured.score is not None:
                        scored = BenignScore(organism=name, family=one.family, score=measured.score)
                        scores.setdefault(method, []).append(scored)
                journal.progress(done=done, total=len(found))
                report(done, len(found), name)
                if journal.stop_requested():
                    raise StoppedError(
                        f"run {journal.run_id} was stopped after {done} of {len(found)} fine-tunes.",
                        hint="run the same command again to go on from there.",
                    )
    stored = []
    for method in (name for name in SCORE_METHODS if name in scores):
        made = Calibration(identity=plan.identity(method), scores=tuple(scores[method]))
        stored.append(save_calibration(workspace.files, made, beside=shipped_calibration(made.identity)))
    standardised = recalibrate(workspace, plan)
    if standardised is not None:
        stored.append(standardised)
    for _, candidate in found:
        store.parts(_SESSION, plan.pieces_key(candidate)).drop_parts()
    return stored
