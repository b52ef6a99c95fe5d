"""Finishing a trained SAE: thresholds that spend a given L0 best, and the decoder that fits what is left of the codes.

Training moves all parameters together and ends with one threshold for all latents (BatchTopK). With the encoder's
directions fixed, both the thresholds and the decoder can be found without gradient steps: each latent's threshold
from what its activations take off the error, and the decoder as a least-squares problem in the codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylens.engine.sae_pruning import WEIGHTS
from raylens.errors import InputError

Batches = Iterable[NDArray[np.float32]]
Activations = Callable[[], Batches]
"""Gives the same activations each time it is called, batches of float32 ``[tokens, d_in]``."""

_REACH: Final = 0.75
"""How far below a latent's threshold its new one is looked for."""
_FEW: Final = 30
"""A latent that is seen fewer times than this keeps its threshold."""
_STEPS: Final = 30
_GATHERED: Final = 100_000
"""Tokens whose codes are multiplied together at a time."""


@dataclass(frozen=True, slots=True)
class JumpRelu:
    """The parameters of a JumpReLU SAE that subtracts its decoder's bias first; float32 tensors.

    Attributes:
        w_enc: ``[d_in, d_sae]``.
        b_enc: ``[d_sae]``.
        w_dec: ``[d_sae, d_in]``.
        b_dec: ``[d_in]``.
        threshold: ``[d_sae]``.
    """

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    threshold: Tensor

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder in SAELens format.

        Raises:
            InputError: It is not such an SAE.
        """
        config = json.loads((folder / "cfg.json").read_text())
        plain = config.get("normalize_activations", "none") == "none" and config.get("apply_b_dec_to_input", False)
        if config["architecture"] != "jumprelu" or not plain:
            raise InputError(
                f"{folder.name} is no JumpReLU SAE that subtracts its decoder's bias first and normalizes nothing.",
                hint="train it with --architecture batchtopk or jumprelu.",
            )
        weights = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        return cls(*(weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")))

    def save(self, folder: Path) -> None:
        """Write it over the one in ``folder``, in the dtype of that; decoder rows get norm 1, as they had."""
        dtypes = {name: value.dtype for name, value in load_file(folder / WEIGHTS).items()}
        norm = self.w_dec.norm(dim=1).clamp_min(1e-6)
        values = {
            "W_enc": self.w_enc * norm,
            "b_enc": self.b_enc * norm,
            "W_dec": self.w_dec / norm[:, None],
            "b_dec": self.b_dec,
            "threshold": self.threshold * norm,
        }
        save_file({name: value.to(dtypes[name]).contiguous() for name, value in values.items()}, folder / WEIGHTS)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations and activations of ``x`` ``[tokens, d_in]``, both ``[tokens, d_sae]``."""
        pre = (x - self.b_dec) @ self.w_enc + self.b_enc
        return pre, torch.where((pre > self.threshold) & (pre > 0), pre, pre.new_zeros(()))

    def residual(self, x: Tensor, acts: Tensor) -> Tensor:
        """What ``acts`` leave of ``x``."""
        return x - (acts @ self.w_dec + self.b_dec)


