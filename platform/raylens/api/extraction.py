"""Features of a span (A0.09–A0.19): what is asked, what is kept, and what is shown."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from raylens.api.base import Answer, Asked
from raylens.api.reading import AblateAnswer, Name, Peaks, TopK
from raylens.traces.span import Id

CACHED: Final = "ok (cached)"

Bucket = Literal["safety", "intent", "reasoning", "tool", "unknown"]


class ExtractRequest(Asked):
    """Features of one span.

    Attributes:
        span_id: Which.
        top_k: How many are answered; 256 are kept, so a smaller number is served from them later.
        sae: Which SAE of the span's model; None for the one that is served first.
        override_guard: Read also with an SAE that was trained on another model.
        again: Read anew though it was read before.
    """

    span_id: Id
    top_k: TopK = 20
    sae: Name | None = None
    override_guard: bool = False
    again: bool = False


class Extraction(Answer):
    """What is kept of a span's reading: rows of the view ``sae_feature_activations``.

    Attributes:
        span_id: Which span.
        model: The model that read it, its one name.
        sae: The SAE, likewise.
        layer: Where that reads.
        peaks: At most 256, the largest first.
        n_tokens: Tokens that were read.
        n_dropped: Tokens that the model could not read.
        at: When.
    """

    span_id: Id
    model: Name
    sae: Name
    layer: int | None
    peaks: Peaks
    n_tokens: int
    n_dropped: int = 0
    at: datetime


class SpanFeature(Answer):
    """One feature of a span, as people see it.

    Attributes:
        id: ``f_<layer>_<index>``.
        index: Of the feature.
        layer: Of its SAE.
        label: What it means; None where nothing is said of it.
        bucket: By the label's words; without one a guess from the tokens that it promotes.
        activation: Its maximum over the span.
        position: The token where that is.
        neuronpedia_url: Its page, where it has one.
    """

    id: str
    index: int
    layer: int | None
    label: str | None
    bucket: Bucket
    activation: float
    position: int
    neuronpedia_url: str | None


class ExtractAnswer(Answer):
    """Features of a span.

    Attributes:
        span_id: Which.
        model: That read it; None where none can.
        sae: Likewise.
        features: The largest first; empty where they cannot be read.
        reason: ``ok``, ``ok (cached)``, either with what is to be known of it, or why there are none.
        supported: Whether features of this span can be read.
        hint: What to do where they cannot.
        fallback: What needs no activations (A0.06), likewise.
    """

    span_id: str
    model: str | None
    sae: str | None
    features: tuple[SpanFeature, ...]
    reason: str
    supported: bool = True
    hint: str = ""
    fallback: tuple[str, ...] = ()


class EffectsAnswer(Answer):
    """Effects of tokens.

    Attributes:
        span_id: Which span.
        effects: What was measured; None where it cannot be.
        reason: ``ok``, or why it cannot.
        supported: Whether it can.
        hint: What to do where it cannot.
    """

    span_id: str
    effects: AblateAnswer | None
    reason: str
    supported: bool = True
    hint: str = ""
