"""The vectors of a text at one point, as an SAE has them: features along directions, a bias, and the error it leaves.

On each token that stands for text, ``h = Σ activation · direction + bias + error``; the error is what makes it exact
(Marks et al., "Sparse feature circuits", 2024). SAEs are not read on special tokens (BOS): there all of ``h`` is kept
apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from raylens.engine.encode import encode_sparse
from raylens.engine.saes import LoadedSae

_ELEMENTS: Final = 1 << 24
"""Of directions held at once (64 MiB of float32)."""


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """A text's vectors; all tensors on the SAE's device.

    Attributes:
        sae: Which SAE.
        hidden: ``[tokens, d_in]`` as the model has them, in its dtype.
        token: ``[n]`` int64, of each feature that fires on a token; rising.
        feature: ``[n]`` int64.
        activation: ``[n]`` float32.
        scale: ``[tokens, d_in]`` float32, by which an SAE that normalises its input scales what it decodes.
        bias: ``[tokens, d_in]`` float32, what it decodes of no feature; 0 on special tokens, as the next.
        error: Likewise, what it does not reconstruct.
        special: Likewise, ``hidden`` on special tokens, and 0 on all others.
    """

    sae: LoadedSae
    hidden: Tensor
    token: Tensor
    feature: Tensor
    activation: Tensor
    scale: Tensor
    bias: Tensor
    error: Tensor
    special: Tensor

    def directions(self, chosen: Tensor) -> Tensor:
        """What a unit of activation adds to ``hidden``: float32 ``[m, d_in]``, of rows ``[m]`` of ``feature``."""
        features = self.feature[chosen]
        return self.sae.sae.W_dec[features].float() * self.scale[self.token[chosen]] / _norms(self.sae, features)

    def weigh(self, gradient: Tensor) -> Weights:
        """Gradient × activation of every part.

        Args:
            gradient: Of some number, by ``hidden``: float32 ``[tokens, d_in]``.
        """
        rows = max(1, _ELEMENTS // self.hidden.shape[1])
        every = torch.arange(len(self.token), device=self.token.device)
        along = [(gradient[self.token[some]] * self.directions(some)).sum(dim=1) for some in every.split(rows)]
        return Weights(
            features=self.activation * torch.cat([*along, gradient.new_empty(0)]),
            errors=(gradient * self.error).sum(dim=1),
            special=float((gradient * self.special).sum(dtype=torch.float64)),
            bias=float((gradient * self.bias).sum(dtype=torch.float64)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What parts of a text's vectors do for a number.

    Attributes:
        features: float32 ``[n]``, of each feature on a token.
        errors: float32 ``[tokens]``.
        special: Of special tokens.
        bias: Of the decoder's bias.
    """

    features: Tensor
    errors: Tensor
    special: float
    bias: float


@torch.no_grad()
def decompose(sae: LoadedSae, hidden: Tensor, special: Sequence[int]) -> Decomposition:
    """Read a text's vectors with an SAE.

    Args:
        sae: The SAE.
        hidden: ``[tokens, d_in]``, any float dtype and device.
        special: Places of tokens that stand for no text.

    Raises:
        MismatchError: ``hidden`` is of another width than the SAE reads.
        RunError: It is not finite.
    """
    hidden = hidden.to(sae.device)
    is_text = torch.ones(len(hidden), 1, device=sae.device)
    is_text[list(special)] = 0
    codes = encode_sparse(sae, hidden)
    keep = is_text.cpu().numpy()[codes.token, 0] > 0
    token, feature = (torch.from_numpy(part[keep]).to(sae.device, torch.int64) for part in codes[:2])
    activation = torch.from_numpy(codes.activation[keep]).to(sae.device)
    bias, scale = _affine(sae, hidden)
    weights = sae.sae.W_dec
    starts = torch.searchsorted(token, torch.arange(len(hidden), device=sae.device))
    amounts = activation.to(weights.dtype) / _norms(sae, feature)[:, 0].to(weights.dtype)
    decoded = embedding_bag(feature, weights, starts, mode="sum", per_sample_weights=amounts).float() * scale
    exact = hidden.float()
    return Decomposition(
        sae=sae,
        hidden=hidden,
        token=token,
        feature=feature,
        activation=activation,
        scale=scale,
        bias=bias * is_text,
        error=(exact - decoded - bias) * is_text,
        special=exact * (1 - is_text),
    )


def _affine(sae: LoadedSae, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What the SAE decodes of no feature, and by what it scales the rest: float32 ``[tokens, d_in]`` each.

    Its last step is affine in what the features add up to, with numbers that it remembers of the input, once.
    """
    model = sae.sae
    x = hidden.to(model.dtype)

    def out(decoded: Tensor) -> Tensor:
        model.run_time_activation_norm_fn_in(x)
        return model.run_time_activation_norm_fn_out(decoded.expand_as(x)).float()

    none = torch.zeros_like(model.b_dec)
    return out(model.b_dec), out(torch.ones_like(none)) - out(none)


def _norms(sae: LoadedSae, features: Tensor) -> Tensor:
    """``[n, 1]``: what decoder rows are divided by, 1 where they are taken as they are."""
    if getattr(sae.sae.cfg, "rescale_acts_by_decoder_norm", False):
        return sae.decoder_norms[features][:, None]
    return torch.ones(len(features), 1, device=features.device)
