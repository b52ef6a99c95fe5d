"""Tests and contexts that are worth trying as parts of a rule, with where each holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylens.explain.evidence import Evidence, Floats, Mask
from raylens.explain.rule import Clause, Within
from raylens.explain.token_test import CLASSES, Kind, TokenTest, classes_of

MIN_DOCUMENTS = 2
"""Active documents that a new clause has to speak for, and silent ones that an exception has to."""

_TOKEN_CANDIDATES = 80
_CONTEXT_CANDIDATES = 24
_EXCEPTION_CANDIDATES = 4
_LOOK_BACK = (4, 12, 31)
"""Distances that are tried; the one of the clause that is kept is then fitted exactly."""
N_PLACES = 4 + len(_LOOK_BACK)
"""In which a test can be asked around a token: one before and two, after, not after, and within each distance."""


@dataclass(frozen=True, slots=True)
class Context:
    """One thing a clause can ask around its token.

    Attributes:
        kind: ``before`` (``tokens`` places before), ``within`` (at most so many before), ``after``, ``not_after``.
        test: Of what stands there.
        tokens: See ``kind``.
    """

    kind: str
    test: TokenTest
    tokens: int = 0

    def added_to(self, clause: Clause) -> Clause | None:
        """The clause with this asked too; None where it asks something there already."""
        if self.kind == "before":
            if len(clause.before) != self.tokens - 1:
                return None
            return replace(clause, before=(self.test, *clause.before))
        if getattr(clause, self.kind) is not None:
            return None
        value = Within(self.test, self.tokens) if self.kind == "within" else self.test
        return replace(clause, **{self.kind: value})


def contexts_of(clause: Clause) -> Iterator[Context]:
    """What a clause asks around its token, but for places further than its neighbours."""
    if clause.before:
        yield Context("before", clause.before[-1], 1)
    if clause.within is not None:
        yield Context("within", clause.within.test, clause.within.tokens)
    if clause.after is not None:
        yield Context("after", clause.after)
    if clause.not_after is not None:
        yield Context("not_after", clause.not_after)


class VocabularyTests:
    """Tests of one token's text, and which texts of a vocabulary each holds of; of equal ones the narrowest is kept.

    A test of one text alone is made of those that occur twice, and any test has to hold of one in an active excerpt:
    a text seen once is no pattern, and others say nothing of when the feature fires.
    """

    def __init__(self, evidence: Evidence) -> None:
        batch = evidence.batch
        texts = batch.vocabulary
        of_active = np.zeros(len(texts), dtype=np.bool_)
        of_active[batch.indices[evidence.excerpt_active[batch.excerpts]]] = True
        repeated = of_active & (np.bincount(batch.indices, minlength=len(texts)) > 1)
        singles = np.flatnonzero(repeated)
        self.tests = [TokenTest("exact", texts[i]) for i in singles.tolist()]
        forms = np.array([_forms(text) for text in texts], dtype=np.int64).reshape(len(texts), 3)
        groups: dict[tuple[int, ...], TokenTest] = {
            (int(i),): test for i, test in zip(singles, self.tests, strict=True)
        }
        kinds: tuple[Kind, Kind] = ("stripped", "folded")
        for column, kind in enumerate(kinds):
            for alike in _alike(forms[:, column]):
                form = texts[alike[0]].strip()
                if form and of_active[alike].any():
                    test = TokenTest(kind, form if kind == "stripped" else form.casefold())
                    groups.setdefault(tuple(alike.tolist()), test)
        for bit, name in enumerate(_CLASSES):
            alike = np.flatnonzero(forms[:, 2] & (1 << bit))
            if len(alike):
                groups.setdefault(tuple(alike.tolist()), TokenTest("class", name))
        self.tests = list(groups.values())
        self.n_texts = len(texts)
        sizes = np.array([len(indices) for indices in groups], dtype=np.int64)
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes
        self._members = np.array([i for indices in groups for i in indices], dtype=np.int64)

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """``[..., vocabulary]`` added up over the texts that each test holds of: ``[..., tests]``."""
        return np.add.reduceat(values[..., self._members], self._starts, axis=-1) if self.tests else values[..., :0]

    def anywhere(self, present: Mask) -> Mask:
        """``[vocabulary, n]``, of any text that each test holds of: ``[tests, n]``."""
        return np.logical_or.reduceat(present[self._members], self._starts, axis=0) if self.tests else present[:0]

    def table(self, chosen: Sequence[int]) -> Mask:
        """Of which texts some tests hold: ``[len(chosen), vocabulary]``."""
        held = np.zeros((len(chosen), self.n_texts), dtype=np.bool_)
        for row, i in enumerate(chosen):
            held[row, self._members[self._starts[i] : self._ends[i]]] = True
        return held


class Candidates:
    """Tests and contexts that are worth trying on some evidence, with where each holds.

    Args:
        evidence: What they are chosen on.
        vocabulary: Of this evidence, or of more that this is a part of.

    Attributes:
        evidence: As given.
        vocabulary: As given.
        tests: Of the token itself.
        token_table: ``[tests, n]`` bool, at which tokens each holds.
        contexts: Of what is around it, exceptions left out; those depend on the clause (:meth:`exceptions`).
        context_table: ``[contexts, n]`` bool.
        memo: For whoever grows rules: results by what they depend on, since rules of several sizes begin alike.
    """

    def __init__(self, evidence: Evidence, vocabulary: VocabularyTests) -> None:
        self.evidence = evidence
        self.memo: dict[Any, Any] = {}
        batch = evidence.batch
        self.vocabulary = vocabulary
        chosen = self._by_information(0, _TOKEN_CANDIDATES)
        self.tests = [self.vocabulary.tests[i] for i in chosen]
        self.token_table = self._where(chosen)
        self.contexts: list[Context] = []
        tables: list[Mask] = []
        for offset in (-1, -2, 1):
            chosen = self._by_information(offset, _CONTEXT_CANDIDATES)
            kind, tokens = ("before", -offset) if offset < 0 else ("after", 0)
            self.contexts += [Context(kind, self.vocabulary.tests[i], tokens) for i in chosen]
            tables.append(batch.shifted(self._where(chosen), offset))
        chosen = self._by_excerpt(_CONTEXT_CANDIDATES)
        self._distances = batch.distance_back(self._where(chosen))
        self._distance_of = {self.vocabulary.tests[i]: row for row, i in enumerate(chosen)}
        for tokens in _LOOK_BACK:
            self.contexts += [Context("within", self.vocabulary.tests[i], tokens) for i in chosen]
            tables.append((self._distances > 0) & (self._distances <= tokens))
        self.context_table = np.concatenate(tables)

    def distances(self, test: TokenTest) -> NDArray[np.int64]:
        """How many tokens back a test last held, 0 where it did not: ``[n]``; known of the ``within`` contexts'."""
        row = self._distance_of.get(test)
        batch = self.evidence.batch
        return batch.distance_back(batch.holds(test)) if row is None else self._distances[row]

    def exceptions(self, columns: NDArray[np.int64]) -> tuple[list[Context], Mask]:
        """Exceptions that may help a clause that newly fires on ``columns``.

        Those whose test holds before the largest share of the silent ones, less the share of activation that it holds
        before, and before tokens of two silent documents or more.

        Returns:
            Contexts, and for each which of the columns it leaves: ``[contexts, columns]``.
        """
        evidence, batch = self.evidence, self.evidence.batch
        silent = ~evidence.active[columns]
        inside = columns > batch.starts[columns]
        before = batch.indices[np.where(inside, columns - 1, 0)]
        n_silent = int(silent.sum())
        if n_silent < MIN_DOCUMENTS:
            return [], np.zeros((0, len(columns)), dtype=np.bool_)
        weights = evidence.activations[columns]
        shares = np.stack([silent / n_silent, weights / max(float(weights.sum()), 1e-30)])
        texts = np.stack([np.bincount(before[inside], s[inside], self.vocabulary.n_texts) for s in shares])
        left_out, lost = self.vocabulary.sums(texts)
        gain = left_out - lost
        chosen = [int(i) for i in np.argsort(-gain, kind="stable")[:_EXCEPTION_CANDIDATES] if gain[i] > 0]
        excluded = self.vocabulary.table(chosen)[:, before] & inside
        documents = evidence.documents[columns]
        enough = [len(np.unique(documents[row & silent])) >= MIN_DOCUMENTS for row in excluded]
        tests = (self.vocabulary.tests[i] for i, keep in zip(chosen, enough, strict=True) if keep)
        contexts = [Context("not_after", test) for test in tests]
        return contexts, ~excluded[np.array(enough, dtype=np.bool_)]

    def _where(self, chosen: Sequence[int]) -> Mask:
        table = self.vocabulary.table(chosen)
        self.evidence.batch.masks.update(zip((self.vocabulary.tests[i] for i in chosen), table, strict=True))
        return table[:, self.evidence.batch.indices]

    def _by_information(self, offset: int, most: int) -> list[int]:
        """Tests that say most, by holding ``offset`` tokens from there, about where the feature fires; best first.

        By p·log(p/q), p the share of activation and q the share of all tokens that the test holds ``offset`` from:
        FOIL's gain (Quinlan 1990) with activation in the place of counts.
        """
        evidence, batch = self.evidence, self.evidence.batch
        there = batch.positions + offset
        inside = (there >= batch.starts) & (there < batch.ends)
        seen = batch.indices[there[inside]]
        weights = evidence.activations[inside] / max(float(evidence.activations.sum()), 1e-30)
        counted = (weights, evidence.active[inside].astype(np.float64), None)
        p, support, q = self.vocabulary.sums(np.stack([np.bincount(seen, w, self.vocabulary.n_texts) for w in counted]))
        return _most_informative(p, q / max(evidence.n, 1), support, most)

    def _by_excerpt(self, most: int) -> list[int]:
        """The same for excerpts: tests that hold somewhere in active ones and not in silent ones."""
        evidence, batch = self.evidence, self.evidence.batch
        present = np.zeros((self.vocabulary.n_texts, batch.n_excerpts), dtype=np.bool_)
        present[batch.indices, batch.excerpts] = True
        holds = self.vocabulary.anywhere(present)
        support = holds[:, evidence.excerpt_active].sum(axis=1)
        return _most_informative(support / max(evidence.excerpt_active.sum(), 1), holds.mean(axis=1), support, most)


