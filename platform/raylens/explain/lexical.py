"""The lexical explainer: a phrase and an executable rule, from excerpts alone and without a language model.

It sees what any explainer sees, the training excerpts and silent ones, and says only what a rule over the tokens
themselves can say. That is right for the many features that are about tokens and their neighbours, and a floor for
the others: an explainer that understands text should do better.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from raylens.examples.excerpt import ExampleSets, Excerpt
from raylens.explain.candidates import Candidates, VocabularyTests
from raylens.explain.evidence import Evidence, Worth
from raylens.explain.induction import MAX_CLAUSES, MAX_CONTEXTS, Size, grow, price, refitted, worth_of
from raylens.explain.matching import TokenBatch
from raylens.explain.phrase import phrase_of
from raylens.explain.revision import lengthened, mended, preferred
from raylens.explain.rule import Rule

_EVERY = 3
"""One document in so many is held out to settle how long a rule may be."""
_SHAPES = (
    (0, False, False),
    (0, True, False),
    (1, False, False),
    (MAX_CONTEXTS, True, False),
    (MAX_CONTEXTS, True, True),
)
"""Contexts, classes and purity of the rules that are tried on them."""
_TOLERANCE = 0.01
"""A shorter rule is preferred where its worth is no further below the best."""


@dataclass(frozen=True, slots=True)
class LexicalExplanation:
    """What the lexical explainer says of a feature.

    Attributes:
        phrase: One phrase of few words.
        rule: What it means, executable; its phrase says it roughly.
    """

    phrase: str
    rule: Rule


def explain_lexically(sets: ExampleSets) -> LexicalExplanation | None:
    """The rule that best tells ``sets.train`` from ``sets.train_negatives``, and active tokens from silent ones.

    How many clauses it has, and which shapes of them are in question, is settled with a third of the documents held
    out; the rule itself is then grown on all, and the best of these shapes is taken and given second thoughts
    (:mod:`raylens.explain.revision`). The same sets always give the same answer. Never looks at the test sets.

    Returns:
        None where nothing lexical was found: no test of a token, alone or in context, speaks for two documents and
        matches active excerpts more often than silent ones. The caller stores that as a failed explanation.
    """
    excerpts = sorted((*sets.train, *sets.train_negatives), key=lambda e: (e.doc_id, e.window_id, e.start))
    excerpts = [e for e in excerpts if e.tokens]
    if not any(e.is_active for e in excerpts):
        return None
    evidence = evidence_of(excerpts)
    vocabulary = VocabularyTests(evidence)
    candidates = Candidates(evidence, vocabulary)
    sizes = _sizes(excerpts, evidence, vocabulary)
    found = [rule for size in sizes for rule in list(grow(candidates, size))[-1:]]
    # Where what generalised best in size says nothing, one clause with its surroundings still may.
    for rules in (found, list(grow(candidates, Size(clauses=1)))):
        tidied = [_tidied(candidates, rule) for rule in dict.fromkeys(rules)]
        telling = [rule for rule in tidied if Worth(evidence, evidence.batch.fires(rule)).tells()]
        if telling:
            rule = max(telling, key=lambda rule: worth_of(evidence, rule))
            others = [_tidied(candidates, other) for other in dict.fromkeys(sizes.values())]
            rule = mended(candidates, lengthened(candidates, preferred(candidates, rule, others)))
            return LexicalExplanation(phrase_of(rule), rule)
    return None


def evidence_of(excerpts: Iterable[Excerpt]) -> Evidence:
    """Excerpts, in order of their documents, as what rules are learnt from."""
    rows = list(excerpts)
    documents = np.unique(np.array([e.doc_id for e in rows], dtype=np.int64), return_inverse=True)[1]
    lengths = [len(e.tokens) for e in rows]
    return Evidence(
        TokenBatch.of(e.tokens for e in rows),
        np.concatenate([e.activations for e in rows]).astype(np.float64),
        np.repeat(documents, lengths),
        np.array([e.is_active for e in rows], dtype=np.bool_),
    )


def _sizes(excerpts: list[Excerpt], evidence: Evidence, vocabulary: VocabularyTests) -> dict[Size, Rule]:
    """How large the rule should be, of each shape that is nearly best: the smallest that is.

    Rules are grown on two thirds of the documents and judged on all, those held out counting by their share. Held-out
    documents alone are so few that the best of many rules on them is often the luckiest.

    Returns:
        Sizes, each with the rule of that size that was grown.
    """
    active = sorted({e.doc_id for e in excerpts if e.is_active})
    silent = sorted({e.doc_id for e in excerpts} - set(active))
    held = {*active[1::_EVERY], *silent[1::_EVERY]}
    is_held = np.array([e.doc_id in held for e in excerpts], dtype=np.bool_)
    if len(active) < 2 * _EVERY or not evidence.excerpt_active[is_held].any():
        return {Size(1, 1): Rule(())}
    on, out = Candidates(evidence.part(~is_held), vocabulary), evidence.part(is_held)
    found: dict[Size, tuple[float, Rule]] = {}
    for shape in _SHAPES:
        for rule in grow(on, Size(MAX_CLAUSES, *shape)):
            grown, unseen = (Worth(of, of.batch.fires(rule)).now() for of in (on.evidence, out))
            worth = (1 - 1 / _EVERY) * grown + unseen / _EVERY - price(rule)
            found[Size(len(rule.clauses), *shape)] = worth, rule
    if not found:
        return {Size(1, 1): Rule(())}
    enough = max(worth for worth, _ in found.values()) - _TOLERANCE
    smallest: dict[tuple[int, bool, bool], Size] = {}
    for size in sorted(size for size, (worth, _) in found.items() if worth >= enough):
        smallest.setdefault((size.contexts, size.classes, size.pure), size)
    return {size: found[size][1] for size in smallest.values()}


def _tidied(candidates: Candidates, rule: Rule) -> Rule:
    return _without_idle_clauses(refitted(candidates, rule), candidates.evidence)


def _without_idle_clauses(rule: Rule, evidence: Evidence) -> Rule:
    """The rule without clauses that later ones made superfluous, the earliest first."""
    best = worth_of(evidence, rule)
    for clause in rule.clauses:
        shorter = Rule(tuple(c for c in rule.clauses if c != clause))
        if shorter.clauses and (without := worth_of(evidence, shorter)) >= best:
            rule, best = shorter, without
    return rule
