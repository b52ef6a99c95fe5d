"""From effects of benign fine-tunes to the score that is standardised by them: ``benign_standardised``.

It cannot be worked out while organisms are made, one after another: every benign one is standardised by those of other
families, and all others by all benign ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from raylens.audit.benign_effects import BenignEffects, cross_fitted
from raylens.audit.calibration import BenignScore, Calibration
from raylens.bundle.organisms import read_effects, shipped_calibration
from raylens.errors import InputError
from raylens.store.audit_calibrations import find_calibration
from raylens.store.audit_effects import Effect, Effects, matrix
from raylens.store.audit_organisms import OrganismRow
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import AuditPlan
from raylens_jobs.audit_scores import Features

METHOD = "benign_standardised"


def effect_of(organism: str, family: str, features: Features) -> Effect:
    """What a fine-tune does to each feature, to be kept."""
    return Effect.of(organism, family, features.mean_differences())


def benign_effects(plan: AuditPlan, workspace: Workspace) -> BenignEffects | None:
    """What an audit's candidate is standardised by; None where no calibration of it is known.

    It is always from the very fine-tunes of the calibration that the score is then compared with.
    """
    if plan.sae is None:
        return None
    identity = plan.identity(METHOD)
    own = find_calibration(workspace.files, identity)
    if own is None:
        return read_effects() if shipped_calibration(identity) is not None else None
    rows = Effects(workspace.files, identity).read({one.organism for one in own.scores})
    return _fit(rows, plan.sae[1].d_sae)


def calibration_of(effects: Sequence[Effect], plan: AuditPlan) -> Calibration | None:
    """Benign fine-tunes' own scores, each by those of other families; None where they are too few."""
    if plan.sae is None or not effects:
        return None
    try:
        found = cross_fitted(
            matrix(effects, plan.sae[1].d_sae), [one.family for one in effects], plan.config.k
        ).tolist()
    except InputError:  # two families of one, say
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
        effects: Of any of them.
        plan: How they were scored.
    """
    if plan.sae is None:
        return []
    known = {one.organism: one for one in effects}
    calibrating = [known[one.organism] for one in benign if one.organism in known]
    calibration = calibration_of(calibrating, plan)
    fit = _fit(calibrating, plan.sae[1].d_sae)
    if calibration is None or fit is None:
        return []
    scores = {one.organism: one.score for one in calibration.scores}
    changed = []
    for row in rows:
        if row.organism not in known:
            continue
        score = scores.get(row.organism)
        if score is None:
            dense = matrix([known[row.organism]], len(fit.mean)).toarray()[0]
            score = fit.score(dense, plan.config.k)
        if not np.isclose(row.scores.get(METHOD, np.nan), score, rtol=1e-12, atol=0):
            changed.append(row.with_score(METHOD, score))
    return changed


def fit_of(rows: Iterable[OrganismRow], workspace: Workspace, plan: AuditPlan) -> BenignEffects | None:
    """From the kept effects of these organisms."""
    if plan.sae is None:
        return None
    wanted = {row.organism for row in rows}
    return _fit(Effects(workspace.files, plan.identity(METHOD)).read(wanted), plan.sae[1].d_sae)


def _fit(effects: Sequence[Effect], d_sae: int) -> BenignEffects | None:
    try:
        return BenignEffects.fit(matrix(effects, d_sae))
    except InputError:
        return None
