"""The live workbench: sessions, what they load, and what a model says with and without their patches (A3.05, A3.06)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylens.api.base import Answer, Asked
from raylens.api.edits import Direction, Edit, Edits, Method, Patch, PatchSpec, Unit, Where
from raylens.api.reading import KEPT, Name, Passage

PatchId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Path = Annotated[str, Field(min_length=1, max_length=4096)]

MOST_WRITTEN = 4096


class LoadModelRequest(Asked):
    """What a session works on from now on.

    Attributes:
        model: A served model, one that the catalogue knows, or a folder inside the base directory; None for the
            model that is served first.
        adapter: A LoRA on it: a folder inside the base directory.
    """

    model: Name | None = None
    adapter: Path | None = None


class LoadSaeRequest(Asked):
    """Read with one more SAE.

    Attributes:
        sae: One that the catalogue knows, or a folder inside the base directory.
        override_guard: Also where it was trained on another model (A0.04).
    """

    sae: Path
    override_guard: bool = False


class ExportSaeRequest(Asked):
    """Write an SAE as a folder in SAELens format.

    Attributes:
        sae: One of the session's.
        path: A new folder inside the base directory.
    """

    sae: Path
    path: Path


class ExportedSae(Answer):
    """An SAE that was written.

    Attributes:
        sae: Its id.
        path: The folder.
        files: What is in it, with the SHA-256 of each.
    """

    sae: str
    path: str
    files: dict[str, str]


class HeldSae(Answer):
    """An SAE of a session."""

    sae: str
    hook: str
    layer: int | None
    d_sae: int


class SessionAnswer(Answer):
    """A session.

    Attributes:
        session: Its name: sent as ``X-Raylens-Session``, or as the cookie that came with this answer.
        model: That it works on.
        adapter: A LoRA on it.
        n_layers: Of the model.
        d_model: Width of its residual stream.
        saes: That its patches may name.
        patches: In the order they were made.
    """

    session: str
    model: str
    adapter: str | None
    n_layers: int
    d_model: int
    saes: tuple[HeldSae, ...]
    patches: tuple[Patch, ...] = ()


class PatchRequest(Asked):
    """A new patch: edits, or one edit in short.

    Attributes:
        name: For people.
        sae: Of features that are named in short; None for the session's first one.
        edits: In order.
        directions: That edits name.
        feature: In short: of the only edit.
        direction: Likewise.
        method: Likewise.
        strength: Likewise.
        unit: Likewise.
        where: Likewise.
        enabled: Whether it is on at once.
    """

    name: Annotated[str, Field(max_length=200)] = ""
    sae: Path | None = None
    edits: Edits | None = None
    directions: Annotated[tuple[Direction, ...], Field(max_length=64)] = ()
    feature: Name | None = None
    direction: Name | None = None
    method: Method = "add"
    strength: float = 1.0
    unit: Unit = "max"
    where: Where = "all"
    enabled: bool = True

    @model_validator(mode="after")
    def _valid(self) -> PatchRequest:
        self.spec("")
        return self

    def spec(self, model: str) -> PatchSpec:
        """The patch, for a model."""
        edits = self.edits
        short = {"feature", "direction", "method", "strength", "unit", "where"} & self.model_fields_set
        if edits is None:
            edits = (Edit.model_validate({name: getattr(self, name) for name in short}),)
        elif short:
            raise ValueError(f"give edits, or one edit in short ({', '.join(sorted(short))})")
        return PatchSpec(model=model or None, sae=self.sae, name=self.name, edits=edits, directions=self.directions)


class ToggleRequest(Asked):
    """Turn a patch on or off.

    Attributes:
        enabled: None for the other way round.
    """

    enabled: bool | None = None


class InferenceRequest(Passage):
    """What the session's model says of a text, untouched and patched.

    Attributes:
        top_k: Likely next tokens of each.
        patches: Which of the session's patches; None for those that are on.
        max_new_tokens: Written after the text by each; 0 for none.
        temperature: Of what is written; 0 takes the likeliest token.
        top_p: Likewise.
        seed: Likewise; both are drawn with the same one.
        stop: Texts that end it.
        stream: Answer as server-sent events.
    """

    top_k: Annotated[int, Field(ge=1, le=KEPT)] = 10
    patches: tuple[PatchId, ...] | None = None
    max_new_tokens: Annotated[int, Field(ge=0, le=MOST_WRITTEN)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    stop: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=8)] = ()
    stream: bool = False


class NextChange(Answer):
    """A token that may come next.

    Attributes:
        id: Its number.
        token: As text.
        baseline: Its probability of the untouched model.
        patched: Of the patched one.
        change: The difference.
    """

    id: int
    token: str
    baseline: float
    patched: float
    change: float


class Predicted(Answer):
    """What comes next after a text.

    Attributes:
        token_ids: What was read.
        tokens: The same as text.
        n_dropped: Tokens that the model cannot read, at the end: they were left out.
        next: The likeliest of either model, the largest probability first.
        kl: KL(patched ‖ baseline) of what comes next, nats.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    n_dropped: int = 0
    next: tuple[NextChange, ...]
    kl: float


class InferenceAnswer(Predicted):
    """What the session's model says of a text.

    Attributes:
        session: Whose patches.
        model: Which model.
        patches: That were applied, in order.
        baseline: What the untouched model writes; None where nothing was to be written.
        patched: What the patched one does.
    """

    session: str
    model: str
    patches: tuple[str, ...]
    baseline: str | None = None
    patched: str | None = None


class TextPart(Answer):
    """A part of what is written.

    Attributes:
        which: By whom.
        text: Whole characters.
        end: Why it ended: ``stop`` or ``length``; empty while it goes on.
    """

    which: Literal["baseline", "patched"]
    text: str
    end: str = ""


class Edited(Asked):
    """For the Encoder: a text through a model with edits.

    Attributes:
        model: Its one name.
        adapter: A LoRA on it.
        saes: That the edits name, each with whether the guard is overridden.
        default: Of these: whose features are named in short.
        specs: What is edited, in order, strengths as activations.
        text: Which, and what is wanted of it.
    """

    model: str
    adapter: str | None = None
    saes: dict[str, bool] = Field(default_factory=dict)
    default: str | None = None
    specs: tuple[PatchSpec, ...] = ()
    text: InferenceRequest


class Hold(Asked):
    """For the Encoder: load what a session needs, or say why it cannot be."""

    model: str | None = None
    adapter: str | None = None
    saes: dict[str, bool] = Field(default_factory=dict)


class Held(Answer):
    """What was loaded.

    Attributes:
        model: Its one name.
        n_layers: Blocks.
        d_model: Width of the residual stream.
        saes: In the order they were asked for.
    """

    model: str
    n_layers: int
    d_model: int
    saes: tuple[HeldSae, ...]


class SaeExport(Asked):
    """For the Encoder: write an SAE."""

    model: str
    adapter: str | None = None
    sae: str
    override_guard: bool = False
    path: str


class MaximaRequest(Asked):
    """For the Encoder: the largest activations of features on a sample of text.

    Attributes:
        model: Its one name.
        adapter: A LoRA on it.
        sae: Whose features.
        override_guard: Whether it may have been trained on another model.
        features: Which.
    """

    model: str
    adapter: str | None = None
    sae: str
    override_guard: bool = False
    features: tuple[int, ...]
