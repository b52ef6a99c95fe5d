"""How far weights are from the hooks that they stand for, measured on text that nothing was fitted to.

Each batch runs once untouched, once with the hooks and once with each form. Of every prediction (made at a text token,
of a text token) the divergence is KL(hook ‖ form) over the whole vocabulary, in nats. Means have percentile bootstrap
intervals over documents, as tokens of one document are not independent. Effects are measured at the hook points, after
the edit: that a divergence is small says little of an edit which ordinary text hardly touches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.engine.sae_metrics import ratio
from raylens.engine.text_windows import Batch
from raylens.errors import CorpusError, RunError
from raylens.ids import FeatureId
from raylens.workbench.edits import LoadedEdit, edited
from raylens.workbench.feature_activation import activation
from raylens.workbench.patch_record import Figure, FormFigures, Level, Measured, Reached, Target
from raylens.workbench.patch_text import PatchText, document_of, predictions

NOTHING: Final = "nothing"
"""The untouched model: what a form has to be nearer than."""
_ROWS: Final = 256

Context = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """A model that is compared with the hooks.

    Attributes:
        loaded: What runs.
        context: In which it runs as the variant; of ``loaded`` as it is by default.
        modules: Matrices that are changed.
        rank: The largest.
        biased: Whether biases are added.
    """

    loaded: LoadedModel
    context: Context = nullcontext
    modules: int = 0
    rank: int = 0
    biased: bool = False


def measure(
    loaded: LoadedModel,
    edits: Sequence[LoadedEdit],
    variants: Mapping[str, Variant],
    text: PatchText,
    n_tokens: int,
    names: Sequence[str],
    report: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Measure forms against hooks.

    Args:
        loaded: What the hooks are set on.
        edits: As hooks.
        variants: What is compared with them, by name; ``nothing`` is added.
        text: To measure on.
        n_tokens: That were asked for.
        names: Of what each edit is about.
        report: Called with the predictions done.

    Raises:
        CorpusError: The text holds no two tokens in a row.
        RunError: What comes of an edit, or logits, are not finite.
        OutOfMemoryError: A batch does not fit.
    """
    points = tuple(dict.fromkeys(edit.hook for edit in edits))
    all_ = {NOTHING: Variant(loaded), **variants}
    sums = {name: _Sums() for name in all_}
    hooks = _Sums()
    # Of edits on some tokens by place, half of each window counts as the prompt.
    n_prompt = text.ctx_len // 2 if any(edit.where in ("prompt", "generated") for edit in edits) else None
    for batch in text.batches(loaded):
        documents, targets = document_of(batch), _next_tokens(batch)
        logits, held = predictions(loaded, batch, edited(loaded, edits, n_prompt), points)
        expected = _log_probabilities(loaded, logits)
        wanted = [_read(edit, held[edit.hook]) for edit in edits]
        hooks.add(documents, targets, expected, expected, wanted, wanted)
        for name, variant in all_.items():
            logits, held = predictions(variant.loaded, batch, variant.context(), points)
            found = _log_probabilities(variant.loaded, logits)
            sums[name].add(
                documents, targets, expected, found, wanted, [_read(edit, held[edit.hook]) for edit in edits]
            )
        report(hooks.n)
    if not hooks.n:
        raise CorpusError(f"{text.name} holds no two tokens in a row.", hint="name other text, of a page or more.")
    return Measured(
        text=text.name,
        content=dict(text.content),
        ctx_len=text.ctx_len,
        n_tokens=n_tokens,
        n_predictions=hooks.n,
        n_documents=text.n_documents,
        untouched_loss=sums[NOTHING].figure("loss"),
        hook_loss=hooks.figure("loss"),
        targets=tuple(
            Target(
                name=name,
                hook=str(edit.hook),
                reads="projection" if edit.sae is None else "activation",
                untouched=sums[NOTHING].level(at),
                hooked=hooks.level(at),
            )
            for at, (name, edit) in enumerate(zip(names, edits, strict=True))
        ),
        forms=tuple(sums[name].figures(name, variant, sums[NOTHING]) for name, variant in all_.items()),
    )


def target_name(edit: LoadedEdit, direction: str) -> str:
    """``sae/index`` of a feature, else the direction's name."""
    return direction if edit.sae is None else str(FeatureId(edit.sae.id, edit.feature))


