"""Sparse SAE activations of a block of tokens, equal to the non-zeros of sae-lens's own ``encode``.

The dense ``[tokens, latents]`` result is never formed. On a CPU in float32 the selection runs in
:mod:`raylens.engine.select`; elsewhere in torch. Both give what ``sae.encode(acts).nonzero()``
would, in the same order.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylens.engine.memory import memory_advice
from raylens.engine.saes import LoadedSae
from raylens.engine.select import above, largest
from raylens.errors import MismatchError, RunError

_BLOCK_ELEMENTS: Final = 1 << 28
"""Pre-activations held at once (1 GiB of float32); more tokens than fit are encoded in turns, each rounded as
sae-lens rounds a call of that size."""


class Sparse(NamedTuple):
    """Activations above zero, sorted by token, then feature; all arrays are ``[n]``."""

    token: NDArray[np.int32]
    feature: NDArray[np.int32]
    activation: NDArray[np.float32]


class _Scratch(threading.local):
    """A buffer for pre-activations, kept between calls: fresh pages would cost a third of the encoding."""

    buffer: Tensor | None = None

    def get(self, rows: int, columns: int) -> Tensor:
        if self.buffer is None or self.buffer.numel() < rows * columns:
            self.buffer = None  # let go of the old one first
            self.buffer = torch.empty(rows * columns)
        return self.buffer[: rows * columns].view(rows, columns)


_SCRATCH: Final = _Scratch()


def encode_sparse(sae: LoadedSae, acts: Tensor, min_activation: float = 0.0) -> Sparse:
    """Encode ``acts`` and keep what is above ``min_activation`` (and above 0).

    Args:
        sae: The SAE.
        acts: ``[tokens, d_in]``, any float dtype and device; cast to the SAE's, as sae-lens does.
        min_activation: In units of the SAE's activations, at least 0.

    Raises:
        MismatchError: ``acts`` is of another width than the SAE reads.
        RunError: an input is NaN or infinite.
        OutOfMemoryError: the block does not fit; says what to lower.
    """
    if acts.ndim != 2 or acts.shape[1] != sae.spec.d_in:
        raise MismatchError(
            f"{sae.id} reads vectors of width {sae.spec.d_in}, and was given {list(acts.shape)}.",
            hint=f"it belongs at {sae.spec.hook} of {sae.spec.model_name or 'its model'}.",
        )
    rows = max(1, _BLOCK_ELEMENTS // sae.d_sae)
    with torch.inference_mode(), memory_advice(f"encoding with {sae.id}", sae.device):
        blocks = [_encode(sae, acts[start : start + rows], min_activation) for start in range(0, len(acts), rows)]
    if len(blocks) == 1:
        return blocks[0]
    starts = np.arange(0, len(acts), rows, dtype=np.int32)
    tokens = [block.token + start for block, start in zip(blocks, starts, strict=True)]
    return Sparse(
        np.concatenate([np.empty(0, np.int32), *tokens]),
        np.concatenate([np.empty(0, np.int32), *(block.feature for block in blocks)]),
        np.concatenate([np.empty(0, np.float32), *(block.activation for block in blocks)]),
    )


def _encode(sae: LoadedSae, acts: Tensor, min_activation: float) -> Sparse:
    model = sae.sae
    x = acts.to(sae.device, model.dtype)
    if not bool(torch.isfinite(x.sum(dtype=torch.float32))) and not bool(torch.isfinite(x).all()):
        raise RunError(
            f"the activations at {sae.spec.hook} are not all finite numbers.",
            hint="the model overflowed; load it with --dtype bfloat16 or float32.",
        )
    architecture = model.cfg.architecture()
    if architecture == "gated":
        dense = model.encode(x)
        return _gather(dense, dense > max(min_activation, 0.0))
    fast = x.device.type == "cpu" and x.dtype == torch.float32
    sae_in, bias = model.process_sae_in(x), model.get_parameter("b_enc")
    hidden = torch.mm(sae_in, model.W_enc, out=_SCRATCH.get(len(x), sae.d_sae) if fast else None)
    if architecture == "topk":
        scale = sae.decoder_norms if model.cfg.rescale_acts_by_decoder_norm else None
        if fast:
            return Sparse(*largest(hidden, bias, scale, model.cfg.k, min_activation))
        hidden = hidden + bias
        return _largest(hidden if scale is None else hidden * scale, model.cfg.k, min_activation)
    threshold = model.get_parameter("threshold") if architecture == "jumprelu" else None
    if fast:
        return Sparse(*above(hidden, bias, threshold, min_activation))
    hidden = hidden + bias
    keep = hidden > max(min_activation, 0.0)
    return _gather(hidden, keep if threshold is None else keep & (hidden > threshold))


def _largest(hidden: Tensor, k: int, min_activation: float) -> Sparse:
    # The call is sae-lens's own, so that equal values are chosen alike.
    values, features = torch.topk(hidden, k, dim=-1, sorted=False)
    features, order = features.sort(dim=-1)
    values = values.gather(-1, order)
    token, slot = (values > max(min_activation, 0.0)).nonzero(as_tuple=True)
    return _sparse(token, features[token, slot], values[token, slot])


def _gather(hidden: Tensor, keep: Tensor) -> Sparse:
    token, feature = keep.nonzero(as_tuple=True)
    return _sparse(token, feature, hidden[token, feature])


def _sparse(token: Tensor, feature: Tensor, activation: Tensor) -> Sparse:
    return Sparse(
        token.to("cpu", torch.int32).numpy(),
        feature.to("cpu", torch.int32).numpy(),
        activation.to("cpu", torch.float32).numpy(),
    )
