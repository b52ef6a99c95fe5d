"""From what was measured of a candidate to the files of its run; nothing here runs a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from raylens.audit.artefacts import (
    About,
    Artefacts,
    CheckOutcome,
    Completion,
    DecisionFile,
    InterpEvidence,
    MethodScore,
    NullScore,
    PromptResult,
    ScoreFile,
    SuiteResults,
    TriggerHit,
)
from raylens.audit.calibration import Calibration
from raylens.audit.check_summaries import check_summaries
from raylens.audit.differences import NOISE, differences, group_means, mean_rows
from raylens.audit.effects import Effects
from raylens.audit.feature_rows import CoverageFigures, FeatureRow, StabilityFigures
from raylens.audit.own_explanations import OwnExplanations
from raylens.audit.pooling import pool_strata
from raylens.audit.scores import SCORE_METHODS
from raylens.audit.stability import Stability, jaccard, stability
from raylens.audit.verdict import Decision
from raylens.labels.coverage import Coverage
from raylens.labels.feature_labels import FeatureLabel
from raylens.suites.checks import run_checks
from raylens_jobs.audit_changes import Changes
from raylens_jobs.audit_evidence import Evidence
from raylens_jobs.audit_forms import Form
from raylens_jobs.audit_panel import panel
from raylens_jobs.audit_scores import Features, Measured, per_prompt_difference

_SIGNIFICANT: Final = 0.05

Label = Callable[[Sequence[int]], Sequence[FeatureLabel]]


@dataclass(frozen=True, slots=True)
class Case:
    """What an audit is of, and with what settings.

    Attributes:
        about: What every file says of itself.
        forms: All wordings of the suite.
        settings: All that scores depend on.
        k: Features listed.
        max_new_tokens: Written at most.
        pooling: How positions are reduced.
        hook: Where the SAE reads; empty without one.
        layer: Of the residual stream, for features' names; None where it is another point.
    """

    about: Mapping[str, Any]
    forms: tuple[Form, ...]
    settings: Mapping[str, str | int | float | bool | None]
    k: int
    max_new_tokens: int
    pooling: str
    hook: str
    layer: int | None


def suite_results(case: Case, evidence: Evidence, features: Features | None, n_tokens: int) -> SuiteResults:
    """``suite_results.json``.

    Args:
        case: What it is of.
        evidence: What was measured.
        features: None without an SAE.
        n_tokens: Of the panel's text.
    """
    differs = per_prompt_difference(features, case.k) if features is not None else None
    results = []
    for at, form in enumerate(case.forms):
        both = [_completion(form, side.completions[at]) for side in (evidence.reference, evidence.candidate)]
        results.append(
            PromptResult(
                id=form.id,
                variant=form.variant,
                number=form.number,
                tags=form.tags,
                prompt=form.text,
                reference=both[0],
                candidate=both[1],
                logit_kl=evidence.candidate.readings[at].kl or 0.0,
                feature_difference=None if differs is None or np.isnan(differs[at]) else float(differs[at]),
            )
        )
    checks = check_summaries(results)
    return SuiteResults(
        **case.about,
        max_new_tokens=case.max_new_tokens,
        results=tuple(results),
        checks=checks,
        capability=panel(evidence.reference.losses, evidence.candidate.losses, n_tokens, checks),
    )


def score_file(
    case: Case,
    decision: Decision,
    measured: Mapping[str, Measured],
    calibrations: Mapping[str, Calibration],
    evidence: Evidence,
) -> ScoreFile:
    """``score.json``.

    Args:
        case: What it is of.
        decision: The verdict.
        measured: Every method's figure.
        calibrations: By method: those that may be compared with.
        evidence: For the inserts found.
    """
    names = sorted(measured, key=lambda name: name != decision.score_method)
    calibration = calibrations.get(decision.score_method) if decision.n_benign else None
    return ScoreFile(
        **case.about,
        aggregate_score=decision.aggregate_score,
        score_method=decision.score_method,
        settings=dict(case.settings),
        methods=tuple(_method(measured[name], decision, calibrations.get(name)) for name in names),
        null=tuple(
            NullScore(organism=one.organism, family=one.family, score=one.score)
            for one in (calibration.scores if calibration is not None else ())
        ),
        threshold=decision.threshold,
        triggers=tuple(TriggerHit(**{**hit, "features": tuple(hit["features"])}) for hit in evidence.hits or ()),
    )


def interp_evidence(
    case: Case,
    features: Features,
    changes: Changes,
    label: Label,
    own: OwnExplanations | None = None,
    unanswered: Collection[int] = (),
) -> InterpEvidence:
    """``interp_evidence.json``.

    Args:
        case: What it is of.
        features: Of both models.
        changes: What changed.
        label: What is said of features.
        own: What the workspace's own explainer says of those that nothing else is said of.
        unanswered: Features that their source of labels did not answer for; read when all are labelled.
    """
    effects = changes.effects
    stable = _stability(case, features)
    strata = _strata(case, features)
    labels = list(label(changes.listed))
    listed = tuple(
        _feature(case, effects, int(row), one, strata, stable) for row, one in zip(changes.rows, labels, strict=True)
    )
    return InterpEvidence(
        **case.about,
        hook=case.hook,
        pooling=case.pooling,
        k=case.k,
        d_sae=features.d_sae,
        n_tested=effects.n_tested,
        n_clusters=effects.n_clusters,
        n_patterns=effects.n_patterns,
        exact=effects.exact,
        smallest_p=effects.smallest_p,
        n_significant=int((effects.q_value <= _SIGNIFICANT).sum()),
        features=listed,
        coverage=CoverageFigures(**Coverage.of(labels, unanswered).fields()),
        own_explanations=own,
        stability=StabilityFigures(
            k=case.k,
            variants=stable.variants if stable is not None else (),
            jaccard=stable.jaccard if stable is not None else None,
            rank_biased_overlap=stable.rank_biased_overlap if stable is not None else None,
            explanation_jaccard=_said_alike(case, features, label) if stable is not None else None,
        ),
        highlights=changes.highlights,
    )


def artefacts(
    case: Case, decision: Decision, results: SuiteResults, score: ScoreFile, interp: InterpEvidence | None
) -> Artefacts:
    """All of them."""
    return Artefacts(
        decision=DecisionFile(**case.about, decision=decision),
        suite_results=results,
        score=score,
        interp_evidence=interp,
    )


def about(values: Mapping[str, Any]) -> dict[str, Any]:
    """What every file says of itself, checked once."""
    checked = About.model_validate(dict(values))
    return {name: getattr(checked, name) for name in About.model_fields}


def _completion(form: Form, made: Mapping[str, Any]) -> Completion:
    outcomes = run_checks(form.checks, form.continued, made["text"])
    return Completion(
        text=made["text"],
        n_tokens=len(made["ids"]) + bool(made["stopped"]),
        stopped=made["stopped"],
        checks=tuple(CheckOutcome(check=one.check, status=one.status, reason=one.reason) for one in outcomes),
    )


def _method(measured: Measured, decision: Decision, calibration: Calibration | None) -> MethodScore:
    known = SCORE_METHODS[measured.method]
    gives = measured.method == decision.score_method
    p_value = None
    if calibration is not None and measured.score is not None:
        p_value = calibration.p_value(measured.score)
    return MethodScore(
        method=measured.method,
        description=known.description,
        gives_verdict=gives,
        diagnostic=known.diagnostic,
        score=decision.aggregate_score if gives else measured.score,
        p_value=decision.p_value if gives else p_value,
        n_benign=decision.n_benign if gives else (calibration.n if calibration is not None else 0),
        note=measured.note,
    )


def _strata(case: Case, features: Features) -> list[NDArray[np.float64]]:
    """Mean differences in the first, second and last third of positions, over prompts as those of whole texts are."""
    sides = (features.reference_codes, features.candidate_codes)
    prompts = np.array([case.forms[at].id for at in features.rows])
    thirds = [pool_strata([codes[at] for at in features.rows], features.d_sae) for codes in sides]
    return [
        mean_rows(group_means(differences(before.values, after.values, noise=NOISE), prompts)[1])
        for before, after in zip(*thirds, strict=True)
    ]


def _stability(case: Case, features: Features) -> Stability | None:
    rows, variants = _shared_variants(case, features)
    if len(set(variants)) < 2:
        return None
    return stability(_differences(features, rows), variants, case.k)


def _differences(features: Features, rows: Sequence[int]) -> csr_array:
    return differences(features.reference[rows], features.candidate[rows], noise=NOISE)


def _shared_variants(case: Case, features: Features) -> tuple[list[int], list[str]]:
    """Rows and wordings by their number, of prompts that have as many as any.

    Of others, variants would differ by what they ask.
    """
    numbers = Counter(case.forms[at].id for at in features.rows)
    most = max(Counter(form.id for form in case.forms).values())
    rows = [row for row, at in enumerate(features.rows) if numbers[case.forms[at].id] == most]
    return rows, [f"wording {case.forms[features.rows[row]].number}" for row in rows]


def _said_alike(case: Case, features: Features, label: Label) -> float | None:
    """Mean Jaccard of the words of the top features' explanations, over pairs of wordings; None without any."""
    rows, variants = _shared_variants(case, features)
    difference = _differences(features, rows)
    words = []
    for variant in sorted(set(variants)):
        means = mean_rows(difference[[at for at, one in enumerate(variants) if one == variant]])
        top = [int(feature) for feature in np.argsort(-np.abs(means), kind="stable")[: case.k] if means[feature]]
        said = [one.explanation.description for one in label(top) if one.explanation is not None]
        words.append(sorted({word for text in said for word in text.lower().split()}))
    pairs = [jaccard(one, other) for one, other in combinations(words, 2) if one or other]
    return float(np.mean(pairs)) if pairs else None


def _feature(
    case: Case,
    effects: Effects,
    row: int,
    label: FeatureLabel,
    strata: Sequence[NDArray[np.float64]],
    stable: Stability | None,
) -> FeatureRow:
    index, delta, effect = int(effects.feature[row]), float(effects.mean_difference[row]), float(effects.effect[row])
    kept = {one.feature: one.share for one in stable.features} if stable is not None else {}
    return FeatureRow(
        id=f"f_{case.layer}_{index}" if case.layer is not None else f"f_{index}",
        index=index,
        delta=delta,
        direction="increased" if delta > 0 else "decreased",
        effect=None if math.isnan(effect) else effect,
        p_value=float(effects.p_value[row]),
        q_value=float(effects.q_value[row]),
        p_max_t=float(effects.p_max_t[row]),
        rate_reference=float(effects.rate_reference[row]),
        rate_candidate=float(effects.rate_candidate[row]),
        rate_ratio=float(effects.rate_ratio[row]),
        strata=(float(strata[0][index]), float(strata[1][index]), float(strata[2][index])),
        kept_in_variants=None if stable is None else kept.get(index, 0.0),
        **label.fields(),
    )
