"""What the services say of themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from raylens.api.base import Answer


class Health(Answer):
    """The process lives; this alone is answered without a token."""

    status: Literal["ok"] = "ok"


class PartReady(Answer):
    """A part of the services.

    Attributes:
        ready: Whether it answers.
        said: What it says of itself, or why it does not.
    """

    ready: bool
    said: dict[str, Any] = Field(default_factory=dict)


class Readiness(Answer):
    """Whether requests can be answered.

    Attributes:
        ready: Whether all parts are.
        version: Of RayLens.
        workspace: Where it is.
        parts: ``ledger``, ``encoder``, ``explainer``.
    """

    ready: bool
    version: str
    workspace: str
    parts: dict[str, PartReady]


class ServedModel(Answer):
    """A model that is served.

    Attributes:
        model: Its one name.
        aliases: Other names it goes by.
        saes: Those that may be asked for, the one that answers by default first.
    """

    model: str
    aliases: tuple[str, ...]
    saes: tuple[str, ...]


class SupportedModel(Answer):
    """A row of the catalogue: a model, and a release of SAEs that were trained on it (A0.07).

    Attributes:
        model: Its one name.
        release: Of the SAEs.
        source: Where the row comes from: ``bundle``, ``sae-lens`` or ``user``.
        repo: On the hub.
        saes: How many.
        labels_available: Whether some have labels at Neuronpedia (A0.08).
        labelled: How many have.
        layers: That they read.
        points: Where they read.
        widths: Latents.
        note: What to know before using them.
        aliases: Other names of the model.
    """

    model: str
    release: str
    source: str
    repo: str | None
    saes: int
    labels_available: bool
    labelled: int
    layers: tuple[int, ...]
    points: tuple[str, ...]
    widths: tuple[int, ...]
    note: str
    aliases: tuple[str, ...]


class SupportedModels(Answer):
    """The live catalogue, and what is served right now."""

    models: tuple[SupportedModel, ...]
    served: tuple[ServedModel, ...] = ()
