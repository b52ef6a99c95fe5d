"""What comes next after a text, of a model and of the same model edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.engine.tap import tap
from raylens.engine.unembedding import FINAL_NORM, logits_of
from raylens.workbench.edits import LoadedEdit, edited


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens that may come next; columns of one length, by the larger of the two probabilities, the largest first.

    Attributes:
        ids: Tokens: the likeliest of either model.
        baseline: Their probabilities, of the untouched model.
        patched: Likewise, of the edited one.
        kl: KL(patched ‖ baseline) over the whole vocabulary, nats.
    """

    ids: tuple[int, ...]
    baseline: tuple[float, ...]
    patched: tuple[float, ...]
    kl: float


def next_logits(
    loaded: LoadedModel, ids: Sequence[int], edits: Sequence[LoadedEdit] = (), n_prompt: int | None = None
) -> Tensor:
    """Logits of what follows a text, float32 ``[vocabulary]``; without edits those of the untouched model.

    Args:
        loaded: A causal LM.
        ids: At least one token.
        edits: As :func:`raylens.workbench.edits.edited`.
        n_prompt: Likewise.

    Raises:
        RunError: They are not finite numbers.
        OutOfMemoryError: The pass does not fit.
    """
    with edited(loaded, edits, n_prompt):
        hidden = tap(loaded, [FINAL_NORM], torch.tensor([list(ids)]))[FINAL_NORM]
        (logits,) = logits_of(loaded, hidden[0, -1:])
    return logits[0]


def compare(baseline: Tensor, patched: Tensor, top: int) -> Prediction:
    """The likeliest tokens of either.

    Args:
        baseline: Logits ``[vocabulary]``.
        patched: Likewise.
        top: How many of each; what is given may be twice as many.
    """
    before, after = baseline.double().log_softmax(dim=-1), patched.double().log_softmax(dim=-1)
    top = min(top, len(before))
    chosen = torch.cat([before.topk(top).indices, after.topk(top).indices]).unique()
    order = torch.maximum(before[chosen], after[chosen]).argsort(descending=True, stable=True)
    chosen = chosen[order]
    return Prediction(
        ids=tuple(chosen.tolist()),
        baseline=tuple(before[chosen].exp().tolist()),
        patched=tuple(after[chosen].exp().tolist()),
        kl=max(0.0, float((after.exp() * (after - before)).nansum())),
    )
