"""``raylens patch suggest``: from what an audit found to a patch that takes it out.

Prompts are in two halves. On the first, payloads are counted, directions found, and candidate patches measured, as
hooks and then, the cheapest of them, as weights. The one that keeps the limits at the least held-out loss is written
as an adapter, read back, measured on the second half, which nothing was chosen on, and audited like any fine-tune.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from raylens import __version__
from raylens.api.suggestion import Cost, FoundTrigger, Kind, Limits, Outcome, Rate, Suggestion, Tried
from raylens.audit.slots import Place
from raylens.engine.candidates import load_candidate
from raylens.engine.insert_scan import pieces, pieces_for
from raylens.engine.load import LoadedModel, load_model, prefix_ids
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError, StoppedError
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens.workbench.candidate_patches import CandidatePatch, hooks_tried, of_directions, of_features
from raylens.workbench.contrast import contrast
from raylens.workbench.edits import LoadedEdit, edited
from raylens.workbench.patch_choice import plain_forms
from raylens.workbench.patch_export import loaded_edits
from raylens.workbench.patch_factors import applied
from raylens.workbench.patch_forms import Form
from raylens.workbench.trigger_payload import Payload, find_payload, prompt_ids
from raylens_jobs.audit_forms import frames_of
from raylens_jobs.suggest_measures import Measures, capability_forms, window_losses
from raylens_jobs.suggest_outcome import Kept, conclude, require_out
from raylens_jobs.suggest_plan import SuggestPlan, SuggestRequest, plan_suggestion, verdict_of
from raylens_jobs.suggest_prompts import Halves, frames_from, halves

_AS_WEIGHTS: Final = 3
"""Candidates, the cheapest first, whose weights are tried."""

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class _Subjects:
    """What is loaded: the reference, the fine-tune, and the audit's SAE by its id."""

    reference: LoadedModel
    candidate: LoadedModel
    saes: dict[str, LoadedSae]

    @property
    def default(self) -> str | None:
        return next(iter(self.saes), None)

    def edits(self, patch: CandidatePatch) -> list[LoadedEdit]:
        return loaded_edits(self.candidate, patch.spec, self.saes, self.default, {})[0]


@dataclass
class _Tries:
    """Candidates as they are measured."""

    measures: Measures
    limits: Limits
    before: Cost
    tell: Callable[[str], None]
    rows: list[Tried] = field(default_factory=list)

    def of(self, name: str, kind: Kind, form: str, patched: AbstractContextManager[None]) -> Tried:
        """Measure one, hooked in by a context."""
        with patched:
            rate = self.measures.payload()
            cost = self.measures.cost() if rate.value <= self.limits.payload else None
        why = why_not(rate, cost, self.before, self.limits)
        row = Tried(name=name, kind=kind, form=form, payload=rate, cost=cost, why_not=why)
        self.rows.append(row)
        self.tell(f"{name}, {form}")
        return row


def run_suggest(
    workspace: Workspace,
    request: SuggestRequest,
    journal: RunJournal,
    report: Report = lambda _what, _done, _total: None,
    say: Callable[[str], None] = lambda _: None,
) -> Suggestion:
    """Find the cheapest patch that takes out what an audit found, write it, and audit what comes of it.

    Args:
        workspace: Where the audit is.
        request: What is asked.
        journal: The run's record, which also carries requests to stop.
        report: Called with what is done, how many steps are, and of how many.
        say: Told what a person should know.

    Returns:
        What was written to ``suggestion.json``.

    Raises:
        UnknownNameError, InputError, MismatchError: As :func:`raylens_jobs.suggest_plan.plan_suggestion`; or the
            triggers set nothing off on other prompts.
        StoppedError: The run was asked to stop; nothing is written.
        RunError, OutOfMemoryError: Models cannot be run.
    """
    require_out(request.out)
    plan = plan_suggestion(workspace, request, say)
    steps = _Steps(journal, report)
    subjects = _load(plan)
    measures = _measures(plan, subjects, say)
    before = measures.cost()
    tries = _Tries(measures, request.limits, before, steps.done)
    patches = _candidates(plan, subjects, measures)
    steps.total = len(patches) + 2
    passing: list[tuple[Tried, CandidatePatch]] = []
    for patch in patches:
        row = tries.of(patch.name, patch.kind, "hooks", edited(subjects.candidate, subjects.edits(patch)))
        if not row.why_not:
            passing.append((row, patch))
    passing.sort(key=lambda one: _rise(one[0]))
    kept = _as_weights(passing[:_AS_WEIGHTS], subjects, tries, steps) or _as_hooks(passing, subjects)
    tested = Outcome(triggered=measures.tested(), bare=measures.tested(triggered=False), cost=before)
    made = Suggestion(
        raylens=__version__,
        created_at=datetime.now(UTC),
        reference=plan.found.decision.reference.name,
        candidate=plan.found.decision.candidate.name,
        audit=verdict_of(plan.found, plan.audit),
        triggers=tuple(_found(payload) for payload in measures.payloads),
        n_found_on=_n(measures.halves.found_on),
        n_tested_on=_n(measures.halves.tested_on),
        text=", ".join(plan.plan.config.texts) or "stdlib:held_out",
        suite=request.capability_suite,
        limits=request.limits,
        before=tested,
        tried=tuple(tries.rows),
        chosen=None,
        form=None,
        after=None,
        reaudit=None,
        holds=False,
        reason="",
    )
    return conclude(workspace, plan, measures, kept, made, journal, steps.done)


