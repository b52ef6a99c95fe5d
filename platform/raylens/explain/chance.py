"""How often luck alone does as well: exact tests, times the number of things that were looked at (Bonferroni).

A search over thousands of candidates finds some that fit by accident, so a change for the better is no evidence yet
(Jensen & Cohen 2000, "Multiple comparisons in induction algorithms").
"""

from __future__ import annotations

from math import exp, lgamma, log


def draws_at_least(hits: int, drawn: int, marked: int, total: int) -> float:
    """Chance that of ``drawn`` of ``total`` things at least ``hits`` are ``marked``: Fisher's exact test, one-sided."""
    last = min(drawn, marked)
    if hits <= max(0, drawn + marked - total):
        return 1.0
    every = _log_choose(total, drawn)
    ways = (_log_choose(marked, k) + _log_choose(total - marked, drawn - k) for k in range(hits, last + 1))
    return min(sum(exp(way - every) for way in ways), 1.0)


def coins_at_least(hits: int, tossed: int) -> float:
    """Chance that at least ``hits`` of ``tossed`` fair coins fall one way: the sign test, one-sided."""
    if hits <= 0:
        return 1.0
    return min(sum(exp(_log_choose(tossed, k) - tossed * log(2)) for k in range(hits, tossed + 1)), 1.0)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