@torch.inference_mode()
def fit_thresholds(sae: JumpRelu, activations: Batches, l0: float) -> Tensor:
    """Thresholds that leave ``l0`` latents active a token and the least error, ``[d_sae]`` float32.

    Each activation is worth what it takes off the squared error of its token, all others as they are. For a price
    the same for all, each latent's threshold is where what lies above is worth most in all; the price is that at
    which ``l0`` are active. Interactions between latents that change together are left out.

    Args:
        sae: Whose.
        activations: Enough to see a latent some tens of times; all candidates are held in memory, 12 bytes each.
        l0: Wanted mean number of active latents a token.
    """
    latent, strength, worth, n_tokens = _candidates(sae, activations)
    order = np.lexsort((-strength, latent))
    latent, strength, worth = latent[order], strength[order], worth[order]
    bounds = np.searchsorted(latent, np.arange(len(sae.threshold) + 1))
    before = sae.threshold.numpy().astype(np.float32)

    def at(price: float) -> tuple[NDArray[np.float32], float]:
        total = np.concatenate([[0.0], np.cumsum(worth - price)])
        found, active = before.copy(), 0
        for one, (first, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            if end - first < _FEW:
                active += int((strength[first:end] > before[one]).sum())
                continue
            kept = 1 + int(np.argmax(total[first + 1 : end + 1]))
            active += kept
            below = strength[first + kept] if first + kept < end else before[one] * _REACH
            found[one] = (strength[first + kept - 1] + below) / 2
        return found, active / n_tokens

    low, high = 0.0, float(worth.max(initial=0.0))
    for _ in range(_STEPS):
        price = (low + high) / 2
        low, high = (price, high) if at(price)[1] > l0 else (low, price)
    return torch.from_numpy(at(high)[0])


def _candidates(
    sae: JumpRelu, activations: Batches
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float64], int]:
    """Latent, strength and worth of everything above or not far below its threshold, and the number of tokens."""
    found: list[tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]] = []
    n_tokens, size = 0, sae.w_dec.square().sum(dim=1)
    for batch in activations:
        x = torch.from_numpy(batch)
        pre, acts = sae.encode(x)
        residual = sae.residual(x, acts)
        token, latent = ((pre > sae.threshold * _REACH) & (pre > 0)).nonzero(as_tuple=True)
        strength = pre[token, latent]
        along = torch.cat(
            [
                (residual[t] * sae.w_dec[f]).sum(dim=1)
                for t, f in zip(token.split(1 << 18), latent.split(1 << 18), strict=True)
            ]
        )
        # Taking an active one away, or a silent one in, changes the residual by a·d.
        own = torch.where(acts[token, latent] > 0, 1.0, -1.0) * strength.square() * size[latent]
        found.append((latent.int().numpy(), strength.numpy(), (2 * strength * along + own).numpy()))
        n_tokens += len(batch)
    if not n_tokens:
        raise InputError("there are no activations to fit an SAE to.", hint="record some text first.")
    latents, strengths, worths = (np.concatenate(part) for part in zip(*found, strict=True))
    return latents, strengths, worths.astype(np.float64), n_tokens


@torch.inference_mode()
def refit_decoder(sae: JumpRelu, activations: Batches, ridge: float = 100.0) -> Tensor:
    """The decoder with the least squared error for the codes as they are, ``[d_sae, d_in]`` float32.

    Solves ``(CᵀC + ridge)·Δ = Cᵀ·residual`` over all tokens; ``ridge``, in squared activations, keeps latents that
    were seen a few times where they were.
    """
    gram: sp.csr_matrix | None = None
    against = np.zeros(tuple(sae.w_dec.shape))
    for codes, residual in _gathered(sae, activations):
        part = (codes.T @ codes).tocsr()
        gram = part if gram is None else gram + part
        against += codes.T @ residual
    if gram is None:
        raise InputError("there are no activations to fit an SAE to.", hint="record some text first.")
    normal = torch.from_numpy(gram.toarray())
    normal.diagonal().add_(ridge)
    return sae.w_dec + torch.linalg.solve(normal, torch.from_numpy(against)).float()


def _gathered(sae: JumpRelu, activations: Batches) -> Iterator[tuple[sp.csr_matrix, NDArray[np.float64]]]:
    codes: list[sp.csr_matrix] = []
    residuals: list[NDArray[np.float64]] = []
    n_tokens = 0
    for batch in activations:
        x = torch.from_numpy(batch)
        _, acts = sae.encode(x)
        codes.append(sp.csr_matrix(acts.double().numpy()))
        residuals.append(sae.residual(x, acts).double().numpy())
        n_tokens += len(batch)
        if n_tokens >= _GATHERED:
            yield sp.csr_matrix(sp.vstack(codes)), np.concatenate(residuals)
            codes, residuals, n_tokens = [], [], 0
    if codes:
        yield sp.csr_matrix(sp.vstack(codes)), np.concatenate(residuals)
