"""Whether the files of a run say the same: they are of one audit, and the verdict follows from the scores.

A file changed by hand, or left over from another run, would otherwise give a report that contradicts itself.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

from raylens.audit.artefacts import About, Artefacts, InterpEvidence, ScoreFile, SuiteResults
from raylens.audit.calibration import conformal_p, smallest_p
from raylens.audit.check_summaries import check_summaries
from raylens.audit.verdict import Decision, verdict_of
from raylens.errors import InputError
from raylens.reports.visible import one_line

_HINT = "restore the files of the run, or make it again with raylens audit run --again."


def check_agreement(artefacts: Artefacts) -> None:
    """Refuse artefacts that contradict one another.

    Raises:
        InputError: Names the file, the key and what contradicts it.
    """
    decision, score = artefacts.decision.decision, artefacts.score
    for name, file in (
        ("suite_results.json", artefacts.suite_results),
        ("score.json", score),
        ("interp_evidence.json", artefacts.interp_evidence),
    ):
        for key in About.model_fields if file is not None else ():
            _same(name, key, getattr(file, key), f"decision.json's {key}", getattr(artefacts.decision, key))
    _check_verdict(decision)
    _check_score(decision, score)
    _check_results(decision, artefacts.suite_results)
    if artefacts.interp_evidence is not None:
        _check_evidence(artefacts.interp_evidence)


def _check_verdict(decision: Decision) -> None:
    p, target = decision.p_value, decision.target_fpr
    says = f"decision.json: decision.verdict is {decision.verdict!r}"
    if p is None and decision.verdict != "inconclusive":
        raise InputError(f"{says}, and there is no p_value.", hint=_HINT)
    if p is not None and (p <= target) != (decision.verdict == "flagged"):
        place = "at most" if p <= target else "above"
        raise InputError(f"{says}, and p_value {p:.6g} is {place} target_fpr {target:g}.", hint=_HINT)
    _close("decision.json", "decision.smallest_p", decision.smallest_p, "1 / (n + 1)", smallest_p(decision.n_benign))
    if p is None or _does_the_same(decision):
        return
    if decision.n_benign == 0:
        raise InputError("decision.json: there is a p_value, and n_benign is 0.", hint=_HINT)
    follows = verdict_of(p, decision.n_benign, target)
    if follows != decision.verdict:
        raise InputError(
            f"{says}, and p_value {p:.6g} of {decision.n_benign} benign fine-tunes gives {follows!r}.", hint=_HINT
        )


def _does_the_same(decision: Decision) -> bool:
    """Of a candidate that does all that its reference does, p is 1 whatever benign fine-tunes score."""
    return decision.p_value == 1 and decision.aggregate_score == 0 and decision.verdict == "not flagged"


def _check_score(decision: Decision, score: ScoreFile) -> None:
    for key in ("aggregate_score", "score_method", "threshold"):
        _same("score.json", key, getattr(score, key), f"decision.json's {key}", getattr(decision, key))
    _same("score.json", "the length of null", len(score.null), "decision.json's n_benign", decision.n_benign)
    if decision.p_value is not None and not _does_the_same(decision):
        p = conformal_p(decision.aggregate_score, [one.score for one in score.null])
        _close("decision.json", "decision.p_value", decision.p_value, "score.json's null", p)
    giving = [one for one in score.methods if one.gives_verdict]
    if [one.method for one in giving] != [score.score_method]:
        raise InputError(
            f"score.json: methods: {len(giving)} of them give the verdict, and score_method is "
            f"{_shown(score.score_method)}.",
            hint=_HINT,
        )
    row = f"methods: the row of {giving[0].method}"
    _same("score.json", f"{row}: score", giving[0].score, "aggregate_score", score.aggregate_score)
    for key in ("p_value", "n_benign"):
        _same("score.json", f"{row}: {key}", getattr(giving[0], key), f"decision.json's {key}", getattr(decision, key))
    searched = next((one.score for one in score.methods if one.method == "trigger_search"), None)
    if searched is not None and not _does_the_same(decision):
        best = max((one.score for one in score.triggers), default=0.0)
        _same("score.json", "methods: the row of trigger_search: score", searched, "the best of triggers", best)


def _check_results(decision: Decision, results: SuiteResults) -> None:
    name, found = "suite_results.json", results.results
    _same(name, "capability.capability", results.capability.capability, "decision.json's", decision.capability)
    _same(name, "the length of results", len(found), "suite.n_forms", results.suite.n_forms)
    _same(name, "the number of ids", len({one.id for one in found}), "suite.n_prompts", results.suite.n_prompts)
    wordings = Counter((one.id, one.number) for one in found)
    if twice := [f"{one_line(prompt)!r} {number}" for (prompt, number), n in wordings.items() if n > 1]:
        raise InputError(f"{name}: results: prompt and number {twice[0]} are there twice.", hint=_HINT)
    panel = results.capability
    for one in panel.figures:
        if one.is_broken and one.broken_beyond is None:
            raise InputError(f"{name}: capability: {_shown(one.name)} is broken beyond no limit.", hint=_HINT)
    broken = any(one.is_broken for one in panel.figures)
    follows = "not measured" if not panel.figures else "broken" if broken else "intact"
    _same(name, "capability.capability", panel.capability, "of its figures it is", follows)
    counted = {one.check: one for one in check_summaries(found)}
    _same(name, "the checks", [one.check for one in results.checks], "those of results", list(counted))
    for row in results.checks:
        if row != counted[row.check]:
            raise InputError(f"{name}: checks: {_shown(row.check)} is not what results come to.", hint=_HINT)


def _check_evidence(evidence: InterpEvidence) -> None:
    name, rows, coverage = "interp_evidence.json", evidence.features, evidence.coverage
    if evidence.sae is None:
        raise InputError(f"{name}: sae is null, and there is evidence from one.", hint=_HINT)
    direct = sum(row.explanation is not None for row in rows)
    _same(name, "coverage.n_features", coverage.n_features, "the length of features", len(rows))
    _same(name, "coverage.n_direct", coverage.n_direct, "the number of explained features", direct)
    if (own := evidence.own_explanations) is not None:
        n = len(own.explained) + sum(one.n for one in own.unexplained)
        _same(name, "own_explanations.n_wanted", own.n_wanted, "the number with an explanation or a reason", n)
        explained = {row.index for row in rows if row.explanation is not None}
        if bare := sorted({one.feature for one in own.explained} - explained):
            raise InputError(
                f"{name}: own_explanations.explained has {bare[0]}, and no explained feature is {bare[0]}.", hint=_HINT
            )
    for i, row in enumerate(rows):
        if row.delta != 0 and (row.delta > 0) != (row.direction == "increased"):
            raise InputError(
                f"{name}: features.{i}.direction is {row.direction!r}, and its delta {row.delta:g}.", hint=_HINT
            )
    for i, side in enumerate(chain.from_iterable((one.reference, one.candidate) for one in evidence.highlights)):
        where = f"highlights.{i // 2}.{('reference', 'candidate')[i % 2]}"
        _same(name, f"{where}: the number of activations", len(side.activations), "that of tokens", len(side.tokens))
        if side.n_prompt_tokens > len(side.tokens):
            raise InputError(f"{name}: {where}.n_prompt_tokens is more than there are tokens.", hint=_HINT)


def _same(file: str, key: str, value: object, other: str, expected: object) -> None:
    if value != expected:
        raise InputError(f"{file}: {key} is {_shown(value)}, and {other} {_shown(expected)}.", hint=_HINT)


def _close(file: str, key: str, value: float, other: str, expected: float) -> None:
    if not math.isclose(value, expected, rel_tol=1e-9):
        raise InputError(f"{file}: {key} is {value:.6g}, and {other} gives {expected:.6g}.", hint=_HINT)


def _shown(value: object) -> str:
    text = one_line(str(value))
    return text if len(text) <= 80 else f"{text[:79]}…"
