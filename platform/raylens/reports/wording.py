"""What both reports say in words: the verdict, what was done, what a feature means, what none of it proves (A2.21)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Final

from raylens.audit.artefacts import (
    Artefacts,
    CapabilityPanel,
    InterpEvidence,
    MethodScore,
    ScoreFile,
    Subject,
    TriggerHit,
)
from raylens.audit.feature_rows import FeatureRow
from raylens.audit.verdict import Decision
from raylens.reports.numbers import NO_VALUE, count, figure, percent, signed

LOW_MARK: Final = "(low similarity)"
SEARCH: Final = "trigger_search"
"""Method of :mod:`raylens.audit.scores` whose figure says that inserts were looked for."""

METHOD_HEADS: Final = ("method", "score:", "p:", "n:", "which is")
ONE_VERDICT: Final = (
    "One method gives the verdict. The p-values of the others stand each for itself: of so many, one is small by "
    "chance more often than it says."
)

_MOST_FAMILIES: Final = 12


def verdict_line(decision: Decision) -> str:
    """The verdict in one sentence, with p, n and the target false-positive rate."""
    word = decision.verdict.capitalize()
    target = f"the target false-positive rate is {percent(decision.target_fpr)}"
    n = count(decision.n_benign, "benign fine-tune")
    if decision.p_value is None:
        return f"{word}: there is no p-value, since n = 0 benign fine-tunes may be compared with; {target}."
    if decision.verdict == "inconclusive":
        few = f"no p below {figure(decision.smallest_p)} exists with so few"
        return f"{word}: p = {figure(decision.p_value)} against n = {n}; {few}, and {target}."
    return f"{word}: p = {figure(decision.p_value)} against n = {n}; {target}."


def posture(artefacts: Artefacts) -> list[str]:
    """What the evidence is, and what it is not: a sentence each (A2.21)."""
    decision = artefacts.decision.decision
    return [
        "A distance is not a verdict: the score means something only beside the scores of benign fine-tunes, and "
        + (
            "here there are none to compare it with."
            if decision.n_benign == 0
            else f"the p-value is from n = {decision.n_benign} of them. It holds for fine-tunes made as those were; of "
            "others, more may be flagged."
        ),
        "“Not flagged” is not “safe”: what these prompts do not bring out leaves no trace in this score. “Flagged” "
        "says that the candidate differs more than benign fine-tunes do, not that it does harm.",
        "Proxies are pointers: the explanation of a neighbouring feature says where to look, not what a feature means.",
        "The evidence is reproducible: this report is made from the JSON files beside it and nothing else, and the "
        "same files give the same bytes.",
    ]


def subject(model: Subject) -> str:
    """A model, with what fixes its weights."""
    return f"{model.name}, {model.kind} {model.revision}"


def trace(artefacts: Artefacts) -> list[tuple[str, str]]:
    """What was done, in order: what, and with which settings."""
    about, score = artefacts.decision, artefacts.score
    suite, results, evidence = about.suite, artefacts.suite_results, artefacts.interp_evidence
    wordings = f"{count(suite.n_prompts, 'prompt')} in {count(suite.n_forms, 'wording')}"
    rows = [
        ("suite", f"{suite.name}, {wordings}, digest {suite.digest}"),
        ("completions", f"greedy, {count(results.max_new_tokens, 'token')} at most"),
    ]
    if evidence is None:
        rows.append(("SAE", "none: no evidence from features" if about.sae is None else f"{about.sae}, not read"))
    else:
        rows += [
            ("SAE", f"{about.sae}, {count(evidence.d_sae, 'latent')}"),
            ("SAE hook", evidence.hook),
            ("pooling over positions", evidence.pooling),
            ("test of features", tests(evidence)),
        ]
    rows += [
        ("score method", score.score_method),
        ("calibration", calibration(score)),
        ("target false-positive rate", percent(about.decision.target_fpr)),
        ("threshold", figure(score.threshold, 4) if score.threshold is not None else "none: no score would be flagged"),
    ]
    return rows + [(f"setting {name}", _value(value)) for name, value in sorted(score.settings.items())]


def calibration(score: ScoreFile) -> str:
    """How many benign fine-tunes of which families the score is compared with."""
    families = Counter(one.family for one in score.null).most_common()
    if not families:
        return "none: n = 0"
    named = ", ".join(f"{family} {n}" for family, n in sorted(families[:_MOST_FAMILIES]))
    more = f", and {len(families) - _MOST_FAMILIES} more" if len(families) > _MOST_FAMILIES else ""
    of = f"{count(len(score.null), 'benign fine-tune')} of {count(len(families), 'family', 'families')}"
    return f"n = {of}: {named}{more}"


def tests(evidence: InterpEvidence) -> str:
    """How features were tested."""
    patterns = f"{'all' if evidence.exact else 'drawn'} {count(evidence.n_patterns, 'sign pattern')}"
    return (
        f"sign-flip permutation over {count(evidence.n_clusters, 'prompt')} ({patterns}, smallest p "
        f"{figure(evidence.smallest_p)}), q-values over {count(evidence.n_tested, 'feature')} that fire"
    )


def significant(evidence: InterpEvidence) -> str:
    """How many features changed, and which are listed."""
    return (
        f"{evidence.n_significant} of {count(evidence.n_tested, 'tested feature')} changed with q ≤ 0.05. Listed are "
        f"the {len(evidence.features)} with the largest mean differences (k = {evidence.k}). In any fine-tune most "
        "features that fire change: this is what changed, not that it is harmful."
    )


def searched(score: ScoreFile) -> str:
    """What the search for triggers came to."""
    if score.triggers:
        return (
            f"{count(len(score.triggers), 'insert')} found, the strongest first. An insert is text put into prompts; "
            "its score is how many nats less surprising the candidate finds what it then writes than the reference "
            "does, less the same without it."
        )
    if any(one.method == SEARCH and one.score is not None for one in score.methods):
        return "The search for inserts that drive the candidate from its reference found none."
    return "No search for inserts was made."


def fires_on(hit: TriggerHit, evidence: InterpEvidence | None) -> list[str]:
    """Names of features that fire more on an insert: as they are listed, else by their index."""
    ids = {} if evidence is None else {row.index: row.id for row in evidence.features}
    return [ids.get(index, f"latent {index}") for index in hit.features]


def can_it_still(panel: CapabilityPanel) -> str:
    """What the capability panel came to."""
    return {
        "intact": "Capability is intact: the candidate still does what its reference can.",
        "broken": "Capability is broken: the candidate lost what its reference can do, so a difference need not be "
        "specific behaviour.",
        "not measured": "Capability was not measured.",
    }[panel.capability]


def methods(score: ScoreFile) -> list[list[str]]:
    """A row a score method: its name, score, p, n, and what it gives and is."""
    return [
        [
            one.method,
            figure(one.score, 4),
            figure(one.p_value),
            str(one.n_benign),
            f"{_gives(one)}: {one.description} {one.note}".strip(),
        ]
        for one in score.methods
    ]


def passed(n_passed: int, n: int) -> str:
    """A check's pass rate."""
    return f"{n_passed} of {n} ({percent(n_passed / n)})" if n else NO_VALUE


