"""``raylens audit run``: does a candidate differ from its reference more than benign fine-tunes do?

The driver: refuses what does not fit before any work, has everything measured, judges, and writes the run's files,
``decision.json`` last. An audit that was interrupted goes on where it ended; the same command finds a finished one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from raylens.audit.artefacts import Artefacts, InterpEvidence, Subject, SuiteUsed
from raylens.audit.calibration import Calibration
from raylens.audit.draws import RECORDED
from raylens.audit.scores import SCORE_METHODS
from raylens.audit.verdict import Decision, decide
from raylens.bundle.organisms import shipped_calibration, shipped_calibrations
from raylens.engine.candidates import Candidate
from raylens.errors import InputError, RunError, StoppedError
from raylens.labels.lookup import Lookup
from raylens.reports.json_files import artefact_files, read_artefacts
from raylens.reports.report_html import report_html
from raylens.reports.report_md import report_md
from raylens.store.audit_calibrations import closest_calibration, find_calibration
from raylens.store.audit_paths import RunPlace, run_name
from raylens.store.audit_runs import Again
from raylens.store.audit_store import AuditStore
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.audit_artefacts import Case, about, artefacts, interp_evidence, score_file, suite_results
from raylens_jobs.audit_changes import changes_of
from raylens_jobs.audit_evidence import Auditor, Evidence
from raylens_jobs.audit_explain import OnDemand, explain_listed
from raylens_jobs.audit_plan import AuditPlan, shown
from raylens_jobs.audit_pool import Tagged
from raylens_jobs.audit_scores import Features, is_identical, scores_of
from raylens_jobs.audit_workers import Auditing, Report, on_ray
from raylens_jobs.benign_effects import METHOD, benign_effects

DEFAULT_SESSION: Final = "default"
_VERSIONS: Final = ("torch", "transformers", "peft", "sae-lens", "ray", "numpy")


@dataclass(frozen=True, slots=True)
class AuditRun:
    """A finished audit.

    Attributes:
        place: Session and run.
        folder: Where its files are.
        artefacts: What they say.
        was_there: It was finished before, and nothing was done.
    """

    place: RunPlace
    folder: str
    artefacts: Artefacts
    was_there: bool = False

    @property
    def decision(self) -> Decision:
        """The verdict."""
        return self.artefacts.decision.decision


@dataclass(frozen=True, slots=True)
class Request:
    """One candidate to be audited.

    Attributes:
        candidate: A hub id, a checkpoint or an adapter folder.
        session: Folder of runs.
        run: Its name; by default from all that determines the result.
        title: For the report; by default made of the two names.
        again: What becomes of a finished run of that name.
        explain: How listed features are explained that nothing is said of; None for not at all.
    """

    candidate: str
    session: str = DEFAULT_SESSION
    run: str | None = None
    title: str | None = None
    again: Again = "refuse"
    explain: OnDemand | None = field(default_factory=OnDemand)

    @property
    def asked(self) -> dict[str, Any]:
        """For the record of a run."""
        return {"candidate": self.candidate, "explain": self.explain.asked() if self.explain is not None else None}


def find_finished(workspace: Workspace, plan: AuditPlan, request: Request) -> AuditRun | None:
    """The same audit where it is finished already; None where it is to be made.

    Raises:
        UnknownNameError, InputError, MismatchError, DamagedFileError: There is no such candidate, or it cannot be
            compared; or the run of that name is of something else.
    """
    place = place_of(plan, request)
    store = AuditStore(workspace.files)
    if request.again != "refuse" or not store.is_finished(place.session, place.run):
        return None
    kept = store.artefacts(place.session, place.run)
    if request.run is not None:  # other names are made of all that follows
        _require_same(kept, plan, request, place)
    return AuditRun(place, workspace.files.native(place.folder), kept, was_there=True)


def _require_same(kept: Artefacts, plan: AuditPlan, request: Request, place: RunPlace) -> None:
    """A name that somebody gave may be that of another audit, whose verdict would be taken for this one's."""
    about, decision = kept.decision, kept.decision.decision
    pairs = {
        "reference": (about.reference.revision, plan.reference.revision),
        "candidate": (about.candidate.revision, plan.candidate(request.candidate).revision),
        "SAE": (about.sae, str(plan.sae[1].id) if plan.sae else None),
        "suite": (about.suite.digest, plan.suite.digest),
        "score method": (decision.score_method, plan.method.name),
        "target false-positive rate": (decision.target_fpr, plan.config.target_fpr),
        "settings": (dict(kept.score.settings), {**plan.settings, **RECORDED}),
    }
    differing = [name for name, (before, now) in pairs.items() if before != now]
    if differing:
        raise InputError(
            f"run {place} is finished, and of another {', '.join(differing)}.",
            hint="give this one another name with --run, or make that one anew with --again.",
        )


