"""An excerpt: a few tokens of a document, and how strongly one feature fires on each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Excerpt:
    """Consecutive tokens of one document, with one feature's activations.

    Attributes:
        window_id: The window that its peak lies in; of an excerpt on which the feature is silent, its first token's.
        doc_id: The document.
        start: Index of its first token within that window; negative where it begins in a window before.
        tokens: The text each token stands for; joined, they are the excerpt's text.
        token_ids: ``[len(tokens)]`` int32.
        activations: ``[len(tokens)]`` float32, 0 where the feature is silent.
        quantile: Which of the equal-count bands of strength its window belongs to, 0 the weakest; None of a
            negative, and where windows were not drawn by band.
    """

    window_id: int
    doc_id: int
    start: int
    tokens: tuple[str, ...]
    token_ids: NDArray[np.int32]
    activations: NDArray[np.float32]
    quantile: int | None = None

    @cached_property
    def text(self) -> str:
        return "".join(self.tokens)

    @cached_property
    def peak(self) -> float:
        """The largest activation; 0 of a negative."""
        return float(self.activations.max(initial=0.0))

    @property
    def is_active(self) -> bool:
        return self.peak > 0


@dataclass(frozen=True, eq=False)
class ExampleSets:
    """One feature's excerpts: explainers see ``train``, scorers see ``test``, and no document is in both.

    Attributes:
        train: On which it fires.
        test: Likewise, of other documents.
        train_negatives: On which it is silent; for contrastive explainers.
        test_negatives: Likewise, of documents that no ``train`` or ``train_negatives`` excerpt is of.
        max_activation: The feature's largest over the whole cache; what levels 0–10 are relative to.
        rate: Share of all pieces of the cache in which it fires; None where that is not known.
    """

    train: tuple[Excerpt, ...]
    test: tuple[Excerpt, ...]
    train_negatives: tuple[Excerpt, ...]
    test_negatives: tuple[Excerpt, ...]
    max_activation: float
    rate: float | None = None