def _most_informative(p: Floats, q: Floats, support: NDArray[Any], most: int) -> list[int]:
    gain = np.where(support >= MIN_DOCUMENTS, p * np.log(np.maximum(p, 1e-9) / np.maximum(q, 1e-9)), -np.inf)
    order = np.argsort(-gain, kind="stable")[:most]
    return [int(i) for i in order if gain[i] > 0]


def _alike(forms: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Places of equal numbers, where there is more than one: in order of their first, each rising."""
    order = np.argsort(forms, kind="stable")
    first = np.flatnonzero(np.concatenate([[True], np.diff(forms[order]) != 0]))
    ends = np.append(first[1:], len(order))
    several = ends - first > 1
    found = [order[a:b] for a, b in zip(first[several], ends[several], strict=True)]
    return sorted(found, key=lambda one: int(one[0]))


_CLASSES = tuple(name for name in CLASSES if name != "any")
_known: dict[str, int] = {}


@lru_cache(maxsize=1 << 17)
def _forms(text: str) -> tuple[int, int, int]:
    """Numbers of a text stripped, and stripped and folded, and its classes as bits."""
    stripped = text.strip()
    own = classes_of(text)
    classes = sum(1 << bit for bit, name in enumerate(_CLASSES) if name in own)
    return _number(stripped), _number(stripped.casefold()), classes


def _number(text: str) -> int:
    """One of its own, for as long as the process lives."""
    return _known.setdefault(text, len(_known))
