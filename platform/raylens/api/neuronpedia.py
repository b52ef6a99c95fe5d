"""Neuronpedia's own shapes, for clients that speak its API: camelCase, and strings where it has strings.

A client of Neuronpedia may send more than is read here; that is ignored, as there.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

MOST_RESULTS: Final = 100
"""Of ``search-all``."""
MOST_A_TOKEN: Final = 20
"""Of ``search-topk-by-token``."""
MOST_FOUND: Final = 20
"""Of one page of ``explanation/search``."""

_Part = Annotated[str, Field(min_length=1, max_length=300)]
_Text = Annotated[str, Field(min_length=1, max_length=100_000)]
_Density = Annotated[float, Field(allow_inf_nan=False)]


class Camel(BaseModel):
    """JSON in camelCase."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class SourceRow(Camel):
    """A source of features.

    Attributes:
        model_id: Neuronpedia's id of the model, or one of that form.
        source: Likewise of the SAE.
        sae: The SAE of this workspace; None where only labels are kept.
    """

    model_id: str
    source: str
    sae: str | None


class Sources(Camel):
    """All sources that something is known of."""

    sources: tuple[SourceRow, ...]


class ExplanationSearch(Camel):
    """``POST /api/explanation/search``: which features does somebody explain so?

    Attributes:
        model_id: Of which model.
        layers: Of which sources.
        query: What to look for.
        offset: Results to leave out first.
    """

    model_id: _Part
    layers: Annotated[tuple[_Part, ...], Field(min_length=1, max_length=200)]
    query: Annotated[str, Field(min_length=3, max_length=1000)]
    offset: Annotated[int, Field(ge=0, le=2**31)] = 0


class FoundExplanation(Camel):
    """An explanation that fits.

    Attributes:
        model_id: Whose.
        layer: Of which source.
        index: Of which feature.
        description: What it says.
        type_name: Who says so.
        cosine_similarity: With the query; None where it was found by its words alone.
        neuron: The feature's page.
    """

    model_id: str
    layer: str
    index: str
    description: str
    type_name: str
    cosine_similarity: Annotated[float | None, Field(alias="cosine_similarity")]
    neuron: dict[str, Any]


class FoundExplanations(Camel):
    """One page; ``next_offset`` is where the next one begins."""

    results: tuple[FoundExplanation, ...]
    results_count: int
    has_more: bool
    next_offset: int


class SearchAll(Camel):
    """``POST /api/search-all``: which features fire on this text?

    Attributes:
        model_id: Of which model.
        source_set: Which of its sources: the part after the layer, or an SAE release; empty for all.
        text: The text.
        selected_layers: These sources alone; empty for all of the set.
        sort_indexes: Places of tokens: what fires most on these together comes first; empty for the maximum.
        ignore_bos: Whether a maximum may not lie on the beginning-of-text token. What fires there alone is left out
            in any case.
        density_threshold: Leave out features that fire on a larger share of tokens; below 0 for none.
        num_results: Features at most.
    """

    model_id: _Part
    source_set: Annotated[str, Field(max_length=300)] = ""
    text: _Text
    selected_layers: Annotated[tuple[_Part, ...], Field(max_length=200)] = ()
    sort_indexes: Annotated[tuple[Annotated[int, Field(ge=0, le=2**31)], ...], Field(max_length=1000)] = ()
    ignore_bos: bool = True
    density_threshold: _Density = -1.0
    num_results: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 50


class SearchedFeature(Camel):
    """A feature on a text; ``values`` has one for each token."""

    model_id: str
    layer: str
    index: str
    values: tuple[float, ...]
    max_value: float
    max_value_index: int


class SearchedText(Camel):
    """Features that fire on a text."""

    tokens: tuple[str, ...]
    result: tuple[SearchedFeature, ...]


class SearchByToken(Camel):
    """``POST /api/search-topk-by-token``: which features fire on each token? Attributes as of :class:`SearchAll`."""

    model_id: _Part
    source: _Part
    text: _Text
    num_results: Annotated[int, Field(ge=1, le=MOST_A_TOKEN)] = 10
    ignore_bos: bool = True
    density_threshold: _Density = -1.0


class TopFeature(Camel):
    """A feature on a token; ``feature`` is its page in short."""

    activation_value: float
    feature_index: int
    feature: dict[str, Any]


class TokenFeatures(Camel):
    """The features of one token, the strongest first; none on tokens that stand for no text."""

    position: int
    token: str
    top_features: tuple[TopFeature, ...]


class SearchedTokens(Camel):
    """Features by token."""

    results: tuple[TokenFeatures, ...]


class NamedFeature(Camel):
    """Which feature; ``index`` as a number or as text."""

    model_id: _Part
    source: _Part
    index: Annotated[str, Field(pattern=r"^[0-9]{1,10}$")] | Annotated[int, Field(ge=0, le=2**31 - 1)]


class NewActivation(Camel):
    """``POST /api/activation/new``: a feature on one's own text."""

    feature: NamedFeature
    custom_text: _Text


class ActivationOnText(Camel):
    """A feature on each token; its maximum leaves out tokens that stand for no text."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    max_value: float
    max_value_token_index: int


class NeuronpediaError(Camel):
    """Why there is no answer: one sentence."""

    error: str
