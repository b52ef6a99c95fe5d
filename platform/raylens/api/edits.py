"""Edits of a model while it runs, and patches: edits that belong together, under a name."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from raylens.api.base import Answer, Asked
from raylens.api.reading import Name

Method = Literal["add", "clamp", "ablate", "project_out"]
Unit = Literal["max", "activation"]
Where = Literal["all", "prompt", "generated", "firing"]

MOST_EDITS: Final = 64
STRONGEST: Final = 100.0
"""In units of a feature's maximum. Beyond it a model writes noise, whatever the feature."""

LARGEST: Final = 1e5
"""As an activation, or a length."""


class Edit(Asked):
    """One change of the residual stream, by a feature or along a direction.

    With ``a`` a feature's activation on a token and ``d`` its decoder direction, a token's vector ``h`` becomes

    * ``add``: ``h + strength · d``
    * ``clamp``: ``h + (strength − a) · d``
    * ``ablate``: ``h − a · d``, which is to clamp it to 0
    * ``project_out``: ``h − (h · d̂) d̂``, directional ablation (Arditi et al., "Refusal in language models is mediated
      by a single direction", 2024), which needs no activation

    What the SAE does not reconstruct (its error term) stays as it is in all of them.

    Attributes:
        feature: ``f_3_17``, or ``release/id/17``; None where a direction is named.
        direction: One of the patch's directions.
        method: See above.
        strength: Of ``add`` and ``clamp``.
        unit: Of the strength: the feature's own maximum, or its activation as it is. Of a direction: the length of
            what is added.
        where: On which tokens: all, those of the prompt, those that the model writes, or those where the feature
            fires.
    """

    feature: Name | None = None
    direction: Name | None = None
    method: Method = "add"
    strength: float = 1.0
    unit: Unit = "max"
    where: Where = "all"

    @field_validator("strength")
    @classmethod
    def _bounded(cls, strength: float) -> float:
        if not math.isfinite(strength):
            raise ValueError("strength is no finite number")
        return strength

    @model_validator(mode="after")
    def _makes_sense(self) -> Edit:
        if (self.feature is None) == (self.direction is None):
            raise ValueError("name a feature or a direction, and not both")
        if self.direction is not None:
            if self.method in ("clamp", "ablate"):
                raise ValueError(f"a direction has no activation to {self.method}: add it, or project it out")
            if self.where == "firing":
                raise ValueError("a direction does not fire: where is all, prompt or generated")
        if self.unit == "max" and abs(self.strength) > STRONGEST:
            raise ValueError(f"strength is {self.strength:g} times the maximum, and {STRONGEST:g} is the most")
        if abs(self.strength) > LARGEST:
            raise ValueError(f"strength is {self.strength:g}, and {LARGEST:g} is the most")
        return self

    @property
    def target(self) -> str:
        """What is edited."""
        return self.feature or self.direction or ""

    def __str__(self) -> str:
        amount = f" {self.strength:+g}{' × max' if self.unit == 'max' and self.feature else ''}"
        how = self.method.replace("_", " ") + (amount if self.method in ("add", "clamp") else "")
        return f"{how} {self.target}" + ("" if self.where == "all" else f" ({self.where})")


class Direction(Asked):
    """A direction of the residual stream that is no feature of an SAE.

    Attributes:
        name: By which edits name it.
        hook: Where: ``resid_post.6``.
        vector: ``[d_model]``; its length does not count.
    """

    name: Name
    hook: Name
    vector: Annotated[tuple[float, ...], Field(min_length=1, max_length=65_536)]

    @field_validator("vector")
    @classmethod
    def _direction(cls, vector: tuple[float, ...]) -> tuple[float, ...]:
        if not all(map(math.isfinite, vector)) or not any(vector):
            raise ValueError("a direction is finite numbers that are not all 0")
        return vector


Edits = Annotated[tuple[Edit, ...], Field(min_length=1, max_length=MOST_EDITS)]


class PatchSpec(Asked):
    """What a patch is, wherever it is kept.

    Attributes:
        model: Its one name; None for the session's.
        sae: The SAE of features that are named in short; None for the one that is served first.
        name: For people.
        edits: In order: of two at one hook point, the second reads what the first left.
        directions: That edits name.
    """

    model: Name | None = None
    sae: Name | None = None
    name: Annotated[str, Field(max_length=200)] = ""
    edits: Edits
    directions: Annotated[tuple[Direction, ...], Field(max_length=MOST_EDITS)] = ()

    @model_validator(mode="after")
    def _whole(self) -> PatchSpec:
        known = {one.name for one in self.directions}
        if len(known) != len(self.directions):
            raise ValueError("two directions have one name")
        missing = [one.direction for one in self.edits if one.direction is not None and one.direction not in known]
        if missing:
            raise ValueError(f"direction {missing[0]!r} is not among the patch's directions")
        return self


class FeatureMax(Answer):
    """The largest activation of a feature that is known of.

    Attributes:
        value: It.
        source: Where it was seen: ``cache <id>``, or ``a sample of 2,000 tokens``.
    """

    value: Annotated[float, Field(gt=0)]
    source: str


class Patch(Answer):
    """A patch that is kept.

    Attributes:
        id: Unique.
        session: Whose it is.
        spec: What it does; its model is set.
        enabled: Whether it is on.
        maxima: Of features whose strengths are in units of it, by how edits name them.
        at: When it was created.
    """

    id: str
    session: str
    spec: PatchSpec
    enabled: bool = True
    maxima: dict[str, FeatureMax] = Field(default_factory=dict)
    at: datetime

    def absolute(self) -> PatchSpec:
        """What it does, with strengths as activations."""

        def told(edit: Edit) -> Edit:
            known = self.maxima.get(edit.feature or "")
            if edit.unit != "max" or known is None:
                return edit
            return edit.model_copy(update={"unit": "activation", "strength": edit.strength * known.value})

        return self.spec.model_copy(update={"edits": tuple(map(told, self.spec.edits))})
