"""Which feature the page is about, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raylens.ids import FeatureId
from raylens.labels.buckets import bucket_of
from raylens.store.feature_card import Card
from raylens.store.selection import Readable
from raylens_app.web.desk import Desk


@dataclass(frozen=True)
class Subject:
    """One feature in one cache.

    Attributes:
        desk: What is worked with.
        one: Its SAE and cache.
        index: Which of the SAE's features.
    """

    desk: Desk
    one: Readable
    index: int

    @cached_property
    def card(self) -> Card:
        """All that is known of it but its windows."""
        return self.desk.features.card(self.one, self.index)

    @property
    def id(self) -> FeatureId:
        """Its whole id."""
        return FeatureId(self.one.sae, self.index)

    @property
    def short(self) -> str:
        """As it is shown: ``f_3_17``."""
        return self.one.short(self.index)

    @property
    def scale(self) -> float:
        """The activation that gets the strongest shade: its maximum in this cache."""
        return float(self.card.statistics["max_activation"] or 0.0)

    @cached_property
    def row(self) -> dict[str, Any]:
        """Its row in lists: the best that is said of it, with its score."""
        return self.desk.features.rows_of([self.one], [(0, self.index)])[0]

    @property
    def said(self) -> str | None:
        """The label, else the best explanation."""
        return self.row["label"] or self.row["explanation"]

    @property
    def bucket(self) -> str:
        """Of what is said."""
        return bucket_of(self.said)
