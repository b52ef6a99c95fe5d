"""Rules learnt from excerpts: clauses are grown greedily, each from one test of a token to a few.

The family is separate-and-conquer with pruning on documents held out from growing: IREP (Fürnkranz & Widmer 1994) and
RIPPER (Cohen 1995), with two changes that suit features. A clause is judged by what the whole rule is worth with it
(:class:`Worth`), not by its gain alone, since a disjunction is what gets scored. And there are two kinds of evidence:
excerpts, which are what is predicted, and tokens, of which there are thirty times as many, each with its activation.
The worth of a rule is the mean of three numbers in 0–1, less a price for every test:

- F1 over excerpts, active and silent ones given equal weight;
- the excess of the rate at which it matches active excerpts over that of silent ones (what weighted relative accuracy
  measures: Lavrač, Flach & Zupan 1999), which a rule that matches everything lacks;
- F1 over tokens, recall weighted by activation.

All candidates of a step are judged together on boolean tables, so that a feature takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylens.explain.matching import TokenBatch
from raylens.explain.rule import Clause, Rule, Within
from raylens.explain.token_test import ANY, TokenTest, classes_of

MAX_CLAUSES = 6
MAX_CONTEXTS = 2
"""Of one clause, besides the test of its token."""
PRICE = 0.008
"""Of one test, in worth: about what a fortieth of the active excerpts adds to it."""
MIN_DOCUMENTS = 2
"""Active documents that a new clause has to speak for."""

_TOKEN_CANDIDATES = 80
_CONTEXT_CANDIDATES = 24
_BEAM = 4
_LOOK_BACK = (4, 12, 31)
"""Distances that are tried; the one of the clause that is kept is then fitted exactly."""

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Tokens and excerpts that rules are learnt from.

    Attributes:
        batch: Their tokens, ``n`` in all.
        activations: ``[n]`` float64, of the feature, 0 where it is silent.
        documents: ``[n]`` int64, which document each is of; ascending, since excerpts are in order of documents.
        excerpt_active: ``[batch.n_excerpts]`` bool.
    """

    batch: TokenBatch
    activations: Floats
    documents: NDArray[np.int64]
    excerpt_active: Mask
    active: Mask = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "active", self.activations > 0)

    @property
    def n(self) -> int:
        return len(self.activations)


