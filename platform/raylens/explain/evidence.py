"""What rules are learnt from, and what a rule is worth on it.

There are two kinds of evidence: excerpts, which are what is predicted, and tokens, of which there are thirty times as
many, each with its activation. The worth of a rule is the mean of three numbers in 0–1:

- F1 over excerpts, active and silent ones given equal weight;
- the excess of the rate at which it matches active excerpts over that of silent ones (what weighted relative accuracy
  measures: Lavrač, Flach & Zupan 1999), which a rule that matches everything lacks;
- F1 over tokens, recall weighted by activation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylens.explain.matching import TokenBatch

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

    def part(self, which: Mask) -> Evidence:
        """That of some excerpts: ``[batch.n_excerpts]`` bool."""
        kept = which[self.batch.excerpts]
        return Evidence(
            self.batch.part(which), self.activations[kept], self.documents[kept], self.excerpt_active[which]
        )

    @property
    def n(self) -> int:
        return len(self.activations)

    @cached_property
    def rates(self) -> Floats:
        """What each excerpt adds, when it is matched, to the rate of active ones and to that of silent ones.

        ``[batch.n_excerpts, 2]``.
        """
        active = self.excerpt_active
        n_active, n_silent = max(int(active.sum()), 1), max(int((~active).sum()), 1)
        return np.stack([np.where(active, 1 / n_active, 0.0), np.where(active, 0.0, 1 / n_silent)], axis=1)

    @cached_property
    def per_token(self) -> Floats:
        """Share of all activation, whether it is active, and whether it is silent: ``[n, 3]``."""
        total = max(float(self.activations.sum()), 1e-30)
        columns = (self.activations / total, self.active.astype(np.float64), (~self.active).astype(np.float64))
        return np.stack(columns, axis=1)

    @cached_property
    def per_token_in_single(self) -> NDArray[np.float32]:
        """The same in single precision: what many clauses are multiplied with."""
        return self.per_token.astype(np.float32)


class Gains(NamedTuple):
    """What each of several clauses would add to a rule; ``[clauses]`` each.

    Attributes:
        values: What the rule is worth with it, unpriced.
        documents: How many documents it newly covers an active token of.
        purity: Which share of the tokens that it newly covers are active.
    """

    values: Floats
    documents: NDArray[np.int64]
    purity: Floats


class Worth:
    """What rules are worth on some evidence, given what the rule so far covers."""

    def __init__(self, evidence: Evidence, covered: Mask) -> None:
        self.evidence = evidence
        self.covered = covered
        self.columns = np.flatnonzero(~covered)
        matched = np.zeros(evidence.batch.n_excerpts, dtype=np.bool_)
        matched[evidence.batch.excerpts[covered]] = True
        self._has_silent = not evidence.excerpt_active.all()
        self._rates_before = evidence.rates[matched].sum(axis=0)
        self._rates = np.where(matched[:, None], 0.0, evidence.rates).astype(np.float32)
        self._tokens_before = evidence.per_token[covered].sum(axis=0)
        self._tokens = evidence.per_token_in_single

    def now(self) -> float:
        """Of the rule so far, unpriced."""
        return float(self._value(self._rates_before[None], self._tokens_before[None])[0])

    def tells(self) -> bool:
        """Whether the rule so far matches a larger share of active excerpts than of silent ones."""
        return bool(self._rates_before[0] > self._rates_before[1])

    def with_each(self, fires: Mask, columns: NDArray[np.int64]) -> Gains:
        """The rule's worth with each of several clauses added.

        Args:
            fires: ``[clauses, len(columns)]`` bool.
            columns: Tokens they are about, ascending and not covered; on all others none of them fires.
        """
        evidence = self.evidence
        if not len(columns) or not len(fires):
            none = np.zeros(len(fires))
            return Gains(np.full(len(fires), self.now()), none.astype(np.int64), none)
        tokens = fires.astype(np.float32) @ self._tokens[columns]
        excerpts = evidence.batch.excerpts[columns]
        first = np.flatnonzero(np.concatenate([[True], excerpts[1:] != excerpts[:-1]]))
        newly = np.logical_or.reduceat(fires, first, axis=1)
        rates = newly.astype(np.float32) @ self._rates[excerpts[first]]
        active = np.flatnonzero(evidence.active[columns])
        speaks = np.zeros(len(fires), dtype=np.int64)
        if len(active):
            documents = evidence.documents[columns[active]]
            first = np.flatnonzero(np.concatenate([[True], documents[1:] != documents[:-1]]))
            speaks = np.logical_or.reduceat(fires[:, active], first, axis=1).sum(axis=1)
        purity = tokens[:, 1] / np.maximum(tokens[:, 1] + tokens[:, 2], 1e-9)
        return Gains(self._value(self._rates_before + rates, self._tokens_before + tokens), speaks, purity)

    def _value(self, rates: Floats, tokens: Floats) -> Floats:
        hit, false = rates[:, 0], rates[:, 1]
        f1 = 2 * hit / (hit + false + 1)
        precision = tokens[:, 1] / np.maximum(tokens[:, 1] + tokens[:, 2], 1e-9)
        recall = tokens[:, 0]
        token_f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        if not self._has_silent:
            return token_f1
        return (f1 + hit - false + token_f1) / 3
