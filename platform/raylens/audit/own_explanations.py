"""What the workspace's own explainer says of an audit's features that nothing else is said of (A2.06).

It is made on demand, when an audit lists such features, and kept in the workspace: another audit finds it there. What
is counted here is what there is, not what one run had to make, so an audit that was interrupted gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from raylens.audit.feature_rows import Count
from raylens.config import Config


class OwnExplanation(Config):
    """A feature, and by what id the view ``explanations`` has what is said of it."""

    feature: Count
    explanation_id: str


class Unexplained(Config):
    """Features that have no explanation of one's own, for one reason."""

    reason: str
    n: Count


class OwnExplanations(Config):
    """What came of explaining the listed features that nothing else is said of.

    Attributes:
        explainer: ``lexical``, ``default`` …
        model: The language model that was asked; None where nobody was.
        cache_id: Whose text the features are explained from; None where there is no such cache.
        pass_id: Of the pass over them, as ``raylens explain`` names it; None likewise.
        n_wanted: Listed features that nothing else is said of.
        explained: Those of them that are explained, in the order in which they are listed.
        unexplained: Why the others are not, the most frequent reason first.
        line: All of that in one line.
    """

    explainer: str
    model: str | None = None
    cache_id: str | None = None
    pass_id: str | None = None
    n_wanted: Count
    explained: tuple[OwnExplanation, ...] = ()
    unexplained: tuple[Unexplained, ...] = ()
    line: str

    @classmethod
    def counted(
        cls,
        explainer: str,
        explained: Mapping[int, str],
        reasons: Mapping[str, int],
        *,
        model: str | None = None,
        cache_id: str | None = None,
        pass_id: str | None = None,
    ) -> Self:
        """Count, and say it.

        Args:
            explainer: Its name.
            explained: By feature, in the order in which they are listed, the id of its explanation.
            reasons: Why others are not, with how many.
            model: As above.
            cache_id: Likewise.
            pass_id: Likewise.
        """
        rows = tuple(
            Unexplained(reason=reason, n=n)
            for reason, n in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
            if n
        )
        return cls(
            explainer=explainer,
            model=model,
            cache_id=cache_id,
            pass_id=pass_id,
            n_wanted=len(explained) + sum(row.n for row in rows),
            explained=tuple(OwnExplanation(feature=one, explanation_id=name) for one, name in explained.items()),
            unexplained=rows,
            line=_line(explainer if model is None else f"{explainer} asking {model}", len(explained), rows),
        )


def _line(by: str, n: int, without: Sequence[Unexplained]) -> str:
    """``9/12 that nothing else is said of, by lexical; without: 2 (never fire in the cache), 1 (…)``."""
    missing = sum(row.n for row in without)
    if not n + missing:
        return "none needed"
    reasons = ", ".join(f"{row.n} ({row.reason})" for row in without)
    return f"{n}/{n + missing} that nothing else is said of, by {by}" + (f"; without: {reasons}" if reasons else "")
