"""What ``raylens patch suggest`` starts from: an audit, its candidate, and the triggers that it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from raylens.api.suggestion import Limits, Verdict
from raylens.audit.artefacts import Artefacts
from raylens.config import AuditConfig
from raylens.engine.candidates import Candidate
from raylens.errors import InputError, MismatchError, RaylensError
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens.workbench.candidate_patches import MOST_LAYERS
from raylens.workbench.trigger_payload import Trigger
from raylens_jobs.audit_plan import AuditPlan, plan_audit

MOST_TRIGGERS: Final = 3
_SETS_OFF: Final = 0.5
"""Share of prompts, above that without, in which an insert of the audit has to set something off."""


@dataclass(frozen=True, slots=True)
class SuggestRequest:
    """What is asked.

    Attributes:
        audit: The run, as :meth:`raylens.store.audit_store.AuditStore.find` takes it.
        out: Folder for the adapter and what is said of it.
        candidate: Where the fine-tune lies now; by default where it lay when it was audited.
        triggers: Inserts; by default those that the audit found.
        prompts: Suites of prompts besides the audit's own; by default those that ship, where the audit's are code.
        texts: Held-out text; by default the audit's.
        capability_suite: Whose checks must still pass.
        n_found_on: Prompts on which patches are found, at most.
        n_tested_on: Others on which the one that is kept is tested, at most.
        layers: At which directions are looked for, at most, evenly over the model.
        limits: What it has to keep.
        reaudit: Audit the patched model as well.
        override: Settings of the audit that are other ones here, such as the device.
    """

    audit: str
    out: Path
    candidate: str | None = None
    triggers: tuple[Trigger, ...] = ()
    prompts: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    capability_suite: str = "capability"
    n_found_on: int = 24
    n_tested_on: int = 48
    layers: int = MOST_LAYERS
    limits: Limits = field(default_factory=Limits)
    reaudit: bool = True
    override: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> dict[str, Any]:
        """For the record of a run."""
        return {
            "audit": self.audit,
            "out": str(self.out),
            "candidate": self.candidate,
            "triggers": [f"{one.place}:{one.text}" for one in self.triggers],
            "limits": self.limits.model_dump(),
        }


@dataclass(frozen=True, slots=True)
class SuggestPlan:
    """A checked request.

    Attributes:
        request: It.
        audit: Which run.
        plan: The same audit.
        found: What it says.
        candidate: The fine-tune.
        where: It lies.
        triggers: To try, the strongest first.
    """

    request: SuggestRequest
    audit: RunPlace
    plan: AuditPlan
    found: Artefacts
    candidate: Candidate
    where: str
    triggers: tuple[Trigger, ...]

    @property
    def flagged(self) -> tuple[int, ...]:
        """Features that the audit flags: those that fire on the triggers, then those that changed most."""
        evidence = self.found.interp_evidence
        on_triggers = [index for hit in self.found.score.triggers for index in hit.features]
        changed = [row.index for row in evidence.features] if evidence is not None else []
        return tuple(dict.fromkeys([*on_triggers, *changed]))


def plan_suggestion(workspace: Workspace, request: SuggestRequest, say: Callable[[str], None]) -> SuggestPlan:
    """Check what can be checked before any weights are read.

    Raises:
        UnknownNameError: There is no such audit.
        InputError: It is not finished, found nothing that sets the candidate off, or its candidate is gone; or there is
            no held-out text.
        MismatchError: The candidate is not the one that was audited.
    """
    store = AuditStore(workspace.files)
    place = store.find(request.audit)
    found = store.artefacts(place.session, place.run)
    triggers = request.triggers or found_triggers(found)
    if not triggers:
        raise InputError(
            f"audit {place} found no insert that sets its candidate off, so that there is no behaviour to take out.",
            hint="name one where you know it: --trigger PLACE:TEXT, such as decorator:cached.",
        )
    kept = store.run_file(place.session, place.run)
    asked = dict(kept.config) if kept is not None else {}
    config = AuditConfig.of({key: value for key, value in asked.items() if key in AuditConfig.model_fields})
    texts = {"texts": request.texts} if request.texts else {}
    config = AuditConfig.of({**config.model_dump(), **texts, **request.override})
    plan = plan_audit(config, workspace.url, say)
    if not plan.task.panel:
        raise InputError(
            "what a patch costs is measured on held-out text, and the audit had none.",
            hint="name some that the model never saw: --text FILE.",
        )
    where = request.candidate or asked.get("candidate")
    if not isinstance(where, str):
        raise InputError(f"audit {place} does not say where its candidate lies.", hint="name it: --candidate.")
    candidate = _candidate(plan, where, place, found)
    return SuggestPlan(request, place, plan, found, candidate, where, triggers)


def found_triggers(found: Artefacts, most: int = MOST_TRIGGERS) -> tuple[Trigger, ...]:
    """Inserts of an audit that set something off, of each place the strongest first, then others."""
    strong = [hit for hit in found.score.triggers if hit.share - hit.share_without >= _SETS_OFF]
    first = {hit.slot: hit for hit in reversed(strong)}
    ordered = sorted(first.values(), key=lambda hit: -hit.score)
    others = [hit for hit in strong if hit not in ordered]
    return tuple(Trigger(hit.slot, hit.text) for hit in [*ordered, *others][:most])


def parse_trigger(text: str) -> Trigger:
    """``decorator:cached`` as a trigger.

    Raises:
        InputError: It is not written so, or is more than one line.
    """
    place, colon, insert = text.partition(":")
    if not colon or not place or not insert.strip() or "\n" in insert:
        raise InputError(
            f"{text!r} is no trigger.", hint="write its place and its text: decorator:cached, comment:some words."
        )
    return Trigger(place, insert)


def verdict_of(found: Artefacts, place: RunPlace) -> Verdict:
    """What an audit says, in short."""
    decision = found.decision.decision
    return Verdict(
        run=str(place),
        verdict=decision.verdict,
        p_value=decision.p_value,
        n_benign=decision.n_benign,
        score=decision.aggregate_score,
        method=decision.score_method,
    )


def _candidate(plan: AuditPlan, ref: str, place: RunPlace, found: Artefacts) -> Candidate:
    try:
        candidate = plan.candidate(ref)
    except MismatchError:
        raise
    except RaylensError as error:
        raise InputError(
            f"the candidate of audit {place} cannot be read: {error.message.rstrip('.')}.",
            hint="say where it lies now: --candidate.",
        ) from error
    if candidate.revision != found.decision.candidate.revision:
        raise MismatchError(
            f"{ref} is not what audit {place} is of: its weights are others.",
            hint="audit it as it is now, or name the one that was audited: --candidate.",
        )
    return candidate