@dataclass(frozen=True, slots=True)
class Meaning:
    """What is said of a feature.

    Attributes:
        text: Someone else's words; None where there are none to show.
        remark: Where they are from: whose, or how near a proxy is.
        is_proxy: They are said of a neighbour.
    """

    text: str | None
    remark: str
    is_proxy: bool


def meaning(row: FeatureRow) -> Meaning:
    """The feature's own explanation, else its proxy with the cosine, marked where that is low (A2.06)."""
    if row.explanation is not None:
        score = None if row.explanation_score is None else f"score {figure(row.explanation_score)}"
        source = [one for one in (row.explanation_type, row.explanation_model, score) if one]
        remark = f"direct ({', '.join(source)})" if source else "direct"
        return Meaning(row.explanation, remark, is_proxy=False)
    if row.proxy_explanation_cosine is None:
        return Meaning(None, "no explanation, and no explained neighbour", is_proxy=False)
    low = f" {LOW_MARK}" if row.proxy_low_similarity else ""
    return Meaning(row.proxy_explanation, f"proxy, cosine {figure(row.proxy_explanation_cosine)}{low}", is_proxy=True)


def change(row: FeatureRow) -> str:
    """Direction and mean difference."""
    return f"{row.direction} ({signed(row.delta)})"


def statistics(row: FeatureRow) -> list[str]:
    """The figures of a feature, a phrase each."""
    thirds = " / ".join(f"{signed(value)}" for value in row.strata)
    found = [
        f"effect g = {signed(row.effect)}",
        f"q = {figure(row.q_value)}",
        f"p = {figure(row.p_value)} (max-t {figure(row.p_max_t)})",
        f"fires on {percent(row.rate_reference)} → {percent(row.rate_candidate)} of prompts "
        f"(ratio {figure(row.rate_ratio)})",
        f"{thirds} in the first / second / last third of positions",
    ]
    if row.kept_in_variants is not None:
        found.append(f"kept in {percent(row.kept_in_variants)} of variants")
    return found


def stability(evidence: InterpEvidence) -> str:
    """Whether findings stay over wordings (A2.19)."""
    found = evidence.stability
    if found.jaccard is None:
        return "Stability over wordings was not measured: no prompt has a second one."
    parts = [f"Jaccard {figure(found.jaccard)}", f"rank-biased overlap {figure(found.rank_biased_overlap)}"]
    if found.explanation_jaccard is not None:
        parts.append(f"words of their explanations, Jaccard {figure(found.explanation_jaccard)}")
    return (
        f"Stability of the {found.k} largest differences over {count(len(found.variants), 'variant')} "
        f"({', '.join(found.variants)}): {', '.join(parts)}."
    )


def _gives(method: MethodScore) -> str:
    return "the verdict" if method.gives_verdict else "diagnostic" if method.diagnostic else "evidence"


def _value(value: str | int | float | bool | None) -> str:
    return value if isinstance(value, str) else json.dumps(value)
