"""A feature on text: the windows of a cache that it fires in, and any text of one's own."""

from __future__ import annotations

from typing import Literal

from raylens.api.base import Answer
from raylens.api.features import FeatureRef
from raylens.api.reading import Name, Passage

Windows = Literal["top", "quantile", "interval", "random"]
"""Those of the highest peaks; a sample of one of equal shares; those between two peaks; a sample of all."""


class Window(Answer):
    """Text that a feature fires in; ``activations`` has a value for each of ``tokens``."""

    window_id: int
    doc_id: int
    source: str
    path: str
    peak: float
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


class FeatureWindows(FeatureRef):
    """Windows of a feature, the highest peak first.

    Attributes:
        kind: Which were asked for.
        low: Peaks are at least this.
        high: And below this; None where there is no bound.
        windows: These.
    """

    kind: Windows
    low: float
    high: float | None
    windows: tuple[Window, ...]


class ActivateRequest(Passage):
    """A text to see a feature on.

    Attributes:
        model: That reads it; by default the one that the feature's SAE belongs to.
        override_guard: Read also with an SAE that was trained on another model (A0.04).
    """

    model: Name | None = None
    override_guard: bool = False


class ActivateAnswer(FeatureRef):
    """A feature on each token of a text.

    Attributes:
        model: That read it.
        token_ids: What was read.
        tokens: The same as text.
        values: Activations, 0 where it does not fire.
        special: Places of tokens that stand for no text.
        n_dropped: Tokens that the model could not read.
        peak: The largest value, special tokens left out.
        position: Where that is; None where it does not fire.
    """

    model: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    special: tuple[int, ...] = ()
    n_dropped: int = 0
    peak: float
    position: int | None
