"""Audits: what they found, and what they rest on."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import AwareDatetime

from raylens.api.base import Answer

Verdict = Literal["flagged", "not flagged", "inconclusive"]
Capability = Literal["intact", "broken", "not measured"]
AuditState = Literal["finished", "at work", "unfinished", "damaged"]
Artefact = Literal[
    "decision.json",
    "suite_results.json",
    "score.json",
    "interp_evidence.json",
    "report.md",
    "report.html",
    "run.json",
]
"""Files of an audit."""

INSERTS: Final = 3
"""Inserts of a summary; ``score.json`` has all."""


class AuditRow(Answer):
    """An audit in a list.

    Attributes:
        session: Its session.
        run: Its name in the session.
        state: ``finished`` once there is a decision; ``at work`` while somebody writes it.
        writer: Who does: the id of a run.
        started_at: When.
        finished_at: When.
        title: Of the report.
        verdict: What was decided; this and what follows of finished ones alone.
        p_value: Conformal; None without benign scores to compare with.
        n_benign: Of how many.
        target_fpr: Share of benign fine-tunes that may be flagged.
        score: Of the candidate.
        score_method: That gave it.
        capability: Whether the candidate still does what the reference can.
        reference: What the candidate was tuned from.
        candidate: What was audited.
        suite: The prompts.
    """

    session: str
    run: str
    state: AuditState
    writer: str | None = None
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    title: str | None = None
    verdict: Verdict | None = None
    p_value: float | None = None
    n_benign: int | None = None
    target_fpr: float | None = None
    score: float | None = None
    score_method: str | None = None
    capability: Capability | None = None
    reference: str | None = None
    candidate: str | None = None
    suite: str | None = None


class AuditPage(Answer):
    """Audits, the one that was finished last first.

    Attributes:
        audits: Of this page.
        total: All that were asked for.
        offset: How many were passed over.
        next_offset: Where to go on; None at the end.
    """

    audits: tuple[AuditRow, ...]
    total: int
    offset: int
    next_offset: int | None


class Insert(Answer):
    """An insert that drives the candidate from its reference.

    Attributes:
        slot: Where in a prompt it stands.
        text: The insert.
        score: How surprising to the reference is what the candidate writes after it, nats.
        writes: What the candidate writes after it in most prompts.
        writes_without: What it writes without.
        share: Prompts in which it writes that with the insert.
        share_without: Without.
        n_prompts: Of how many.
    """

    slot: str
    text: str
    score: float
    writes: str
    writes_without: str
    share: float
    share_without: float
    n_prompts: int


class Coverage(Answer):
    """How much of the listed features is explained (A2.05).

    Attributes:
        n_features: Listed.
        n_direct: With an explanation of their own.
        n_proxy: With that of the nearest explained feature.
        n_low_similarity: Of those, where that is far away.
        n_unanswered: That their source of labels did not answer for.
        line: The same as a sentence.
    """

    n_features: int
    n_direct: int
    n_proxy: int
    n_low_similarity: int
    n_unanswered: int
    line: str


class AuditOut(AuditRow):
    """A finished audit.

    Attributes:
        reason: For the verdict, sentences for people.
        smallest_p: No p-value could be below this with so many benign scores.
        threshold: The score above which the verdict is ``flagged``; None where none would be.
        reference_revision: Commit, or hash of the content.
        candidate_revision: Likewise.
        candidate_kind: A whole checkpoint, or an adapter.
        sae: Whose features were compared; None where none were.
        n_prompts: Of the suite.
        n_wordings: Of them in all.
        inserts: The strongest found that raise the score above 0.
        n_inserts: Found in all.
        coverage: Of the features; None without an SAE.
        own_explanations: What the workspace's own explainer said, a sentence; None where it was not asked.
        n_tested: Features that fire at all.
        n_significant: Of q ≤ 0.05.
        files: Of the audit.
    """

    reason: str
    smallest_p: float
    threshold: float | None
    reference_revision: str
    candidate_revision: str
    candidate_kind: Literal["checkpoint", "adapter"]
    sae: str | None
    n_prompts: int
    n_wordings: int
    inserts: tuple[Insert, ...] = ()
    n_inserts: int = 0
    coverage: Coverage | None = None
    own_explanations: str | None = None
    n_tested: int | None = None
    n_significant: int | None = None
    files: tuple[Artefact, ...] = ()


class Neighbour(Answer):
    """An explained feature near one that is not."""

    feature: int
    cosine: float
    explanation: str


class ChangedFeature(Answer):
    """A feature that changed: a row of ``interp_evidence.json``, whose fields these are."""

    id: str
    index: int
    delta: float
    direction: Literal["increased", "decreased"]
    effect: float | None
    p_value: float
    q_value: float
    p_max_t: float
    rate_reference: float
    rate_candidate: float
    rate_ratio: float
    strata: tuple[float, float, float]
    kept_in_variants: float | None = None
    explanation: str | None = None
    explanation_type: str | None = None
    explanation_model: str | None = None
    explanation_score: float | None = None
    proxy_explanation: str | None = None
    proxy_explanation_cosine: float | None = None
    proxy_low_similarity: bool | None = None
    neighbours: tuple[Neighbour, ...] = ()


class EvidencePage(Answer):
    """Features that changed, by their mean differences, the largest first.

    Attributes:
        session: Of the audit.
        run: Of the audit.
        sae: Whose features.
        hook: Where it reads.
        pooling: How positions were reduced.
        d_sae: Latents of the SAE.
        n_tested: Features that fire at all on the suite in either model.
        n_significant: Of q ≤ 0.05.
        smallest_p: No p-value could be below it.
        coverage: Of the features listed.
        features: Of this page.
        total: Listed in all.
        offset: How many were passed over.
        next_offset: Where to go on; None at the end.
    """

    session: str
    run: str
    sae: str | None
    hook: str
    pooling: str
    d_sae: int
    n_tested: int
    n_significant: int
    smallest_p: float
    coverage: Coverage
    features: tuple[ChangedFeature, ...]
    total: int
    offset: int
    next_offset: int | None


class CalibrationRow(Answer):
    """Scores of benign fine-tunes by which audits may be judged.

    Attributes:
        id: A hash of all that its scores must share with an audit's.
        source: Of the bundle, or of this workspace, whose own come first.
        model: The reference.
        sae: None for a method that reads none.
        suite: Hash of the prompts.
        method: That scored.
        settings: Whatever else moves the score.
        n: Benign fine-tunes.
        families: Of them; those of one were made alike.
    """

    id: str
    source: Literal["workspace", "bundle"]
    model: str
    sae: str | None
    suite: str
    method: str
    settings: dict[str, Any]
    n: int
    families: tuple[str, ...]


class Calibrations(Answer):
    """All of them."""

    calibrations: tuple[CalibrationRow, ...]


class SuiteRow(Answer):
    """A suite that ships.

    Attributes:
        name: To ask for it.
        description: One sentence.
        n_prompts: Of it.
        n_wordings: Of them in all.
        digest: Of its content.
    """

    name: str
    description: str
    n_prompts: int
    n_wordings: int
    digest: str


class Suites(Answer):
    """Those that ship; a YAML file inside the base directory can be named as well."""

    suites: tuple[SuiteRow, ...]