def run_audit(
    workspace: Workspace,
    plan: AuditPlan,
    request: Request,
    journal: RunJournal,
    report: Report = lambda _done, _total: None,
    auditing: Auditing | None = None,
) -> AuditRun:
    """Audit one candidate; what is done of it already is not done again.

    Args:
        workspace: Where runs, calibrations and labels are.
        plan: From :func:`raylens_jobs.audit_plan.plan_audit`.
        request: The candidate.
        journal: The run's record, which also carries requests to stop.
        report: Called with pieces of work done and in all.
        auditing: Where models run; by default :func:`raylens_jobs.audit_workers.on_ray`.

    Raises:
        InputError: The candidate cannot be loaded, or the run is finished.
        MismatchError: Candidate and reference cannot be compared.
        BusyError: The same run is being made elsewhere.
        StoppedError: The run was asked to stop; what is done is kept.
        RunError: An actor failed; a rerun goes on.
    """
    candidate, place = plan.candidate(request.candidate), place_of(plan, request)
    if plan.method.name == METHOD and benign_effects(plan, workspace) is None:
        raise InputError(
            f"{METHOD} compares with what benign fine-tunes of {shown(plan.reference.name)} do, which is not known.",
            hint="make some with raylens organisms build, or name some: raylens audit calibrate --candidate.",
        )
    store = AuditStore(workspace.files)
    asked = {**plan.config.model_dump(mode="json"), **request.asked}

    def tell(done: int, total: int) -> None:
        journal.progress(done=done, total=total)
        report(done, total)
        if journal.stop_requested():
            raise StoppedError(
                f"run {journal.run_id} was stopped after {done} of {total} pieces of work.",
                hint="run the same command again to go on from there.",
            )

    with store.write_run(place.session, place.run, journal.run_id, again=request.again, config=asked) as writer:
        store.create_session(place.session, asked)
        with (auditing or on_ray)(workspace, plan, tell) as work:
            own = Tagged(writer, plan.pieces_key(candidate))
            evidence = work.evidence(request.candidate, own, candidate.revision)
            made = _judge(plan, workspace, candidate, request, place, evidence, work, journal)
        texts = artefact_files(made)
        kept = read_artefacts(texts)
        writer.finish({**texts, "report.md": report_md(kept), "report.html": report_html(kept)}, versions=_versions())
    return AuditRun(place, workspace.files.native(place.folder), kept)


def place_of(plan: AuditPlan, request: Request) -> RunPlace:
    """Session and run of a request: by default named by all that determines the result."""
    return RunPlace(request.session, request.run or _run_name(plan, plan.candidate(request.candidate), request))


def calibrations_of(plan: AuditPlan, workspace: Workspace) -> dict[str, Calibration]:
    """Benign scores that may be compared with, by method: those named, the workspace's own, or those of the bundle."""
    found = {}
    for name in SCORE_METHODS:
        identity = plan.identity(name)
        given = plan.calibrations.of(identity) if plan.calibrations is not None else None
        one = given or find_calibration(workspace.files, identity) or shipped_calibration(identity)
        if one is not None:
            found[name] = one
    return found


