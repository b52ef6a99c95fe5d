"""What ``patch.json`` says of an exported patch: what it does, which model it is for, and what was measured of it.

Divergences are of the adapter from the hooks that it stands for, on held-out text.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from raylens.api.base import Answer
from raylens.api.edits import FeatureMax, PatchSpec

FORMAT: Final = "raylens-patch"
VERSION: Final = 1


class Figure(Answer):
    """A mean over predictions with its 95 % interval over documents; bounds are None of one document alone."""

    value: float
    low: float | None = None
    high: float | None = None


class Level(Answer):
    """How large something is over the text's tokens, special ones (BOS) left out.

    Attributes:
        mean: Its mean.
        rms: The root of its mean square.
    """

    mean: float
    rms: float


class Reached(Level):
    """What a form makes of a target.

    Attributes:
        missed: How far it is from what the hooks make of it, token by token: the root mean square of the difference, in
            units of that of the untouched model. 0 is all of the effect, 1 none, more is worse than none.
    """

    missed: float


class Target(Answer):
    """What an edit is about: a feature's activation, as its SAE reads it, or the projection on a direction.

    Attributes:
        name: The feature or direction.
        hook: Where.
        reads: Which of the two.
        untouched: Without any edit.
        hooked: With the edits as hooks.
    """

    name: str
    hook: str
    reads: Literal["activation", "projection"]
    untouched: Level
    hooked: Level


class FormFigures(Answer):
    """What was measured of one form.

    Attributes:
        name: As in :mod:`raylens.workbench.patch_forms`; ``nothing`` is the untouched model, to compare with.
        modules: Matrices that it changes.
        rank: The largest.
        biased: Whether it has biases, which peft hooks in but cannot merge into modules that have none.
        kl: KL(hook ‖ adapter), nats a prediction.
        kl_p95: Of 95 % of predictions it is at most that.
        kl_max: Of any prediction.
        agreement: Share of predictions whose likeliest token is the hook's.
        loss: Cross-entropy of the text, nats a prediction.
        targets: Of each target of the patch, in its order.
    """

    name: str
    modules: int
    rank: int
    biased: bool
    kl: Figure
    kl_p95: float
    kl_max: float
    agreement: Figure
    loss: Figure
    targets: tuple[Reached, ...]

    @property
    def missed(self) -> float:
        """Of the target that it misses most."""
        return max(target.missed for target in self.targets)


class Measured(Answer):
    """What was measured on one text.

    Attributes:
        text: As it was named.
        content: Which content that was.
        ctx_len: Tokens of a window, at most.
        n_tokens: That were asked for.
        n_predictions: Behind each figure.
        n_documents: That intervals are over.
        untouched_loss: Cross-entropy without any edit, nats a prediction.
        hook_loss: With the edits as hooks.
        targets: What the edits are about.
        forms: That were tried, ``nothing`` first.
    """

    text: str
    content: dict[str, Any]
    ctx_len: int
    n_tokens: int
    n_predictions: int
    n_documents: int
    untouched_loss: Figure
    hook_loss: Figure
    targets: tuple[Target, ...]
    forms: tuple[FormFigures, ...]

    def of(self, name: str) -> FormFigures | None:
        """Figures of a form."""
        return next((form for form in self.forms if form.name == name), None)


class PatchedModel(Answer):
    """The model that an adapter is for.

    Attributes:
        name: A hub id, the bundle's, or a folder on the machine that it was made on.
        revision: Hub commit, or content hash of a folder.
        tokenizer: Its fingerprint.
        d_model: Width of its residual stream.
        n_layers: Its blocks.
    """

    name: str
    revision: str
    tokenizer: str
    d_model: int
    n_layers: int


class PatchedAdapter(Answer):
    """The adapter that a patched fine-tune is made of, where it is one.

    Attributes:
        name: A hub id, or a folder on the machine that the patch was made on.
        fingerprint: Of its configuration and weights.
        included: Whether the patch holds it too. Otherwise both have to be active at once.
    """

    name: str
    fingerprint: str
    included: bool


class PatchRecord(Answer):
    """``patch.json``.

    Attributes:
        format: That it is one.
        version: Of this format.
        raylens: Version that wrote it.
        created_at: When.
        spec: The patch.
        model: What the adapter is for.
        adapter: What it is for besides, where the patched model is a model with an adapter.
        saes: Fingerprints of SAEs whose features it names, by id.
        maxima: Of features whose strengths are in units of it, by how edits name them.
        form: The one that the adapter holds.
        exact: Whether these weights do what the hooks do.
        why_not: Why no weights do, where they do not.
        fitted_to: The text that biases and predictions were fitted to; None where nothing was.
        measured: What was measured.
        weights: Fingerprint of the adapter's configuration and weights.
    """

    format: Literal["raylens-patch"] = FORMAT
    version: int = VERSION
    raylens: str
    created_at: datetime
    spec: PatchSpec
    model: PatchedModel
    adapter: PatchedAdapter | None = None
    saes: dict[str, str] = Field(default_factory=dict)
    maxima: dict[str, FeatureMax] = Field(default_factory=dict)
    form: str
    exact: bool
    why_not: str = ""
    fitted_to: str | None = None
    measured: Measured
    weights: str

    @property
    def figures(self) -> FormFigures:
        """Of the form that the adapter holds."""
        found = self.measured.of(self.form)
        assert found is not None
        return found
