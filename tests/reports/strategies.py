"""Artefacts that agree with one another and hold whatever a model could write."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from raylens.audit.artefacts import (
    Artefacts,
    CapabilityPanel,
    CheckOutcome,
    Completion,
    DecisionFile,
    Figure,
    InterpEvidence,
    MethodScore,
    NullScore,
    PromptResult,
    ScoreFile,
    Subject,
    SuiteResults,
    SuiteUsed,
    TriggerHit,
)
from raylens.audit.calibration import conformal_p, smallest_p
from raylens.audit.check_summaries import check_summaries
from raylens.audit.feature_rows import CoverageFigures, FeatureRow, Highlight, NeighbourRow, Side, StabilityFigures
from raylens.audit.own_explanations import OwnExplanations
from raylens.audit.verdict import Decision, verdict_of

HOSTILE = (
    "<script>alert(1)</script>",
    "</style></title></pre><img src=x onerror=alert(1)>",
    "\"><svg onload='x()'>",
    "<!-- --><![CDATA[x]]><?php ?>",
    "[click](javascript:alert(1)) ![i](https://evil.example/x.png)",
    "<https://evil.example> https://evil.example www.evil.example a@evil.example",
    "```\n# Decision\n```json\n{}\n````",
    "~~~\n## Raw score payload\n~~~",
    "`` ` ```",
    "a | b \\| c \\\\| d |",
    "\n\n---\n\n===\n- x\n1. y\n> z\n    code\n",
    "*a* **b** _c_ ~~d~~ $x$ &lt;&#60; \\",
    "\x1b[2J\x1b]0;x\x07\r\n\x00\x7f\x9b31m",
    "\u202egnp.exe\u2066 \u200b\ufeff\u2028\u2029\xa0\xad\U000e0041",
    " ",
    "",
    "\t\n",
)  # fmt: skip


def texts() -> SearchStrategy[str]:
    """Anything UTF-8 can hold, hostile pieces among it."""
    pieces = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12))
    return st.lists(pieces, max_size=3).map("".join)


def names() -> SearchStrategy[str]:
    return st.one_of(st.sampled_from(["minimal", "f_4_17", "raylens/pico"]), texts())


def counts() -> SearchStrategy[int]:
    return st.one_of(st.integers(0, 40), st.integers(0, 10**18))


def numbers() -> SearchStrategy[float]:
    return st.floats(allow_nan=False, allow_infinity=False)


def shares() -> SearchStrategy[float]:
    return st.floats(0, 1)


def maybe(some: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.one_of(st.none(), some)


def few(some: SearchStrategy[Any], most: int = 3) -> SearchStrategy[tuple[Any, ...]]:
    return st.lists(some, max_size=most).map(tuple)


_OUTCOME = st.builds(
    CheckOutcome, check=names(), status=st.sampled_from(["pass", "fail", "not applicable"]), reason=texts()
)
_COMPLETION = st.builds(Completion, text=texts(), n_tokens=counts(), stopped=st.booleans(), checks=few(_OUTCOME, 2))
_NEIGHBOUR = st.builds(NeighbourRow, feature=counts(), cosine=numbers(), explanation=texts())
_METHOD = st.builds(
    MethodScore,
    method=names(),
    description=texts(),
    gives_verdict=st.just(False),
    diagnostic=st.booleans(),
    score=maybe(numbers()),
    p_value=maybe(shares()),
    n_benign=counts(),
    note=texts(),
)
_TRIGGER = st.builds(
    TriggerHit,
    slot=names(),
    text=texts(),
    n_tokens=counts(),
    score=numbers(),
    writes=texts(),
    writes_without=texts(),
    share=shares(),
    share_without=shares(),
    n_prompts=counts(),
    features=few(counts()),
)


def _figure(*, is_broken: bool) -> SearchStrategy[Figure]:
    return st.builds(
        Figure,
        name=names(),
        reference=maybe(numbers()),
        candidate=maybe(numbers()),
        n=counts(),
        n_reference=counts(),
        broken_beyond=numbers() if is_broken else maybe(numbers()),
        is_broken=st.just(is_broken),
    )


_FIGURES = {
    "not measured": st.just(()),
    "intact": st.lists(_figure(is_broken=False), min_size=1, max_size=3).map(tuple),
    "broken": st.tuples(_figure(is_broken=True), st.booleans().flatmap(lambda one: _figure(is_broken=one))),
}


@st.composite
def _result(draw: DrawFn, number: int, prompt: str) -> PromptResult:
    reference = draw(_COMPLETION)
    return PromptResult(
        id=prompt,
        variant=draw(st.sampled_from(["original", "whitespace", "<b>"])),
        number=number,
        tags=draw(few(names())),
        prompt=draw(texts()),
        reference=reference,
        candidate=draw(st.one_of(st.just(reference), _COMPLETION)),
        logit_kl=draw(st.floats(0, allow_infinity=False)),
        feature_difference=draw(maybe(numbers())),
    )


@st.composite
def _row(draw: DrawFn) -> FeatureRow:
    delta = draw(numbers())
    return FeatureRow(
        id=draw(names()),
        index=draw(counts()),
        delta=delta,
        direction="increased" if delta > 0 else "decreased",
        effect=draw(maybe(numbers())),
        p_value=draw(shares()),
        q_value=draw(shares()),
        p_max_t=draw(shares()),
        rate_reference=draw(shares()),
        rate_candidate=draw(shares()),
        rate_ratio=draw(st.floats(0, exclude_min=True, allow_infinity=False)),
        strata=draw(st.tuples(numbers(), numbers(), numbers())),
        kept_in_variants=draw(maybe(shares())),
        explanation=draw(maybe(texts())),
        explanation_type=draw(maybe(names())),
        explanation_model=draw(maybe(names())),
        explanation_score=draw(maybe(numbers())),
        proxy_explanation=draw(maybe(texts())),
        proxy_explanation_cosine=draw(maybe(numbers())),
        proxy_low_similarity=draw(maybe(st.booleans())),
        neighbours=draw(few(_NEIGHBOUR)),
    )


@st.composite
def _side(draw: DrawFn) -> Side:
    tokens = draw(few(texts(), 6))
    n = len(tokens)
    activations = draw(st.lists(st.one_of(st.just(0.0), numbers()), min_size=n, max_size=n))
    return Side(tokens=tokens, activations=tuple(activations), n_prompt_tokens=draw(st.integers(0, n)))


@st.composite
def _decision(draw: DrawFn, null: list[float], capability: Any) -> Decision:
    score = draw(st.one_of(numbers(), st.sampled_from(null or [0.0])))
    target = draw(st.one_of(st.just(0.01), st.floats(1e-6, 1, exclude_max=True)))
    p = conformal_p(score, null) if null else draw(st.sampled_from([None, 1.0]))
    score = 0.0 if p is not None and not null else score
    if p is None:
        verdict: Any = "inconclusive"
    else:
        verdict = verdict_of(p, len(null), target) if null else "not flagged"
    return Decision(
        verdict=verdict,
        p_value=p,
        n_benign=len(null),
        target_fpr=target,
        aggregate_score=score,
        score_method=draw(names()),
        smallest_p=smallest_p(len(null)),
        threshold=draw(maybe(numbers())),
        capability=capability,
        reason=draw(texts()),
    )


@st.composite
def _evidence(draw: DrawFn, about: dict[str, Any]) -> InterpEvidence:
    rows = draw(few(_row()))
    direct = sum(row.explanation is not None for row in rows)
    own = st.just({row.index: f"{row.index:x}" for row in rows if row.explanation is not None})
    reasons = st.dictionaries(texts(), counts(), max_size=2)
    by = {"model": maybe(names()), "cache_id": maybe(names()), "pass_id": maybe(names())}
    explained = st.builds(OwnExplanations.counted, names(), own, reasons, **by)
    highlight = st.builds(
        Highlight, index=counts(), prompt=names(), variant=names(), reference=_side(), candidate=_side()
    )
    return InterpEvidence(
        **about,
        hook=draw(names()),
        pooling=draw(names()),
        k=draw(counts()),
        d_sae=draw(counts()),
        n_tested=draw(counts()),
        n_clusters=draw(counts()),
        n_patterns=draw(counts()),
        exact=draw(st.booleans()),
        smallest_p=draw(shares()),
        n_significant=draw(counts()),
        features=rows,
        coverage=CoverageFigures(
            n_features=len(rows),
            n_direct=direct,
            n_proxy=draw(counts()),
            n_low_similarity=draw(counts()),
            best_neighbour_cosine_median=draw(maybe(numbers())),
            best_neighbour_cosine_minimum=draw(maybe(numbers())),
            line=draw(texts()),
        ),
        own_explanations=draw(maybe(explained)),
        stability=StabilityFigures(
            k=draw(counts()),
            variants=draw(few(names())),
            jaccard=draw(maybe(shares())),
            rank_biased_overlap=draw(maybe(shares())),
            explanation_jaccard=draw(maybe(shares())),
        ),
        highlights=draw(few(highlight, 2)),
    )


@st.composite
def artefacts(draw: DrawFn) -> Artefacts:
    """A run whose files agree."""
    ids = draw(st.lists(names(), max_size=3, unique=True))
    prompts = [(i, prompt) for prompt in ids for i in range(draw(st.integers(1, 2)))]
    subject = st.builds(Subject, name=names(), revision=names(), kind=st.sampled_from(["checkpoint", "adapter"]))
    sae = draw(maybe(names()))
    about: dict[str, Any] = {
        "title": draw(texts()),
        "session": draw(names()),
        "run": draw(names()),
        "reference": draw(subject),
        "candidate": draw(subject),
        "sae": sae,
        "suite": SuiteUsed(name=draw(names()), digest=draw(names()), n_prompts=len(ids), n_forms=len(prompts)),
    }
    capability: Any = draw(st.sampled_from(["intact", "broken", "not measured"]))
    null = draw(few(st.builds(NullScore, organism=names(), family=names(), score=numbers()), 5))
    decision = draw(_decision([one.score for one in null], capability))
    verdicts = MethodScore(
        method=decision.score_method,
        description=draw(texts()),
        gives_verdict=True,
        diagnostic=False,
        score=decision.aggregate_score,
        p_value=decision.p_value,
        n_benign=decision.n_benign,
    )
    results = tuple(draw(_result(number, prompt)) for number, prompt in prompts)
    settings = st.dictionaries(
        names(), st.one_of(texts(), st.integers(), numbers(), st.booleans(), st.none()), max_size=4
    )
    return Artefacts(
        decision=DecisionFile(**about, decision=decision),
        suite_results=SuiteResults(
            **about,
            max_new_tokens=draw(counts()),
            results=results,
            checks=check_summaries(results),
            capability=CapabilityPanel(capability=capability, figures=draw(_FIGURES[capability])),
        ),
        score=ScoreFile(
            **about,
            aggregate_score=decision.aggregate_score,
            score_method=decision.score_method,
            settings=draw(settings),
            methods=(verdicts, *draw(few(_METHOD, 2))),
            null=null,
            threshold=decision.threshold,
            triggers=draw(few(_TRIGGER, 2)),
        ),
        interp_evidence=None if sae is None else draw(maybe(_evidence(about))),
    )
