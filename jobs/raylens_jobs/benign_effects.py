"""From effects of benign fine-tunes to the score that is standardised by them: ``benign_standardised``.

It cannot be worked out while fine-tunes are measured, one after another: every benign one is standardised by those of
other families, and all others by all benign ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np

from raylens.audit.benign_effects import BenignEffects, cross_fitted
from raylens.audit.calibration import BenignScore, Calibration
from raylens.bundle.organisms import read_effects, shipped_calibration
from raylens.errors import InputError
from raylens.store.audit_calibrations import change_calibration, find_calibration
from raylens.store.audit_effects import Effect, Effects, matrix
from raylens.store.audit_organisms import OrganismRow
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import AuditPlan
from raylens_jobs.audit_scores import Features

METHOD: Final = "benign_standardised"
_LIKE: Final = "abs_diff_topk"
"""Another score of features: whoever has it was measured, and is in its calibration."""


def effect_of(organism: str, family: str, made: str, features: Features) -> Effect:
    """What a fine-tune does to each feature, to be kept.

    Args:
        organism: Its id.
        family: Fine-tunes made alike.
        made: Hash of its recipe, or its revision.
        features: Of both models.
    """
    return Effect.of(organism, family, made, features.mean_differences())


def benign_effects(plan: AuditPlan, workspace: Workspace) -> BenignEffects | None:
    """What an audit's candidate is standardised by; None where that is not known.

    It is from the very fine-tunes of the calibration that the score is then compared with: where effects of one are
    missing, there is none.
    """
    if plan.sae is None:
        return None
    identity = plan.identity(METHOD)
    given = plan.calibrations.of(identity) if plan.calibrations is not None else None
    if plan.calibrations is not None and given is not None:
        return read_effects(given, plan.calibrations.path.parent)
    own = find_calibration(workspace.files, identity)
    if own is None:
        shipped = shipped_calibration(identity)
        return read_effects(shipped) if shipped is not None else None
    found = _standard(own.organisms, Effects(workspace.files, identity).read(own.organisms), plan)
    return found[1] if found is not None and found[0].organisms == own.organisms else None


def recalibrate(workspace: Workspace, plan: AuditPlan) -> Calibration | None:
    """Fit the calibration anew, of all fine-tunes that calibrate this plan: one more changes the scores of all.

    Returns:
        None without an SAE, or where they are too few.
    """
    if plan.sae is None:
        return None
    like = find_calibration(workspace.files, plan.identity(_LIKE))
    wanted = like.organisms if like is not None else frozenset()
    effects = Effects(workspace.files, plan.identity(METHOD))

    def anew(_: Calibration | None) -> Calibration | None:
        found = _standard(wanted, effects.read(wanted), plan)
        return found[0] if found is not None else None

    return change_calibration(workspace.files, plan.identity(METHOD), anew, reads=False)


def calibration_of(effects: Sequence[Effect], plan: AuditPlan) -> Calibration | None:
    """Benign fine-tunes' own scores, each by those of other families; None where they are too few."""
    if plan.sae is None or not effects:
        return None
    families = [one.family for one in effects]
    try:
        found = cross_fitted(matrix(effects, plan.sae[1].d_sae), families, plan.config.k).tolist()
    except InputError:
        return None
    scores = tuple(
        BenignScore(organism=one.organism, family=one.family, score=score)
        for one, score in zip(effects, found, strict=True)
    )
    return Calibration(identity=plan.identity(METHOD), scores=scores)


def standardised(
    rows: Sequence[OrganismRow], benign: Iterable[OrganismRow], effects: Sequence[Effect], plan: AuditPlan
) -> list[OrganismRow]:
    """Those of ``rows`` that get another ``benign_standardised`` than they have, with it.

    Args:
        rows: All organisms of a plan.
        benign: Of these those that calibrate.
        effects: Of all of ``rows``, of the same recipes.
        plan: How they were scored.
    """
    if plan.sae is None:
        return []
    known = {one.organism: one for one in effects}
    found = _standard({one.organism for one in benign}, effects, plan)
    if found is None:
        return []
    calibration, fit = found
    scores = {one.organism: one.score for one in calibration.scores}
    changed = []
    for row in rows:
        if row.organism not in known:
            continue
        score = scores.get(row.organism)
        if score is None:
            score = _as_candidate(known[row.organism], fit, plan)
        if not np.isclose(row.scores.get(METHOD, np.nan), score, rtol=1e-12, atol=0):
            changed.append(row.with_score(METHOD, score))
    return changed


def fit_of(organisms: Iterable[str], workspace: Workspace, plan: AuditPlan) -> BenignEffects | None:
    """From the kept effects of these organisms, or what ships of them together."""
    if plan.sae is None:
        return None
    wanted = set(organisms)
    found = _standard(wanted, Effects(workspace.files, plan.identity(METHOD)).read(wanted), plan)
    return found[1] if found is not None else None


def _standard(
    wanted: AbstractSet[str], effects: Iterable[Effect], plan: AuditPlan
) -> tuple[Calibration, BenignEffects] | None:
    """Scores of these fine-tunes, and what others are standardised by; None where they are too few.

    From effects of each where these are kept. Of what ships only mean and scale of all together are there: others
    beside them are then standardised by those, as a candidate is.
    """
    assert plan.sae is not None
    known = {one.organism: one for one in effects}
    some = [known[name] for name in sorted(wanted & known.keys())]
    if len(some) < len(wanted):
        shipped = shipped_calibration(plan.identity(METHOD))
        if shipped is not None and shipped.organisms <= wanted and (fit := read_effects(shipped)) is not None:
            return _beside_shipped(shipped, fit, [known[name] for name in sorted(known.keys() & wanted)], plan)
    calibration = calibration_of(some, plan)
    try:
        fit = BenignEffects.fit(matrix(some, plan.sae[1].d_sae))
    except InputError:
        return None
    return (calibration, fit) if calibration is not None else None


def _beside_shipped(
    shipped: Calibration, fit: BenignEffects, others: Sequence[Effect], plan: AuditPlan
) -> tuple[Calibration, BenignEffects]:
    """What ships, and of the others those that it does not have."""
    scores = tuple(
        BenignScore(organism=one.organism, family=one.family, score=_as_candidate(one, fit, plan))
        for one in others
        if one.organism not in shipped.organisms
    )
    return shipped.model_copy(update={"scores": (*shipped.scores, *scores)}), fit


def _as_candidate(one: Effect, fit: BenignEffects, plan: AuditPlan) -> float:
    """The score of a fine-tune that is none of those it is standardised by."""
    return fit.score(matrix([one], len(fit.mean)).toarray()[0], plan.config.k)
