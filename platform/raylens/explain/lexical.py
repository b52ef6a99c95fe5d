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
from raylens.explain.induction import MAX_CLAUSES, MAX_CONTEXTS, PRICE, Candidates, Evidence, Size, Worth, grow
from raylens.explain.matching import TokenBatch
from raylens.explain.phrase import phrase_of
from raylens.explain.rule import Rule

_EVERY = 3
"""One document in so many is held out to settle how long a rule may be."""
_SHAPES = ((0, False), (0, True), (1, False), (MAX_CONTEXTS, True))
"""Contexts and classes of the rules that are tried on them."""
_TOLERANCE = 0.01
"""A shorter rule is preferred where its worth on held-out documents is no further below the best."""


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

    How many clauses it has, and whether they ask about context, is settled on a third of the documents by rules grown
    on the others; the rule itself is then grown on all. The same sets always give the same answer. Never looks at the
    test sets.

    Returns:
        None where nothing lexical was found: no test of a token, alone or in context, speaks for two documents and
        matches active excerpts more often than silent ones. The caller stores that as a failed explanation.
    """
    excerpts = sorted((*sets.train, *sets.train_negatives), key=lambda e: (e.doc_id, e.window_id, e.start))
    excerpts = [e for e in excerpts if e.tokens]
    if not any(e.is_active for e in excerpts):
        return None
    evidence = evidence_of(excerpts)
    candidates = Candidates(evidence)
    # Where what generalised best in size says nothing, one clause with its surroundings still may.
    for size in (_size(excerpts), Size(clauses=1)):
        for rule in list(grow(candidates, size))[-1:]:
            rule = _without_idle_clauses(rule, evidence)
            hit, false = Worth(evidence, evidence.batch.fires(rule)).rates()
            if hit > false:
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


def _size(excerpts: list[Excerpt]) -> Size:
    """How large the rule should be, by documents held out from growing it: the smallest that is nearly best."""
    active = sorted({e.doc_id for e in excerpts if e.is_active})
    silent = sorted({e.doc_id for e in excerpts} - set(active))
    held = {*active[1::_EVERY], *silent[1::_EVERY]}
    growing = [e for e in excerpts if e.doc_id not in held]
    testing = [e for e in excerpts if e.doc_id in held]
    if len(active) < 2 * _EVERY or not any(e.is_active for e in testing):
        return Size(1, 1)
    on, out = Candidates(evidence_of(growing)), evidence_of(testing)
    found: list[tuple[float, Size]] = []
    for contexts, classes in _SHAPES:
        for rule in grow(on, Size(MAX_CLAUSES, contexts, classes)):
            worth = Worth(out, out.batch.fires(rule)).now() - PRICE * sum(c.n_tests for c in rule.clauses)
            found.append((worth, Size(len(rule.clauses), contexts, classes)))
    if not found:
        return Size(1, 1)
    enough = max(worth for worth, _ in found) - _TOLERANCE
    return min(size for worth, size in found if worth >= enough)


def _without_idle_clauses(rule: Rule, evidence: Evidence) -> Rule:
    """The rule without clauses that later ones made superfluous, the earliest first."""

    def worth(rule: Rule) -> float:
        price = PRICE * sum(c.n_tests for c in rule.clauses)
        return Worth(evidence, evidence.batch.fires(rule)).now() - price

    best = worth(rule)
    for clause in rule.clauses:
        shorter = Rule(tuple(c for c in rule.clauses if c != clause))
        if shorter.clauses and (without := worth(shorter)) >= best:
            rule, best = shorter, without
    return rule
