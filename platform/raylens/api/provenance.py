"""What caused a feature: nodes of earlier SAEs, edges that were confirmed by ablation, and how much they account for.

How these are computed is in :mod:`raylens.workbench.provenance`; docs/provenance.md says what they mean.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import Field, computed_field

from raylens.api.base import Answer
from raylens.api.reading import Name, Passage
from raylens.ids import ShortFeature, digest


class ProvenanceRequest(Passage):
    """A feature and a text: what caused it there?

    Attributes:
        model: Which of the served models; None for the first one.
        feature: ``<sae>/<index>``, or ``f_<layer>_<index>`` where one of the served SAEs reads that layer.
        saes: SAEs of earlier layers; None for the served ones, or those of the feature's release if it has one a layer.
        token: Place of the feature's token in the text, BOS included; None for the one on which it fires most.
        top: Sources of each layer that are reported at most, features and errors together.
        integrated: Steps of integrated gradients; None for the gradient at the text itself.
        override_guard: Read also with SAEs that were trained on another model (A0.04).
    """

    model: Name | None = None
    feature: Name
    saes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)] | None = None
    token: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    top: Annotated[int, Field(ge=1, le=100)] = 10
    integrated: Annotated[int, Field(ge=1, le=100)] | None = None
    override_guard: bool = False


class ProvenanceNode(Answer):
    """A feature on a token, or what an SAE leaves of the vector there: its error.

    Attributes:
        sae: Which SAE.
        layer: Where that reads; None where its hook point does not say.
        feature: Which of its features; None of the error.
        token: Place in the text, BOS included.
        text: Of the token.
        activation: Of a feature; of an error its length, in units of the residual stream.
    """

    sae: str
    layer: int | None
    feature: int | None
    token: int
    text: str
    activation: float

    @computed_field
    @property
    def name(self) -> str:
        """``<sae>/<feature>``, or ``<sae>/error``."""
        return f"{self.sae}/{'error' if self.feature is None else self.feature}"

    @property
    def short(self) -> str:
        """As it is shown: ``f_3_17``, ``error_3``, or the full name where no layer is known."""
        if self.layer is None:
            return self.name
        return f"error_{self.layer}" if self.feature is None else str(ShortFeature(self.layer, self.feature))

    @property
    def key(self) -> tuple[str, int]:
        """What makes two nodes of one text the same: name and token."""
        return self.name, self.token


class ProvenanceEdge(Answer):
    """How much one node did for another.

    Attributes:
        source: The cause.
        target: A feature.
        attribution: Of the target's activation, what gradient × activation gives the source.
        ablation_effect: What the target's pre-activation really loses when the source is taken out.
        ablated_activation: The target's activation then; 0 where it no longer fires.
    """

    source: ProvenanceNode
    target: ProvenanceNode
    attribution: float
    ablation_effect: float
    ablated_activation: float

    @computed_field
    @property
    def confirmed(self) -> bool:
        """Whether ablation has the sign of the attribution."""
        return self.attribution * self.ablation_effect > 0


class LayerShare(Answer):
    """What one earlier SAE's vectors do for the target, all of them, reported or not.

    With the target's ``offset`` the parts add up to its activation; all are in units of that.

    Attributes:
        sae: Which SAE.
        layer: Where that reads.
        features: Of all its features on all tokens.
        errors: Of all that it does not reconstruct.
        special: Of tokens that stand for no text (BOS), which SAEs do not read.
        bias: Of its decoder's bias.
        rest: What is missing: what the line through the model's point misses (blocks normalise their input, softmax,
            products), biases of the model between here and the target, paths that go past this point.
        n_sources: Features that were weighed, one that fires on several tokens as often.
    """

    sae: str
    layer: int | None
    features: float
    errors: float
    special: float
    bias: float
    rest: float
    n_sources: int


class Provenance(Answer):
    """Which features of earlier layers caused a feature on a token of one text.

    Attributes:
        model: That read the text.
        revision: Of it.
        target: The feature that was asked about.
        offset: What the target reads of a vector of zeros: its encoder's bias.
        integrated: Steps of integrated gradients; None of the gradient at the text itself.
        top: Sources of each layer that were reported at most.
        token_ids: What was read, up to the target's token.
        tokens: The same as text.
        layers: A share of each earlier SAE, the first in the model first.
        edges: To the target, and to the features of layers between that lead to it; the strongest first.
        provenance_id: 16 hex of what determines the result, ``top`` left out.
    """

    model: str
    revision: str
    target: ProvenanceNode
    offset: float
    integrated: int | None
    top: int
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    layers: tuple[LayerShare, ...]
    edges: tuple[ProvenanceEdge, ...]
    provenance_id: str

    @cached_property
    def direct(self) -> tuple[ProvenanceEdge, ...]:
        """Edges that end at the target itself."""
        return tuple(edge for edge in self.edges if edge.target.key == self.target.key)

    @computed_field
    @property
    def agreement(self) -> float | None:
        """Share of edges that ablation confirms; None where there is none."""
        return sum(edge.confirmed for edge in self.edges) / len(self.edges) if self.edges else None

    @property
    def text_digest(self) -> str:
        """16 hex of the tokens that were read."""
        return text_digest(self.token_ids)


def text_digest(token_ids: tuple[int, ...]) -> str:
    """16 hex of tokens: names a text that lies in no cache."""
    return digest(",".join(map(str, token_ids)))[:16]
