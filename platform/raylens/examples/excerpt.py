"""An excerpt: a few tokens of a document, and how strongly one feature fires on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Excerpt:
    """Consecutive tokens of one document, with one feature's activations.

    Attributes:
        window_id: The window that its peak lies in; of an excerpt on which the feature is silent, its first token's.
        doc_id: The document.
        start: Index of its first token within that window; negative where it begins in a window before.
        text: What its tokens spell.
        starts: ``[n]`` integers, first character of each token in ``text``, plus ``starts[0]``, which need not be 0.
        token_ids: ``[n]`` int32.
        activations: ``[n]`` float32, 0 where the feature is silent.
        quantile: Which of the equal-count bands of strength its window belongs to, 0 the weakest; None of a
            negative, and where windows were not drawn by band.
    """

    window_id: int
    doc_id: int
    start: int
    text: str
    starts: NDArray[np.integer]
    token_ids: NDArray[np.int32]
    activations: NDArray[np.float32]
    quantile: int | None = None

    @classmethod
    def of(
        cls,
        window_id: int,
        doc_id: int,
        start: int,
        tokens: Sequence[str],
        token_ids: NDArray[np.int32],
        activations: NDArray[np.float32],
        quantile: int | None = None,
    ) -> Excerpt:
        """An excerpt of ``tokens``, the text that each stands for."""
        starts = np.cumsum([0, *map(len, tokens)])[:-1]
        return cls(window_id, doc_id, start, "".join(tokens), starts, token_ids, activations, quantile)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The text each token stands for; joined, they are ``text``."""
        # Cut when asked for: who shows an excerpt as plain text never needs them.
        starts = self.starts.tolist()
        first, text = (starts or [0])[0], self.text
        return tuple([text[a - first : b - first] for a, b in pairwise([*starts, first + len(text)])])

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
        n_random: Negatives that are random though nearer ones were wanted, of which there were too few.
    """

    train: tuple[Excerpt, ...]
    test: tuple[Excerpt, ...]
    train_negatives: tuple[Excerpt, ...]
    test_negatives: tuple[Excerpt, ...]
    max_activation: float
    rate: float | None = None
    n_random: int = 0
