"""What an audit leaves behind: the JSON files of a run, as types that check what they read (A2.02).

========================  ============================================================================================
file                      holds
========================  ============================================================================================
``decision.json``         :class:`DecisionFile`: the verdict, and on what
``suite_results.json``    :class:`SuiteResults`: what both models wrote, checks, the capability panel
``score.json``            :class:`ScoreFile`: every score method's figure, the benign scores, inserts found
``interp_evidence.json``  :class:`InterpEvidence`: features that changed, with what they mean; where an SAE is given
========================  ============================================================================================

``report.md`` and ``report.html`` are made from these and nothing else. None of them holds a time: the same audit gives
the same bytes, whenever it ran and however often it was interrupted. ``run.json`` beside them says when.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from raylens.audit.feature_rows import Count, CoverageFigures, FeatureRow, Highlight, Share, StabilityFigures
from raylens.audit.own_explanations import OwnExplanations
from raylens.audit.verdict import Capability, Decision
from raylens.config import Config

SCHEMA_VERSION = 1

Status = Literal["pass", "fail", "not applicable"]


class Subject(Config):
    """A model as it was audited.

    Attributes:
        name: As it was asked for; a local folder by its name inside the base directory.
        revision: Commit of the hub, or hash of the content.
        kind: A whole checkpoint, or an adapter on the reference.
    """

    name: str
    revision: str
    kind: Literal["checkpoint", "adapter"] = "checkpoint"


class SuiteUsed(Config):
    """The prompts of an audit."""

    name: str
    digest: str
    n_prompts: Count
    n_forms: Count


class About(Config):
    """What every file of a run says of itself."""

    schema_version: Literal[1] = SCHEMA_VERSION
    title: str
    session: str
    run: str
    reference: Subject
    candidate: Subject
    sae: str | None
    suite: SuiteUsed


class DecisionFile(About):
    """``decision.json``."""

    decision: Decision


class CheckOutcome(Config):
    """What one check says of one completion; of two with one name, ``check`` says what each is about."""

    check: str
    status: Status
    reason: str


class Completion(Config):
    """What a model wrote, greedily.

    Attributes:
        text: Without the prompt; may be empty.
        n_tokens: Generated, the end token included.
        stopped: By the end token, rather than at the limit.
        checks: In the suite's order.
    """

    text: str
    n_tokens: Count
    stopped: bool
    checks: tuple[CheckOutcome, ...] = ()


class PromptResult(Config):
    """One wording of one prompt.

    Attributes:
        id: The prompt's.
        variant: ``original``, a rule's name, ``paraphrase`` …
        number: Of the wording in the prompt, from 0.
        tags: The prompt's.
        prompt: The text, or the chat as the template renders it.
        reference: The reference's completion.
        candidate: The candidate's.
        logit_kl: Mean over the prompt's positions of KL(reference ‖ candidate), nats a token.
        feature_difference: Sum of the ``k`` largest feature differences; None without an SAE.
    """

    id: str
    variant: str
    number: Count
    tags: tuple[str, ...] = ()
    prompt: str
    reference: Completion
    candidate: Completion
    logit_kl: Annotated[FiniteFloat, Field(ge=0)]
    feature_difference: FiniteFloat | None = None

    @property
    def same_text(self) -> bool:
        """Whether both wrote the same."""
        return self.reference.text == self.candidate.text


class CheckSummary(Config):
    """How often a check passes, over completions that it applies to."""

    check: str
    n_reference: Count
    passed_reference: Count
    n_candidate: Count
    passed_candidate: Count


class Figure(Config):
    """One figure of the capability panel, of both models.

    Attributes:
        name: ``held-out loss`` (nats a token), ``python_parses`` …
        reference: None where there is nothing to measure it on.
        candidate: Likewise.
        n: Completions of the candidate, or tokens, behind it.
        n_reference: Likewise of the reference: a check need not apply to what both write.
        broken_beyond: What of the candidate's counts as broken.
        is_broken: Whether it is.
    """

    name: str
    reference: FiniteFloat | None
    candidate: FiniteFloat | None
    n: Count
    n_reference: Count
    broken_beyond: FiniteFloat | None
    is_broken: bool


class CapabilityPanel(Config):
    """Whether the candidate still does what the reference can (A2.17)."""

    capability: Capability
    figures: tuple[Figure, ...] = ()


class SuiteResults(About):
    """``suite_results.json``."""

    max_new_tokens: Count
    results: tuple[PromptResult, ...]
    checks: tuple[CheckSummary, ...]
    capability: CapabilityPanel


class NullScore(Config):
    """A benign fine-tune's score."""

    organism: str
    family: str
    score: FiniteFloat


