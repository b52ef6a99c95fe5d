"""Rules run on many excerpts at once: each distinct token's text is asked once, the rest is done on indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raylens.explain.rule import Clause, Rule
from raylens.explain.token_test import TokenTest


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Texts of tokens of several excerpts, one after another.

    Attributes:
        vocabulary: Distinct texts, in order of appearance.
        indices: ``[n]`` int64 into ``vocabulary``.
        starts: ``[n]`` int64: where the excerpt that a token is of begins.
        ends: ``[n]`` int64: and where it ends.
        excerpts: ``[n]`` int64: which excerpt that is.
        n_excerpts: Excerpts without tokens included.
        masks: Of tests that were asked, of which texts of the vocabulary they hold: rules that are compared share most
            of their tests.
    """

    vocabulary: tuple[str, ...]
    indices: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    excerpts: NDArray[np.int64]
    n_excerpts: int
    masks: dict[TokenTest, NDArray[np.bool_]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, excerpts: Iterable[Sequence[str]]) -> TokenBatch:
        rows = list(excerpts)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        known: dict[str, int] = {}
        indices = np.array([known.setdefault(text, len(known)) for row in rows for text in row], dtype=np.int64)
        ends = np.cumsum(lengths)
        return cls(
            tuple(known),
            indices,
            np.repeat(ends - lengths, lengths),
            np.repeat(ends, lengths),
            np.repeat(np.arange(len(rows), dtype=np.int64), lengths),
            len(rows),
        )

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        return np.arange(len(self.indices), dtype=np.int64)

    def holds(self, test: TokenTest) -> NDArray[np.bool_]:
        """At which tokens ``test`` holds: ``[n]``."""
        return self._of_vocabulary(test)[self.indices]

    def _of_vocabulary(self, test: TokenTest) -> NDArray[np.bool_]:
        known = self.masks.get(test)
        if known is None:
            known = np.array([test.holds(text) for text in self.vocabulary], dtype=np.bool_)
            self.masks[test] = known
        return known

    def part(self, which: NDArray[np.bool_]) -> TokenBatch:
        """Some of the excerpts (``[n_excerpts]``), with the same vocabulary and what is known of it."""
        kept = which[self.excerpts]
        lengths = np.bincount(self.excerpts, minlength=self.n_excerpts)[which]
        ends = np.cumsum(lengths)
        return TokenBatch(
            self.vocabulary,
            self.indices[kept],
            np.repeat(ends - lengths, lengths),
            np.repeat(ends, lengths),
            np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
            len(lengths),
            self.masks,
        )

    def shifted(self, mask: NDArray[np.bool_], offset: int) -> NDArray[np.bool_]:
        """``mask`` of the token ``offset`` places on (negative: before) in the same excerpt; False where none is.

        ``mask`` is ``[..., n]``, and so is what is returned.
        """
        there = self.positions + offset
        inside = (there >= self.starts) & (there < self.ends)
        return mask[..., np.where(inside, there, 0)] & inside if len(there) else mask

    def within(self, mask: NDArray[np.bool_], tokens: int) -> NDArray[np.bool_]:
        """Whether ``mask`` (``[..., n]``) holds at one of the ``tokens`` places before, in the same excerpt."""
        distance = self.distance_back(mask)
        return (distance > 0) & (distance <= tokens)

    def distance_back(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many tokens back ``mask`` (``[..., n]``) last held before each token; 0 where it did not."""
        n = len(self.indices)
        last = np.maximum.accumulate(np.where(mask, self.positions, -1), axis=-1)
        before = np.concatenate([np.full((*mask.shape[:-1], 1), -1, dtype=last.dtype), last], axis=-1)[..., :n]
        return np.where(before >= self.starts, self.positions - before, 0)

    def fires(self, rule: Rule) -> NDArray[np.bool_]:
        """Equal to :meth:`Rule.fires` of each excerpt, one after another: ``[n]``."""
        fired = np.zeros(len(self.indices), dtype=np.bool_)
        for clause in rule.clauses:
            fired |= self.clause_fires(clause)
        return fired

    def clause_fires(self, clause: Clause) -> NDArray[np.bool_]:
        fired = self.holds(clause.token)
        for back, test in enumerate(reversed(clause.before), start=1):
            fired = fired & self.shifted(self.holds(test), -back)
        if clause.within is not None:
            fired = fired & self.within(self.holds(clause.within.test), clause.within.tokens)
        if clause.after is not None:
            fired = fired & self.shifted(self.holds(clause.after), 1)
        if clause.not_after is not None:
            fired = fired & ~self.shifted(self.holds(clause.not_after), -1)
        return fired

    def matches(self, rule: Rule) -> NDArray[np.bool_]:
        """Equal to :meth:`Rule.matches` of each excerpt: ``[n_excerpts]``."""
        matched = np.zeros(self.n_excerpts, dtype=np.bool_)
        matched[self.excerpts[self.fires(rule)]] = True
        return matched
