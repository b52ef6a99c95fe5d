"""Which explanation of a feature to show (A2.13): preferred type, then score, then length.

Of two that are alike in type and score the shorter one counts: a phrase can be checked at a glance, and long ones
mostly hedge. What is still undecided then is decided by the text itself, so that the choice never depends on the
order in which explanations came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from raylens.labels.explanations import Explanation

PREFERRED: Final = ("oai_token-act-pair", "np_acts-logits-general")
"""Types in order of preference; all others come after them, alike."""


def best(explanations: Iterable[Explanation], preferred: Sequence[str] = PREFERRED) -> Explanation | None:
    """The explanation to show; None where there is none.

    Args:
        explanations: Of one feature, in any order.
        preferred: Values of ``type_name``, the best first.
    """
    return min(explanations, key=lambda one: _order(one, preferred), default=None)


def ranked(explanations: Iterable[Explanation], preferred: Sequence[str] = PREFERRED) -> list[Explanation]:
    """All of them, the best first."""
    return sorted(explanations, key=lambda one: _order(one, preferred))


def _order(one: Explanation, preferred: Sequence[str]) -> tuple[int, bool, float, int, str, str, str, str]:
    rank = preferred.index(one.type_name) if one.type_name in preferred else len(preferred)
    unscored = one.score is None  # an explanation that was scored badly still comes before one that never was
    score = -(one.score or 0.0)
    return (
        rank,
        unscored,
        score,
        len(one.description),
        one.description,
        one.type_name,
        one.model or "",
        one.explanation_id,
    )