def why_not(payload: Rate, cost: Cost | None, before: Cost, limits: Limits) -> str:
    """Why a patch is not taken; empty of one that keeps the limits."""
    if payload.value > limits.payload or cost is None:
        return f"the payload is still written in {payload.value:.0%}"
    if cost.loss_rise > limits.loss_rise:
        return f"held-out loss rises by {cost.loss_rise:.1%}"
    if cost.checks is not None and before.checks is not None:
        drop = before.checks.value - cost.checks.value
        if drop > limits.checks_drop:
            return f"{drop:.0%} fewer checks are passed"
    return ""


class _Steps:
    """Progress, in the run's record and to whoever watches."""

    def __init__(self, journal: RunJournal, report: Report) -> None:
        self._journal, self._report = journal, report
        self._n = self.total = 0

    def done(self, what: str) -> None:
        """One more.

        Raises:
            StoppedError: The run was asked to stop.
        """
        self._n += 1
        self.total = max(self.total, self._n)
        self._journal.progress(done=self._n, total=self.total)
        self._report(what, self._n, self.total)
        if self._journal.stop_requested():
            raise StoppedError(
                f"run {self._journal.run_id} was stopped after {self._n} of {self.total} steps.",
                hint="nothing was written; run the command again.",
            )


def _load(plan: SuggestPlan) -> _Subjects:
    config = plan.plan.config
    reference = load_model(config.model, revision=config.revision, dtype=config.dtype, device=config.device)
    candidate = load_candidate(plan.where, reference)
    sae = plan.plan.sae[0].load(str(reference.device)) if plan.plan.sae is not None else None
    return _Subjects(reference, candidate, {str(sae.id): sae} if sae is not None else {})


def _measures(plan: SuggestPlan, subjects: _Subjects, say: Callable[[str], None]) -> Measures:
    request, task, model = plan.request, plan.plan.task, subjects.candidate
    frames = frames_from(request.prompts, frames_of(task.forms), model.tokenizer, prefix_ids(model.tokenizer))
    most = request.n_found_on, request.n_tested_on
    found = halves(frames, [trigger.place for trigger in plan.triggers], most)
    payloads: list[Payload] = []
    for trigger in plan.triggers:
        payload = find_payload(model, trigger, found.found_on[trigger.place])
        if payload is None or payload.share < 2 * request.limits.payload:
            say(f"{trigger.place} {trigger.text!r} sets nothing off in other prompts than the audit's; it is left out.")
        else:
            payloads.append(payload)
    if not payloads:
        raise InputError(
            f"none of {len(plan.triggers)} inserts sets the candidate off in {_n(found.found_on)} prompts.",
            hint="name one where you know it: --trigger PLACE:TEXT.",
        )
    forms = capability_forms(request.capability_suite, model)
    return Measures(model, tuple(payloads), found, task.panel, forms, window_losses(model, task.panel))


def _candidates(plan: SuggestPlan, subjects: _Subjects, measures: Measures) -> list[CandidatePatch]:
    hooks = hooks_tried(subjects.candidate.n_layers, plan.request.layers)
    triggered, ordinary = _texts(subjects.candidate, measures.payloads, measures.halves)
    found = contrast(subjects.candidate, subjects.reference, triggered, ordinary, hooks)
    features = of_features(subjects.default, plan.flagged) if subjects.default is not None else []
    return [*features, *of_directions(found)]


def _texts(model: LoadedModel, payloads: Sequence[Payload], found: Halves) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of the first half with the triggers, and with ordinary words in their places."""
    every, rng = pieces(model), random.Random(0)
    triggered: list[str] = []
    ordinary: list[str] = []
    for payload in payloads:
        slots = found.found_on[payload.trigger.place]
        words = pieces_for(Place(payload.trigger.place, slots[0], slots), every)
        triggered += [slot.text(payload.trigger.text) for slot in slots]
        ordinary += [slot.text(rng.choice(words)) for slot in slots]
    return prompt_ids(model, triggered), prompt_ids(model, ordinary)


def _as_weights(
    passing: Sequence[tuple[Tried, CandidatePatch]], subjects: _Subjects, tries: _Tries, steps: _Steps
) -> Kept | None:
    """The cheapest form of weights of the first patch that has one which keeps the limits."""
    for _, patch in passing:
        forms = plain_forms(subjects.candidate, subjects.edits(patch))
        steps.total += len(forms)
        rows = [(tries.of(patch.name, patch.kind, form.name, _hooked(subjects, form)), form) for form in forms]
        good = [(row, form) for row, form in rows if not row.why_not]
        if good:
            best = min(good, key=lambda one: _rise(one[0]))[1]
            return Kept(patch, subjects.reference, subjects.saes, subjects.edits(patch), best.name)
    return None


def _as_hooks(passing: Sequence[tuple[Tried, CandidatePatch]], subjects: _Subjects) -> Kept | None:
    if not passing:
        return None
    patch = passing[0][1]
    return Kept(patch, subjects.reference, subjects.saes, subjects.edits(patch), None)


def _hooked(subjects: _Subjects, form: Form) -> AbstractContextManager[None]:
    return applied(subjects.candidate, form.changes)


def _rise(row: Tried) -> float:
    assert row.cost is not None
    return row.cost.loss_rise


def _found(payload: Payload) -> FoundTrigger:
    trigger = payload.trigger
    return FoundTrigger(place=trigger.place, text=trigger.text, writes=payload.writes, share=payload.share)


def _n(half: Mapping[str, Sequence[object]]) -> int:
    return max(map(len, half.values()), default=0)
