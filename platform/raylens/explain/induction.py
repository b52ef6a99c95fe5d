"""Rules learnt from excerpts: clauses are grown greedily, each from one test of a token to a few.

The family is separate-and-conquer with pruning on documents held out from growing: IREP (Fürnkranz & Widmer 1994) and
RIPPER (Cohen 1995), with a change that suits features: a clause is judged by what the whole rule is worth with it
(:class:`~raylens.explain.evidence.Worth`), not by its gain alone, since a disjunction is what gets scored. Every test
has a price.

All candidates of a step are judged together on boolean tables, so that a feature takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from raylens.explain.candidates import MIN_DOCUMENTS, Candidates
from raylens.explain.evidence import Evidence, Gains, Mask, Worth
from raylens.explain.rule import Clause, Rule, Within
from raylens.explain.token_test import ANY

MAX_CLAUSES = 6
MAX_CONTEXTS = 2
"""Of one clause, besides the test of its token."""
PRICE = 0.008
"""Of one test, in worth: about what a fortieth of the active excerpts adds to it."""
PURE = 0.8
"""Share of the tokens that a clause adds on which the feature has to fire, where rules are to be pure."""

_BEAM = 4


def price(rule: Rule) -> float:
    """What its tests cost."""
    return PRICE * sum(clause.n_tests for clause in rule.clauses)


def worth_of(evidence: Evidence, rule: Rule) -> float:
    """What it is worth on ``evidence``, its price paid."""
    return Worth(evidence, evidence.batch.fires(rule)).now() - price(rule)


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """How large a rule may grow, smaller ones first.

    Attributes:
        clauses: At most.
        contexts: At most, of one clause, besides the test of its token.
        classes: Whether a clause may be about a class of tokens. Greedy growth that begins with a wide class does not
            come back from it to the few tokens of the class that the feature is about, so both are tried.
        pure: Whether every clause has to be right of :data:`PURE` of the tokens that it adds. Of a token after either
            of two others, the token alone is worth most as a first clause, and nothing that is added mends it.
    """

    clauses: int = MAX_CLAUSES
    contexts: int = MAX_CONTEXTS
    classes: bool = True
    pure: bool = False


def grow(candidates: Candidates, size: Size) -> Iterator[Rule]:
    """Rules of one clause, two, and so on, each the one before it with a clause added that raises its priced worth."""
    clauses: tuple[Clause, ...] = ()
    while len(clauses) < size.clauses:
        step = _step(candidates, clauses)
        best = _best_clause(candidates, step, size)
        if best is None or best[0] <= step.worth.now() + 1e-9:
            return
        clauses = (*clauses, best[1])
        yield Rule(clauses)


@dataclass(frozen=True, eq=False)
class _Step:
    """What is known after some clauses: what they are worth, and what each test of a token would add."""

    clauses: tuple[Clause, ...]
    worth: Worth
    gains: Gains
    ranked: list[int]


@dataclass(frozen=True, eq=False)
class _Grown:
    """A clause, what the rule is worth with it, the tokens that it fires on, and whether it is right of most it adds.

    Tokens that were covered before may be left out.
    """

    value: float
    clause: Clause
    fires: Mask
    is_pure: bool


def _step(candidates: Candidates, clauses: tuple[Clause, ...]) -> _Step:
    if (known := candidates.memo.get(clauses)) is not None:
        return known
    evidence = candidates.evidence
    worth = Worth(evidence, evidence.batch.fires(Rule(clauses)))
    gains = worth.with_each(candidates.token_table[:, worth.columns], worth.columns)
    step = _Step(clauses, worth, gains, np.argsort(-gains.values, kind="stable").tolist())
    candidates.memo[clauses] = step
    return step


def _best_clause(candidates: Candidates, step: _Step, size: Size) -> tuple[float, Clause] | None:
    """The clause that makes the rule worth most after its price, and that worth."""
    beam: list[_Grown] = []
    best: _Grown | None = None
    n = 0
    for i in step.ranked:
        if step.gains.documents[i] < MIN_DOCUMENTS or not (size.classes or candidates.tests[i].kind != "class"):
            continue
        is_pure = bool(step.gains.purity[i] >= PURE)
        value = float(step.gains.values[i]) - PRICE
        beam.append(_Grown(value, Clause(candidates.tests[i]), candidates.token_table[i], is_pure))
        n += 1
        if n == _BEAM:
            break
    if candidates.contexts and size.contexts and size.classes:
        beam.append(_Grown(-np.inf, Clause(ANY), np.ones(candidates.evidence.n, dtype=np.bool_), is_pure=False))
    for deep in range(size.contexts + 1):
        for one in beam:
            better = one.clause.n_tests and (best is None or one.value > best.value + 1e-9)
            if better and (one.is_pure or not size.pure):
                best = one
        if deep == size.contexts:
            break
        refined = [longer for one in beam for longer in _refinements(candidates, step, one, pure=size.pure)]
        beam = sorted(refined, key=lambda r: -r.value)[:2]
        if size.pure:
            beam += [one for one in sorted(refined, key=lambda r: -r.value)[2:] if one.is_pure][:2]
    return _fitted(candidates, step.worth, best.value, best.clause) if best is not None else None


def _refinements(candidates: Candidates, step: _Step, grown: _Grown, *, pure: bool) -> list[_Grown]:
    """The two best ways to ask one thing more; where ``pure``, also the best two that leave a pure clause."""
    clause, fires = grown.clause, grown.fires
    found: list[_Grown] | None = candidates.memo.get((step.clauses, clause))
    if found is None:
        columns = np.flatnonzero(fires & ~step.worth.covered)
        contexts, table = candidates.contexts, candidates.context_table[:, columns]
        if not clause.token.is_any and clause.not_after is None:
            exceptions, kept = candidates.exceptions(columns)
            contexts, table = [*contexts, *exceptions], np.concatenate([table, kept])
        gains = step.worth.with_each(table, columns)
        enough, is_pure = (gains.documents >= MIN_DOCUMENTS).tolist(), (gains.purity >= PURE).tolist()
        found = []
        n_pure = 0
        for i in np.argsort(-gains.values, kind="stable").tolist():
            longer = contexts[i].added_to(clause) if enough[i] and (len(found) < 2 or is_pure[i]) else None
            if longer is not None:
                then = np.zeros_like(fires)
                then[columns] = table[i]
                found.append(_Grown(float(gains.values[i]) - PRICE * longer.n_tests, longer, then, is_pure[i]))
                n_pure += is_pure[i]
            if len(found) >= 2 and n_pure >= 2:
                break
        candidates.memo[step.clauses, clause] = found
    return found if pure else found[:2]


def refitted(candidates: Candidates, rule: Rule) -> Rule:
    """The rule with every clause looking back as far as serves it best beside the others.

    A clause that was grown first looked farther to catch, by chance, what others were then added for.
    """
    evidence, clauses = candidates.evidence, list(rule.clauses)
    for i, clause in enumerate(clauses):
        if clause.within is not None:
            others = Worth(evidence, evidence.batch.fires(Rule((*clauses[:i], *clauses[i + 1 :]))))
            clauses[i] = _fitted(candidates, others, -np.inf, clause)[1]
    return Rule(tuple(clauses))


def _fitted(candidates: Candidates, worth: Worth, value: float, clause: Clause) -> tuple[float, Clause]:
    """The same clause looking back as far as serves it best, the shortest of equals, and the rule's worth with it."""
    if clause.within is None:
        return value, clause
    distance = candidates.distances(clause.within.test)
    rest = candidates.evidence.batch.clause_fires(replace(clause, within=None))
    columns = np.flatnonzero(rest & ~worth.covered & (distance > 0))
    looks = np.arange(1, int(distance[columns].max(initial=1)) + 1)
    gains = worth.with_each(distance[columns] <= looks[:, None], columns)
    values = np.where(gains.documents >= MIN_DOCUMENTS, gains.values, -np.inf)
    best = int(np.argmax(values >= values.max(initial=-np.inf) - 1e-6))
    if not np.isfinite(values[best]):
        return value, clause
    shorter = replace(clause, within=Within(clause.within.test, int(looks[best])))
    if looks[best] == len(clause.before) + 1:
        next_to = replace(clause, before=(clause.within.test, *clause.before), within=None)
        # Beside what it is already next to, it is simpler to say that it stands there, wherever that is the same.
        fires = candidates.evidence.batch.clause_fires(next_to)[columns]
        if np.array_equal(fires, distance[columns] <= looks[best]):
            shorter = next_to
    return max(value, float(values[best]) - PRICE * clause.n_tests), shorter