def _judge(
    plan: AuditPlan,
    workspace: Workspace,
    candidate: Candidate,
    request: Request,
    place: RunPlace,
    evidence: Evidence,
    work: Auditor,
    journal: RunJournal,
) -> Artefacts:
    config = plan.config
    features = Features.of(evidence, plan.sae[1].d_sae, config.pooling) if plan.sae else None
    measured = scores_of(evidence, features, config.k, benign_effects(plan, workspace))
    case = _case(plan, candidate, request, place)
    n_tokens = sum(len(window) - 1 for window in plan.task.panel)
    results = suite_results(case, evidence, features, n_tokens)
    calibrations = calibrations_of(plan, workspace)
    own = measured[plan.method.name]
    if own.score is None:
        raise RunError(f"{own.method} could not be computed: {own.note}.", hint="choose another --score-method.")
    decision = decide(
        own.score,
        plan.identity(),
        calibrations.get(own.method) or _closest(plan, workspace),
        target_fpr=config.target_fpr,
        capability=results.capability.capability,
        identical=is_identical(evidence, features),
    )
    interp = None
    if features is not None:
        interp = _interp(plan, workspace, case, features, evidence, work, request.explain, journal)
    return artefacts(case, decision, results, score_file(case, decision, measured, calibrations, evidence), interp)


def _closest(plan: AuditPlan, workspace: Workspace) -> Calibration | None:
    """A calibration of something else, so that the verdict can say what differs."""
    own = closest_calibration(workspace.files, plan.identity())
    if own is not None:
        return own
    identity = plan.identity()
    alike = [one for one in shipped_calibrations() if one.identity.method == identity.method]
    return min(alike, key=lambda one: len(one.matches(identity)), default=None)


def _interp(
    plan: AuditPlan,
    workspace: Workspace,
    case: Case,
    features: Features,
    evidence: Evidence,
    work: Auditor,
    explain: OnDemand | None,
    journal: RunJournal,
) -> InterpEvidence:
    """What changed and what is said of it; where that is explained first, ``work`` is released for it."""
    assert plan.sae is not None
    decoder = work.decoder()
    changes = changes_of(case.forms, case.k, features, evidence, work.tokens)
    with closing(Lookup.of_sae(workspace, plan.catalog, plan.sae[1])) as labels:
        own = None
        if explain is not None:
            own = explain_listed(explain, plan, workspace, labels, changes.listed, journal, work.release)
        return interp_evidence(
            case,
            features,
            changes,
            lambda wanted: labels.labels(wanted, decoder, hide_low_similarity=plan.config.hide_low_similarity),
            own,
            labels.unanswered,
        )


def _case(plan: AuditPlan, candidate: Candidate, request: Request, place: RunPlace) -> Case:
    reference, sae = plan.reference, plan.sae[1] if plan.sae else None
    names = shown(reference.name), shown(request.candidate)
    header = {
        "title": request.title or f"{names[1]} against {names[0]}",
        "session": place.session,
        "run": place.run,
        "reference": Subject(name=names[0], revision=reference.revision),
        "candidate": Subject(name=names[1], revision=candidate.revision, kind=candidate.kind),
        "sae": str(sae.id) if sae else None,
        "suite": SuiteUsed(
            name=plan.suite.name,
            digest=plan.suite.digest,
            n_prompts=len(plan.suite.prompts),
            n_forms=plan.suite.n_forms,
        ),
    }
    layer = sae.hook.layer_index if sae else None
    return Case(
        about=about(header),
        forms=plan.task.forms,
        settings={**plan.settings, **RECORDED},
        k=plan.config.k,
        max_new_tokens=plan.config.max_new_tokens,
        pooling=plan.config.pooling,
        hook=str(sae.hook) if sae else "",
        layer=layer,
    )


def _run_name(plan: AuditPlan, candidate: Candidate, request: Request) -> str:
    made_from: dict[str, Any] = {
        "reference": plan.reference_key,
        "candidate": candidate.revision,
        "method": plan.method.name,
        "suite": plan.suite.digest,
        "settings": plan.settings,
        "target_fpr": plan.config.target_fpr,
        "title": request.title,
    }
    if plan.calibrations is not None:
        made_from["calibrations"] = [one.model_dump(mode="json") for one in plan.calibrations.calibrations]
    return run_name(request.candidate, made_from)


def _versions() -> Mapping[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