class Worth:
    """What rules are worth on some evidence, given what the rule so far covers."""

    def __init__(self, evidence: Evidence, covered: Mask) -> None:
        self.evidence = evidence
        self.covered = covered
        self.columns = np.flatnonzero(~covered)
        n_active = max(int(evidence.excerpt_active.sum()), 1)
        n_silent = max(int((~evidence.excerpt_active).sum()), 1)
        share = np.where(evidence.excerpt_active, 1 / n_active, 0.0)
        matched = np.zeros(evidence.batch.n_excerpts, dtype=np.bool_)
        matched[evidence.batch.excerpts[covered]] = True
        self._has_silent = not evidence.excerpt_active.all()
        # What an excerpt adds to the two rates when it is newly matched: [excerpts, 2].
        rates = np.stack([share, np.where(evidence.excerpt_active, 0.0, 1 / n_silent)], axis=1)
        self._rates_before = rates[matched].sum(axis=0)
        self._rates = np.where(matched[:, None], 0.0, rates).astype(np.float32)
        total = max(float(evidence.activations.sum()), 1e-30)
        per_token = np.stack([evidence.activations / total, evidence.active, ~evidence.active], axis=1)
        self._tokens_before = per_token[covered].sum(axis=0)
        self._tokens = per_token.astype(np.float32)

    def now(self) -> float:
        """Of the rule so far, unpriced."""
        return float(self._value(self._rates_before[None], self._tokens_before[None])[0])

    def rates(self) -> tuple[float, float]:
        """Shares of active and of silent excerpts that the rule so far matches."""
        return float(self._rates_before[0]), float(self._rates_before[1])

    def with_each(self, fires: Mask, columns: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
        """The rule's worth with each of several clauses added.

        Args:
            fires: ``[clauses, len(columns)]`` bool.
            columns: Tokens they are about, ascending and not covered; on all others none of them fires.

        Returns:
            Worths ``[clauses]``, unpriced, and how many active documents each newly covers an active token of.
        """
        evidence = self.evidence
        if not len(columns) or not len(fires):
            return np.full(len(fires), self.now()), np.zeros(len(fires), dtype=np.int64)
        tokens = fires.astype(np.float32) @ self._tokens[columns]
        excerpts = evidence.batch.excerpts[columns]
        first = np.flatnonzero(np.concatenate([[True], excerpts[1:] != excerpts[:-1]]))
        newly = np.logical_or.reduceat(fires, first, axis=1)
        rates = newly.astype(np.float32) @ self._rates[excerpts[first]]
        documents = evidence.documents[columns]
        first = np.flatnonzero(np.concatenate([[True], documents[1:] != documents[:-1]]))
        speaks = np.logical_or.reduceat(fires & evidence.active[columns], first, axis=1)
        return self._value(self._rates_before + rates, self._tokens_before + tokens), speaks.sum(axis=1)

    def _value(self, rates: Floats, tokens: Floats) -> Floats:
        hit, false = rates[:, 0], rates[:, 1]
        f1 = 2 * hit / (hit + false + 1)
        precision = tokens[:, 1] / np.maximum(tokens[:, 1] + tokens[:, 2], 1e-9)
        recall = tokens[:, 0]
        token_f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        if not self._has_silent:
            return token_f1
        return (f1 + hit - false + token_f1) / 3


@dataclass(frozen=True, eq=False)
class _Context:
    """One thing a clause can ask around its token, and where that holds."""

    kind: str
    test: TokenTest
    tokens: int = 0

    def added_to(self, clause: Clause) -> Clause | None:
        """The clause with this asked too; None where it asks something there already."""
        if self.kind == "after":
            return None if clause.after else Clause(clause.token, clause.before, clause.within, self.test)
        if self.kind == "within":
            if clause.within:
                return None
            return Clause(clause.token, clause.before, Within(self.test, self.tokens), clause.after)
        if len(clause.before) != self.tokens - 1:
            return None
        return Clause(clause.token, (self.test, *clause.before), clause.within, clause.after)


class Candidates:
    """Tests and contexts that are worth trying on some evidence, with where each holds."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        batch = evidence.batch
        tests, of_text = _tests_of_vocabulary(evidence)
        chosen = _by_information(of_text, evidence, 0, _TOKEN_CANDIDATES)
        self.tests = [tests[i] for i in chosen]
        self.token_table = of_text[chosen][:, batch.indices]
        self.contexts: list[_Context] = []
        tables: list[Mask] = []
        for offset in (-1, -2, 1):
            chosen = _by_information(of_text, evidence, offset, _CONTEXT_CANDIDATES)
            kind, tokens = ("before", -offset) if offset < 0 else ("after", 0)
            self.contexts += [_Context(kind, tests[i], tokens) for i in chosen]
            tables.append(batch.shifted(of_text[chosen][:, batch.indices], offset))
        chosen = _by_excerpt(of_text, evidence, _CONTEXT_CANDIDATES)
        self._distances = batch.distance_back(of_text[chosen][:, batch.indices])
        self._distance_of = {tests[i]: row for row, i in enumerate(chosen)}
        for tokens in _LOOK_BACK:
            self.contexts += [_Context("within", tests[i], tokens) for i in chosen]
            tables.append((self._distances > 0) & (self._distances <= tokens))
        self.context_table = np.concatenate(tables)

    def distances(self, test: TokenTest) -> NDArray[np.int64]:
        """How many tokens back a test of one of the ``within`` contexts last held, 0 where it did not: ``[n]``."""
        return self._distances[self._distance_of[test]]


def _tests_of_vocabulary(evidence: Evidence) -> tuple[list[TokenTest], Mask]:
    """Tests that hold of tokens in active excerpts, narrow ones first, and of which texts: ``[tests, vocabulary]``.

    Of tests that hold of the same texts only the narrowest is kept.
    """
    batch = evidence.batch
    vocabulary = batch.vocabulary
    stripped = [text.strip() for text in vocabulary]
    folded = [text.casefold() for text in stripped]
    # A text seen once is no pattern, and one that no active excerpt has says nothing of when the feature fires.
    of_active = np.zeros(len(vocabulary), dtype=np.bool_)
    of_active[batch.indices[evidence.excerpt_active[batch.excerpts]]] = True
    repeated = of_active & (np.bincount(batch.indices, minlength=len(vocabulary)) > 1)
    members: dict[TokenTest, list[int]] = {
        TokenTest("exact", vocabulary[i]): [int(i)] for i in np.flatnonzero(repeated)
    }
    for kind, forms in (("stripped", stripped), ("folded", folded)):
        variants: dict[str, list[int]] = {}
        for i, form in enumerate(forms):
            variants.setdefault(form, []).append(i)
        for form, indices in variants.items():
            if form and len(indices) > 1 and of_active[indices].any():
                members[TokenTest("stripped" if kind == "stripped" else "folded", form)] = indices
    for i, text in enumerate(vocabulary):
        for name in classes_of(text):
            members.setdefault(TokenTest("class", name), []).append(i)
    narrowest: dict[tuple[int, ...], TokenTest] = {}
    for test, indices in members.items():
        narrowest.setdefault(tuple(indices), test)
    of_text = np.zeros((len(narrowest), len(vocabulary)), dtype=np.bool_)
    for row, indices in enumerate(narrowest):
        of_text[row, list(indices)] = True
    return list(narrowest.values()), of_text


def _by_information(of_text: Mask, evidence: Evidence, offset: int, most: int) -> list[int]:
    """Tests that say most, by holding ``offset`` tokens from there, about where the feature fires; best first.

    By p·log(p/q), p the share of activation and q the share of all tokens that the test holds ``offset`` from: FOIL's
    gain (Quinlan 1990) with activation in the place of counts.
    """
    batch = evidence.batch
    there = batch.positions + offset
    inside = (there >= batch.starts) & (there < batch.ends)
    seen = batch.indices[there[inside]]
    everywhere = np.ones(len(there))
    weights = (evidence.activations / max(float(evidence.activations.sum()), 1e-30), evidence.active, everywhere)
    p, support, q = (
        of_text @ np.bincount(seen, w[inside].astype(np.float64), minlength=of_text.shape[1]) for w in weights
    )
    return _most_informative(p.astype(np.float64), q / max(evidence.n, 1), support, most)


def _by_excerpt(of_text: Mask, evidence: Evidence, most: int) -> list[int]:
    """The same for excerpts: tests that hold somewhere in active ones and not in silent ones."""
    batch = evidence.batch
    present = np.zeros((of_text.shape[1], batch.n_excerpts), dtype=np.float32)
    present[batch.indices, batch.excerpts] = 1
    holds = of_text.astype(np.float32) @ present > 0
    support = holds[:, evidence.excerpt_active].sum(axis=1)
    return _most_informative(support / max(evidence.excerpt_active.sum(), 1), holds.mean(axis=1), support, most)


def _most_informative(p: Floats, q: Floats, support: NDArray[Any], most: int) -> list[int]:
    gain = np.where(support >= MIN_DOCUMENTS, p * np.log(np.maximum(p, 1e-9) / np.maximum(q, 1e-9)), -np.inf)
    order = np.argsort(-gain, kind="stable")[:most]
    return [int(i) for i in order if gain[i] > 0]


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """How large a rule may grow, smaller ones first.

    Attributes:
        clauses: At most.
        contexts: At most, of one clause, besides the test of its token.
        classes: Whether a clause may be about a class of tokens. Greedy growth that begins with a wide class does not
            come back from it to the few tokens of the class that the feature is about, so both are tried.
    """

    clauses: int = MAX_CLAUSES
    contexts: int = MAX_CONTEXTS
    classes: bool = True


def grow(candidates: Candidates, size: Size) -> Iterator[Rule]:
    """Rules of one clause, two, and so on, each the one before it with a clause added that raises its priced worth."""
    evidence = candidates.evidence
    covered = np.zeros(evidence.n, dtype=np.bool_)
    clauses: tuple[Clause, ...] = ()
    while len(clauses) < size.clauses:
        worth = Worth(evidence, covered)
        best = _best_clause(candidates, worth, size)
        if best is None or best[0] <= worth.now() + 1e-9:
            return
        clauses = (*clauses, best[1])
        covered = covered | evidence.batch.clause_fires(best[1])
        yield Rule(clauses)


def _best_clause(candidates: Candidates, worth: Worth, size: Size) -> tuple[float, Clause] | None:
    """The clause that makes the rule worth most after its price, and that worth."""
    columns = worth.columns
    values, documents = worth.with_each(candidates.token_table[:, columns], columns)
    ranked = np.argsort(-values, kind="stable")
    beam: list[tuple[float, Clause, Mask]] = []
    for i in ranked:
        if documents[i] >= MIN_DOCUMENTS and (size.classes or candidates.tests[i].kind != "class"):
            beam.append((float(values[i]) - PRICE, Clause(candidates.tests[i]), candidates.token_table[i]))
        if len(beam) == _BEAM:
            break
    if candidates.contexts and size.contexts and size.classes:
        beam.append((-np.inf, Clause(ANY), np.ones(candidates.evidence.n, dtype=np.bool_)))
    best: tuple[float, Clause] | None = None
    for step in range(size.contexts + 1):
        for value, clause, _ in beam:
            if clause.n_tests and (best is None or value > best[0] + 1e-9):
                best = value, clause
        if step == size.contexts:
            break
        refined = [r for _, clause, fires in beam for r in _refinements(candidates, worth, clause, fires)]
        beam = sorted(refined, key=lambda r: -r[0])[:2]
    return _fitted(candidates, worth, best) if best is not None else None


def _refinements(candidates: Candidates, worth: Worth, clause: Clause, fires: Mask) -> list[tuple[float, Clause, Mask]]:
    """The two best ways to ask one thing more."""
    columns = np.flatnonzero(fires & ~worth.covered)
    values, documents = worth.with_each(candidates.context_table[:, columns], columns)
    found: list[tuple[float, Clause, Mask]] = []
    for i in np.argsort(-values, kind="stable"):
        longer = candidates.contexts[i].added_to(clause) if documents[i] >= MIN_DOCUMENTS else None
        if longer is not None:
            found.append((float(values[i]) - PRICE * longer.n_tests, longer, fires & candidates.context_table[i]))
        if len(found) == 2:
            break
    return found


def _fitted(candidates: Candidates, worth: Worth, best: tuple[float, Clause]) -> tuple[float, Clause]:
    """The same clause looking back as far as serves it best, the shortest of equals."""
    value, clause = best
    if clause.within is None:
        return best
    distance = candidates.distances(clause.within.test)
    rest = candidates.evidence.batch.clause_fires(Clause(clause.token, clause.before, None, clause.after))
    columns = np.flatnonzero(rest & ~worth.covered & (distance > 0))
    farthest = int(distance[columns].max(initial=1))
    looks = np.arange(1, farthest + 1)
    values, documents = worth.with_each(distance[columns] <= looks[:, None], columns)
    values = np.where(documents >= MIN_DOCUMENTS, values, -np.inf)
    look = int(np.argmax(values >= values.max(initial=-np.inf) - 1e-6))
    shorter = Clause(clause.token, clause.before, Within(clause.within.test, int(looks[look])), clause.after)
    return max(value, float(values[look]) - PRICE * clause.n_tests), shorter
