"""What an audit says of single features: rows of ``interp_evidence.json``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from raylens.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class NeighbourRow(Config):
    """An explained feature near one that is not."""

    feature: Count
    cosine: FiniteFloat
    explanation: str


class FeatureRow(Config):
    """A feature that changed (A2.06).

    Attributes:
        id: As people write it: ``f_7_4109``.
        index: Latent of the SAE.
        delta: Mean difference candidate − reference over prompts, in units of the SAE's activations.
        direction: Of it.
        effect: Hedges' g_z; None where it has no value.
        p_value: Sign-flip permutation, two-sided.
        q_value: Benjamini and Hochberg over all tested features.
        p_max_t: Westfall and Young.
        rate_reference: Share of prompts on which it fires.
        rate_candidate: Likewise.
        rate_ratio: With half a prompt added on either side.
        strata: Mean difference over the first, second and last third of positions.
        kept_in_variants: Share of variants in whose list it is with the same sign; None of one variant.
        explanation: Direct; None where there is none.
        explanation_type: Who made it.
        explanation_model: With what.
        explanation_score: As its source gives it.
        proxy_explanation: The nearest explained neighbour's, marked where it is far away.
        proxy_explanation_cosine: How near it is.
        proxy_low_similarity: Whether that is too far to say much.
        neighbours: Explained ones, the nearest first.
    """

    id: str
    index: Count
    delta: FiniteFloat
    direction: Literal["increased", "decreased"]
    effect: FiniteFloat | None
    p_value: Share
    q_value: Share
    p_max_t: Share
    rate_reference: Share
    rate_candidate: Share
    rate_ratio: Annotated[FiniteFloat, Field(gt=0)]
    strata: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    kept_in_variants: Share | None = None
    explanation: str | None = None
    explanation_type: str | None = None
    explanation_model: str | None = None
    explanation_score: FiniteFloat | None = None
    proxy_explanation: str | None = None
    proxy_explanation_cosine: FiniteFloat | None = None
    proxy_low_similarity: bool | None = None
    neighbours: tuple[NeighbourRow, ...] = ()


class CoverageFigures(Config):
    """How much of the features is explained (A2.05); for ``n_unanswered`` the source of labels did not answer."""

    n_features: Count
    n_direct: Count
    n_proxy: Count
    n_low_similarity: Count
    n_unanswered: Count = 0
    best_neighbour_cosine_median: FiniteFloat | None
    best_neighbour_cosine_minimum: FiniteFloat | None
    line: str


class StabilityFigures(Config):
    """Whether findings stay over wordings (A2.19); None where the suite has one wording a prompt.

    Attributes:
        k: Features a list.
        variants: Their names.
        jaccard: Mean over pairs of variants, of the top features as sets.
        rank_biased_overlap: Likewise, with their order.
        explanation_jaccard: Likewise of the words of the top features' explanations; None where none is explained.
    """

    k: Count
    variants: tuple[str, ...]
    jaccard: Share | None
    rank_biased_overlap: Share | None
    explanation_jaccard: Share | None = None


class Side(Config):
    """A model's tokens of one prompt and its completion, with one feature's activation on each."""

    tokens: tuple[str, ...]
    activations: tuple[FiniteFloat, ...]
    n_prompt_tokens: Count


class Highlight(Config):
    """Where a feature fires in both models, on the prompt where it differs most."""

    index: Count
    prompt: str
    variant: str
    reference: Side
    candidate: Side