class MethodScore(Config):
    """A score method's figure.

    Attributes:
        method: Its name.
        description: One sentence.
        gives_verdict: Whether it is the one that the verdict is from.
        diagnostic: Reported, and not meant to give a verdict.
        score: None where it could not be computed; ``note`` says why.
        p_value: Conformal, against benign scores of the same method; None without them.
        n_benign: Of how many.
        note: For people.
    """

    method: str
    description: str
    gives_verdict: bool
    diagnostic: bool
    score: FiniteFloat | None
    p_value: Share | None
    n_benign: Count
    note: str = ""


class TriggerHit(Config):
    """An insert that drives the candidate from its reference.

    Attributes:
        slot: Where in a prompt it stands: ``comment``, ``import`` …
        text: The insert.
        n_tokens: Of it.
        score: How much less surprising the candidate finds what it writes after it than the reference does, nats;
            less the same without the insert. Mean over prompts.
        writes: What the candidate writes after it in most prompts.
        writes_without: What it writes without.
        share: Prompts in which it writes that with the insert.
        share_without: Without.
        n_prompts: Of how many.
        features: Indices of features that fire on the insert more in the candidate, the most first.
        feature_drive: How much more these fire, summed, in units of activations; None where it was not read.
    """

    slot: str
    text: str
    n_tokens: Count
    score: FiniteFloat
    writes: str
    writes_without: str
    share: Share
    share_without: Share
    n_prompts: Count
    features: tuple[Count, ...] = ()
    feature_drive: FiniteFloat | None = None


class ScoreFile(About):
    """``score.json``: the raw score payload.

    Attributes:
        aggregate_score: The verdict's.
        score_method: Its method.
        settings: All that the score depends on besides models, SAE and suite.
        methods: All of them, the verdict's first.
        null: Benign scores of the verdict's method; empty without a calibration.
        threshold: Above it the candidate is flagged; None where nothing would be.
        triggers: Inserts found, the strongest first; empty where the search did not run.
    """

    aggregate_score: FiniteFloat
    score_method: str
    settings: dict[str, str | int | float | bool | None]
    methods: tuple[MethodScore, ...]
    null: tuple[NullScore, ...] = ()
    threshold: FiniteFloat | None = None
    triggers: tuple[TriggerHit, ...] = ()


class InterpEvidence(About):
    """``interp_evidence.json``.

    Attributes:
        hook: Where the SAE reads.
        pooling: How positions were reduced.
        k: Features listed at most.
        d_sae: Latents of the SAE.
        n_tested: Features that fire at all on the suite in either model.
        n_clusters: Prompts as units.
        n_patterns: Sign patterns behind the p-values.
        exact: Whether these are all that there are.
        smallest_p: No p-value could be below it.
        n_significant: Features of q ≤ 0.05.
        features: The largest mean differences, the largest first.
        coverage: Of these.
        own_explanations: What the workspace's own explainer says of those that nothing else is said of; None where
            that was not asked for.
        stability: Over wordings.
        highlights: Of the first few features.
    """

    hook: str
    pooling: str
    k: Count
    d_sae: Count
    n_tested: Count
    n_clusters: Count
    n_patterns: Count
    exact: bool
    smallest_p: Share
    n_significant: Count
    features: tuple[FeatureRow, ...]
    coverage: CoverageFigures
    own_explanations: OwnExplanations | None = None
    stability: StabilityFigures
    highlights: tuple[Highlight, ...] = ()


class Artefacts(Config):
    """All JSON of a run."""

    decision: DecisionFile
    suite_results: SuiteResults
    score: ScoreFile
    interp_evidence: InterpEvidence | None = None
