"""How much of a report's features is explained, and how near their proxies are: one line of every report (A2.05)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

from raylens.labels.feature_labels import FeatureLabel


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts over the features of a report.

    Attributes:
        n_features: All of them (``b``).
        n_direct: With an explanation of their own (``a``).
        n_proxy: Without one, and with an explained neighbour (``c``), whether its text is shown or not.
        n_low: Of these, those whose nearest neighbour is of low similarity.
        cosine_median: Of the nearest neighbours' cosines; None without any.
        cosine_minimum: Likewise.
        n_unanswered: Features that their source did not answer for: more may be said of them than was found.
    """

    n_features: int
    n_direct: int
    n_proxy: int
    n_low: int
    cosine_median: float | None
    cosine_minimum: float | None
    n_unanswered: int = 0

    @classmethod
    def of(cls, labels: Iterable[FeatureLabel], unanswered: Collection[int] = ()) -> Self:
        """Count.

        Args:
            labels: Of all features of a report.
            unanswered: Features that their source did not answer for.
        """
        every = list(labels)
        nearest = [one.nearest for one in every if one.explanation is None and one.nearest is not None]
        cosines = [one.cosine for one in nearest]
        return cls(
            n_features=len(every),
            n_direct=sum(one.explanation is not None for one in every),
            n_proxy=len(nearest),
            n_low=sum(one.is_low for one in nearest),
            cosine_median=median(cosines) if cosines else None,
            cosine_minimum=min(cosines, default=None),
            n_unanswered=sum(one.feature in unanswered for one in every),
        )

    def fields(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "n_features": self.n_features,
            "n_direct": self.n_direct,
            "n_proxy": self.n_proxy,
            "n_low_similarity": self.n_low,
            "n_unanswered": self.n_unanswered,
            "best_neighbour_cosine_median": self.cosine_median,
            "best_neighbour_cosine_minimum": self.cosine_minimum,
            "line": self.line(),
        }

    def line(self) -> str:
        """``direct 12/20, proxy 6/20 (low-similarity 2), best-neighbour cosine median 0.470, minimum 0.213``.

        Followed by how many were not answered for, where any were not.
        """
        unanswered = f", not answered for {self.n_unanswered}/{self.n_features}" if self.n_unanswered else ""
        middle, least = (("none" if one is None else f"{one:.3f}") for one in (self.cosine_median, self.cosine_minimum))
        return (
            f"direct {self.n_direct}/{self.n_features}, proxy {self.n_proxy}/{self.n_features} "
            f"(low-similarity {self.n_low}), best-neighbour cosine median {middle}, minimum {least}"
            f"{unanswered}"
        )
