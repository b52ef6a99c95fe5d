"""Second thoughts about a rule that has grown: what greedy steps left out is added where luck does not explain it.

A clause that was grown first was judged while nothing else was there: it then gained by excerpts that it caught by
accident and that others were added for, and an exception would have cost it those. A clause that few documents speak
for does not show in two thirds of them, by which the size of the rule was settled. RIPPER ends with such an
optimisation (Cohen 1995), and takes whatever is better; on features that no rule says fully, that fits noise. So a
change has to be worth more *and* to be beyond luck, everything counted that could have been asked instead. Documents
are what is counted, as tokens of one are alike. It is a rule of thumb made of exact tests, not a test: one document may
count on both sides, and those with many tokens count for more. What keeps noise out is the two together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from raylens.explain.candidates import MIN_DOCUMENTS, N_PLACES, Candidates, Context, contexts_of
from raylens.explain.chance import coins_at_least, draws_at_least
from raylens.explain.evidence import Evidence, Mask, Worth
from raylens.explain.induction import MAX_CLAUSES, MAX_CONTEXTS, PRICE, refitted, worth_of
from raylens.explain.rule import Clause, Rule
from raylens.explain.token_test import ANY

LUCK = 0.05
"""At most so likely to be luck, by the rule of thumb above."""

_LOOKED_AT = 8
"""Candidates of one change that are tested, those worth most."""
_ROUNDS = 2


def preferred(candidates: Candidates, rule: Rule, others: list[Rule]) -> Rule:
    """``rule``, or one of ``others`` that is worth more and is right where the two differ: by a sign test."""
    evidence = candidates.evidence
    best = worth_of(evidence, rule)
    for other in others:
        worth = worth_of(evidence, other)
        if worth <= best:
            continue
        fires = evidence.batch.fires(other)
        differs = fires != evidence.batch.fires(rule)
        right = _documents(evidence, differs & (fires == evidence.active))
        wrong = _documents(evidence, differs & (fires != evidence.active))
        if coins_at_least(right, right + wrong) * len(candidates.vocabulary.tests) <= LUCK:
            rule, best = other, worth
    return rule


def lengthened(candidates: Candidates, rule: Rule) -> Rule:
    """The rule with clauses added that ask about the token alone, while tokens they add are active beyond luck."""
    evidence = candidates.evidence
    while len(rule.clauses) < MAX_CLAUSES:
        worth = Worth(evidence, evidence.batch.fires(rule))
        gains = worth.with_each(candidates.token_table[:, worth.columns], worth.columns)
        enough = worth.now() + PRICE
        active, total = int(evidence.active[worth.columns].sum()), len(worth.columns)
        for i in np.argsort(-gains.values, kind="stable").tolist()[:_LOOKED_AT]:
            if gains.values[i] <= enough or gains.documents[i] < MIN_DOCUMENTS:
                continue
            adds = candidates.token_table[i] & ~worth.covered
            right, wrong = (_documents(evidence, adds & of) for of in (evidence.active, ~evidence.active))
            luck = draws_at_least(right, right + wrong, active, total)
            if luck * len(candidates.vocabulary.tests) <= LUCK:
                rule = Rule((*rule.clauses, Clause(candidates.tests[i])))
                break
        else:
            break
    return rule


def mended(candidates: Candidates, rule: Rule) -> Rule:
    """The rule with clauses that ask one thing more, while what they then leave out is silent beyond luck.

    What other clauses ask already is tried first. It is little to choose among, so fewer documents prove it.
    """
    for _ in range(_ROUNDS):
        before = rule
        for i, clause in enumerate(before.clauses):
            if clause.n_tests - (not clause.token.is_any) < MAX_CONTEXTS:
                others = (*rule.clauses[:i], *rule.clauses[i + 1 :])
                if (better := _mended(candidates, clause, others)) is not None:
                    rule = Rule((*rule.clauses[:i], better, *rule.clauses[i + 1 :]))
        if rule == before:
            break
        rule = refitted(candidates, rule)
    return rule


def _mended(candidates: Candidates, clause: Clause, others: tuple[Clause, ...]) -> Clause | None:
    evidence = candidates.evidence
    worth = Worth(evidence, evidence.batch.fires(Rule(others)))
    columns = np.flatnonzero(evidence.batch.clause_fires(clause) & ~worth.covered)
    active, documents = evidence.active[columns], evidence.documents[columns]
    if active.all() or not active.any():
        return None
    (own,) = worth.with_each(np.ones((1, len(columns)), dtype=np.bool_), columns).values
    for contexts, table, n_asked in _questions(candidates, clause, others, columns):
        gains = worth.with_each(table, columns)
        for i in np.argsort(-gains.values, kind="stable").tolist()[:_LOOKED_AT]:
            longer = contexts[i].added_to(clause) if gains.documents[i] >= MIN_DOCUMENTS else None
            if longer is None or gains.values[i] <= own + PRICE * (longer.n_tests - clause.n_tests):
                continue
            silent_out, active_out, silent_in, active_in = (
                len(np.unique(documents[part & of])) for part in (~table[i], table[i]) for of in (~active, active)
            )
            out, silent = silent_out + active_out, silent_out + silent_in
            if draws_at_least(silent_out, out, silent, out + silent_in + active_in) * n_asked <= LUCK:
                return longer
    return None


def _questions(
    candidates: Candidates, clause: Clause, others: tuple[Clause, ...], columns: NDArray[np.int64]
) -> Iterator[tuple[list[Context], Mask, int]]:
    """What ``clause`` could ask too, where that holds among ``columns``, and among how many questions it was chosen."""
    batch = candidates.evidence.batch
    asked = list(dict.fromkeys(context for other in others for context in contexts_of(other)))
    if asked:
        alone = (context.added_to(Clause(ANY)) for context in asked)
        yield asked, np.stack([batch.clause_fires(one)[columns] for one in alone if one is not None]), len(asked)
    contexts, table = candidates.contexts, candidates.context_table[:, columns]
    if not clause.token.is_any and clause.not_after is None:
        exceptions, kept = candidates.exceptions(columns)
        contexts, table = [*contexts, *exceptions], np.concatenate([table, kept])
    yield contexts, table, len(candidates.vocabulary.tests) * N_PLACES


def _documents(evidence: Evidence, tokens: Mask) -> int:
    return len(np.unique(evidence.documents[tokens]))