@dataclass(slots=True)
class _Sums:
    """What the figures of one variant are made of."""

    n: int = 0
    kl: list[NDArray[np.float64]] = field(default_factory=list)
    agrees: list[NDArray[np.float64]] = field(default_factory=list)
    loss: list[NDArray[np.float64]] = field(default_factory=list)
    documents: list[NDArray[np.int32]] = field(default_factory=list)
    moments: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """Of each target: tokens, Σ value, Σ value², Σ (value − wanted)²."""

    def add(
        self,
        documents: NDArray[np.int32],
        targets: Tensor,
        expected: Tensor,
        found: Tensor,
        wanted: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> None:
        """Count a batch.

        Args:
            documents: Of each prediction.
            targets: The token that came.
            expected: Log-probabilities ``[predictions, vocabulary]`` of the hooks.
            found: Of the variant.
            wanted: Values of each target ``[tokens]`` under the hooks.
            read: Under the variant.
        """
        self.n += len(targets)
        self.documents.append(documents)
        rows = [slice(start, start + _ROWS) for start in range(0, len(targets), _ROWS)]
        kl = [(expected[at].exp() * (expected[at] - found[at].to(expected.device))).sum(dim=-1) for at in rows]
        agrees = [(expected[at].argmax(dim=-1) == found[at].to(expected.device).argmax(dim=-1)).float() for at in rows]
        own = -found.gather(1, targets.to(found.device)[:, None])[:, 0]
        for kept, parts in ((self.kl, kl), (self.agrees, agrees), (self.loss, [own])):
            kept.extend(part.clamp(min=0).cpu().double().numpy() for part in parts)
        for at, (values, aim) in enumerate(zip(read, wanted, strict=True)):
            own = values.cpu().double().numpy()
            off = own - aim.cpu().double().numpy()
            more = np.array([len(own), own.sum(), np.square(own).sum(), np.square(off).sum()])
            self.moments[at] = self.moments.get(at, np.zeros(4)) + more

    def figure(self, name: str) -> Figure:
        values = np.concatenate(getattr(self, name))
        documents = np.unique(np.concatenate(self.documents), return_inverse=True)[1]
        sums, n = (np.asarray(np.bincount(documents, each), np.float64) for each in (values, np.ones_like(values)))
        estimate = ratio(sums, n, n)
        return Figure(value=estimate.value, low=estimate.low, high=estimate.high)

    def level(self, at: int) -> Level:
        n, total, squares, _ = self.moments[at]
        return Level(mean=float(total / max(n, 1)), rms=float((squares / max(n, 1)) ** 0.5))

    def reached(self, at: int, nothing: _Sums) -> Reached:
        mine, none = float(self.moments[at][3]), float(nothing.moments[at][3])
        # Where the hooks themselves change nothing, there is nothing to be missed.
        return Reached(**self.level(at).model_dump(), missed=(mine / none) ** 0.5 if none > 0 else 0.0)

    def figures(self, name: str, variant: Variant, nothing: _Sums) -> FormFigures:
        kl = np.concatenate(self.kl)
        return FormFigures(
            name=name,
            modules=variant.modules,
            rank=variant.rank,
            biased=variant.biased,
            kl=self.figure("kl"),
            kl_p95=float(np.quantile(kl, 0.95)),
            kl_max=float(kl.max()),
            agreement=self.figure("agrees"),
            loss=self.figure("loss"),
            targets=tuple(self.reached(at, nothing) for at in self.moments),
        )


def _log_probabilities(loaded: LoadedModel, logits: Tensor) -> Tensor:
    found = logits.float().log_softmax(dim=-1)
    if not bool(torch.isfinite(found).all()):
        raise RunError(
            f"the logits of {loaded.name} are not all finite numbers.",
            hint="lower the strength of the edits, or try --dtype float32.",
        )
    return found


def _read(edit: LoadedEdit, hidden: Tensor) -> Tensor:
    """A feature's activation or a projection, of ``[tokens, d_model]``."""
    if edit.sae is not None:
        return activation(edit.sae, hidden, edit.feature)
    assert edit.vector is not None
    return hidden @ edit.vector.to(hidden)


def _next_tokens(batch: Batch) -> Tensor:
    """int64 ``[predictions]``: what came."""
    return batch.input_ids[:, 1:][batch.text[:, :-1] & batch.text[:, 1:]]
