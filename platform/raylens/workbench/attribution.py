"""Gradients of features by the vectors of an earlier point: attribution of one layer to another.

What is differentiated is the target's *pre-activation*, in units of its activation: what its encoder reads of the
model's vector before the nonlinearity. Where a feature fires, its activation is that number, in every architecture
(ReLU, TopK, JumpReLU, the magnitude path of a gated SAE), and below the threshold it still has a gradient.

* The gradient at the text itself, times activation, is attribution patching to zero (Nanda, "Attribution patching",
  2023; Marks et al., "Sparse feature circuits", 2024). It goes through the whole model as it is: attention patterns and
  norms are not held fixed, unlike in circuit-tracer, and no later SAE is in its way.
* Integrated gradients (Sundararajan et al., 2017) average it over points on the way from a baseline, in which all
  features and errors of the source's layer are taken out at once and its decoder's bias and special tokens stay. Then
  what features and errors do adds up to the difference that taking all of them out makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.saes import LoadedSae
from raylens.specs import ModelInfo
from raylens.workbench.decomposition import Decomposition
from raylens.workbench.spliced_pass import run_through

GRAPH_TOKENS: Final = 2048
"""Of a pass: what is kept for gradients is many times what a pass alone holds."""
_KEPT: Final = 32
"""Values that a block keeps of a token for gradients, in widths of the residual stream: norms, heads, gate and up."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A feature on a token: what gradients are of.

    Attributes:
        sae: Its SAE.
        feature: Index in it.
        token: Place in the text.
    """

    sae: LoadedSae
    feature: int
    token: int


def pre_activation(sae: LoadedSae, x: Tensor, feature: int) -> Tensor:
    """What the encoder makes of ``x`` before the nonlinearity, in units of activation.

    Args:
        sae: The SAE.
        x: ``[rows, d_in]``, any float dtype and device.
        feature: Index of the feature.

    Returns:
        ``[rows]`` in the SAE's dtype, on its device; differentiable by ``x``.
    """
    model = sae.sae
    gated = model.cfg.architecture() == "gated"
    sae_in = model.process_sae_in(x.to(sae.device))
    bias = model.get_parameter("b_mag" if gated else "b_enc")[feature]
    weights = model.W_enc[:, feature]
    if gated:
        weights = weights * model.get_parameter("r_mag")[feature].exp()
    found = sae_in @ weights + bias
    return found * sae.decoder_norms[feature] if getattr(model.cfg, "rescale_acts_by_decoder_norm", False) else found


def slope(read: Read, x: Tensor) -> Tensor:
    """Gradient of a feature's pre-activation by what its SAE reads: float32 ``[rows, d_in]``, as ``x``."""
    with torch.enable_grad():
        x = x.detach().float().requires_grad_()
        (found,) = torch.autograd.grad(pre_activation(read.sae, x, read.feature).sum(), x)
    return found


def graph_bytes(model: ModelInfo, n_tokens: int, steps: int | None = None, batch_tokens: int = GRAPH_TOKENS) -> int:
    """Bytes that the graph of a pass takes, estimated from above.

    Args:
        model: The model.
        n_tokens: Of the text.
        steps: As :func:`gradients`.
        batch_tokens: Likewise.
    """
    rows = min(steps or 1, max(1, batch_tokens // n_tokens)) if n_tokens else 0
    return 4 * rows * n_tokens * model.n_layers * _KEPT * model.d_model


def gradients(
    loaded: LoadedModel,
    ids: Sequence[int],
    source: Decomposition,
    reads: Sequence[Read],
    steps: int | None = None,
    batch_tokens: int = GRAPH_TOKENS,
) -> list[Tensor]:
    """Of each read feature, by the vectors of an earlier point.

    Args:
        loaded: The model; each pass holds its lock. None of its parameters gets a gradient.
        ids: The text.
        source: Its vectors at that point.
        reads: Features of SAEs that read later points.
        steps: Of integrated gradients, midpoints of that many equal parts; None for the text itself.
        batch_tokens: Tokens of a pass.

    Returns:
        Of each, float32 ``[tokens, d_in]`` on the source SAE's device.

    Raises:
        InputError: A point is not one tensor that can be replaced.
        OutOfMemoryError: A pass does not fit.
    """
    hook = source.sae.spec.hook
    total = [torch.zeros_like(source.error) for _ in reads]
    rows = max(1, batch_tokens // len(ids))
    for shares in torch.arange(steps or 1).split(rows):
        path = _path(source, (shares + 0.5) / steps if steps else None).to(loaded.device)
        points = [hook, *(read.sae.spec.hook for read in reads)]
        text = torch.tensor([list(ids)]).expand(len(path), -1)
        found = run_through(loaded, points, text, {hook: lambda h, path=path: path.to(h)}, gradients=True)
        for read, sum_ in zip(reads, total, strict=True):
            end = found[read.sae.spec.hook][:, read.token]
            with memory_advice("following features back", loaded.device):
                (back,) = torch.autograd.grad(end, found[hook], slope(read, end).to(end), retain_graph=True)
            sum_ += back.sum(dim=0).to(sum_)
    return [one / (steps or 1) for one in total]


def _path(source: Decomposition, shares: Tensor | None) -> Tensor:
    """Vectors on the way from the baseline, ``[rows, tokens, d_in]``; those of the text itself for None."""
    if shares is None:
        return source.hidden[None]
    start = source.bias + source.special
    return start + shares[:, None, None].to(start) * (source.hidden.float() - start)
