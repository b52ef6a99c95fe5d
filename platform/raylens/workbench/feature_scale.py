"""How strong features get: their maxima on a sample of text, for strengths where no cache knows better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.api.edits import FeatureMax
from raylens.bundle.stdlib import read_stdlib
from raylens.engine.feature_reading import WantedReading, read_texts
from raylens.engine.load import LoadedModel
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError

TEXTS: Final = 12
TOKENS: Final = 256
"""Of each."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureScale:
    """Maxima of an SAE's features.

    Attributes:
        maxima: float32 ``[d_sae]``, 0 of features that do not fire.
        n_tokens: Of the sample.
    """

    maxima: NDArray[np.float32]
    n_tokens: int

    def of(self, features: Sequence[int]) -> list[FeatureMax]:
        """Of some features; one that does not fire has the median of those that do: it is of their order.

        Raises:
            InputError: None fires at all.
        """
        fired = self.maxima[self.maxima > 0]
        if not len(fired):
            raise InputError("no feature fires on a sample of text.", hint="give strengths as activations.")
        where = f"a sample of {self.n_tokens:,} tokens"
        middle = FeatureMax(value=float(np.median(fired)), source=f"the median feature on {where}")
        own = self.maxima[list(features)].tolist()
        return [FeatureMax(value=value, source=where) if value > 0 else middle for value in own]


def sample_scale(loaded: LoadedModel, sae: LoadedSae, n_texts: int = TEXTS) -> FeatureScale:
    """Read a sample of held-out text: the beginnings of some modules of the standard library.

    Raises:
        MismatchError: The SAE is of another width than what it reads.
        OutOfMemoryError: A pass does not fit.
    """
    n_prefix = len(loaded.prefix_ids)
    rows: list[tuple[int, ...]] = []
    for file in islice(read_stdlib("held_out"), n_texts):
        ids = loaded.tokenizer(file.text, add_special_tokens=False)["input_ids"]
        assert isinstance(ids, list)
        rows.append((*loaded.prefix_ids, *ids[:TOKENS]))
    best = np.zeros(sae.d_sae, np.float32)
    for reading in read_texts(loaded, [WantedReading(row, (sae,)) for row in rows]):
        (codes,) = reading.codes
        of_text = codes.token >= n_prefix
        np.maximum.at(best, codes.feature[of_text], codes.activation[of_text])
    return FeatureScale(best, sum(len(row) - n_prefix for row in rows))
