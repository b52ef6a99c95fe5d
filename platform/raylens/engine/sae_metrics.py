"""Streaming quality measures of an SAE, in float64, with bootstrap intervals over documents.

* FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖², and explained variance 1 − FVU. (sae-lens averages a ratio per batch, with
  dimensions collapsed, which is another number.)
* MSE: Σ‖x − x̂‖² / (tokens · d_in), in the model's units.
* L0: active latents a token. Dead: latents that fire on none of the tokens. Dense: on more than 1 % or 10 %.
* CE recovered = (CE_zero − CE_sae) / (CE_zero − CE_clean), with the point's tensor zeroed or replaced by the
  reconstruction; KL recovered = 1 − KL(clean ‖ sae) / KL(clean ‖ zero). As in SAEBench (Karvonen et al. 2025).

The unit of the bootstrap is the document, as tokens of one document are not independent. Above
``CLUSTERS`` documents several share a cluster, so that memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CLUSTERS: Final = 1024
RESAMPLES: Final = 1000
_SEED: Final = 22
_ROWS: Final = 2048


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % percentile bootstrap interval; bounds are None where there is one document only."""

    value: float
    low: float | None
    high: float | None


class ReconstructionSums:
    """What FVU, MSE, L0 and firing rates are made of.

    Args:
        d_in: Width of what is reconstructed.
        d_sae: Number of latents.
    """

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.n = np.zeros(CLUSTERS)
        self._residual = np.zeros(CLUSTERS)
        self._square = np.zeros(CLUSTERS)
        self._sum = np.zeros((CLUSTERS, d_in))
        self._active = np.zeros(CLUSTERS)
        self._fired = np.zeros(d_sae, np.int64)
        # Sums are of x − shift: squares of large means would otherwise cancel.
        self._shift: Tensor | None = None

    def add(self, doc_ids: NDArray[np.int32], x: Tensor, reconstruction: Tensor, activations: Tensor) -> None:
        """Count tokens.

        Args:
            doc_ids: ``[n]``, the document of each token.
            x: ``[n, d_in]``, what the model computed.
            reconstruction: ``[n, d_in]``, what the SAE makes of it.
            activations: ``[n, d_sae]``.
        """
        if not len(x):
            return
        original, residual = x.detach().cpu().double(), (x.float() - reconstruction.float()).detach().cpu().double()
        if self._shift is None:
            self._shift = original.mean(dim=0)
        centred = (original - self._shift).numpy()
        cluster = np.asarray(doc_ids, np.int64) % CLUSTERS
        np.add.at(self.n, cluster, 1)
        np.add.at(self._residual, cluster, residual.square().sum(dim=1).numpy())
        np.add.at(self._square, cluster, np.square(centred).sum(axis=1))
        np.add.at(self._sum, cluster, centred)
        fires = activations != 0
        np.add.at(self._active, cluster, fires.sum(dim=1).cpu().numpy())
        self._fired += fires.sum(dim=0).cpu().numpy()

    @property
    def n_tokens(self) -> int:
        return int(self.n.sum())

    def fvu(self) -> Estimate:
        """Fraction of variance unexplained; the mean is that of the resampled tokens themselves."""

        def of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            total = weights @ self._square - np.square(weights @ self._sum).sum(axis=1) / (weights @ self.n)
            return (weights @ self._residual) / total

        return estimate(of, self.n)

    def mse(self) -> Estimate:
        """Mean squared error an element."""
        return ratio(self._residual, self.n * self._sum.shape[1], self.n)

    def l0(self) -> Estimate:
        """Active latents a token."""
        return ratio(self._active, self.n, self.n)

    def density(self) -> NDArray[np.float64]:
        """``[d_sae]``: share of tokens on which each latent fires."""
        return self._fired / max(1, self.n_tokens)


class LossSums:
    """What CE and KL recovered are made of; one entry a predicted token."""

    NAMES: Final = ("ce_clean", "ce_sae", "ce_zero", "kl_sae", "kl_zero")

    def __init__(self) -> None:
        self.n = np.zeros(CLUSTERS)
        self._sums = {name: np.zeros(CLUSTERS) for name in self.NAMES}

    def add(self, doc_ids: NDArray[np.int32], targets: Tensor, clean: Tensor, sae: Tensor, zero: Tensor) -> None:
        """Count predictions.

        Args:
            doc_ids: ``[n]``.
            targets: ``[n]`` int64, the token that came.
            clean: ``[n, vocabulary]`` logits of the model as it is.
            sae: Likewise, with the reconstruction in place.
            zero: Likewise, with zeros in place.
        """
        cluster = np.asarray(doc_ids, np.int64) % CLUSTERS
        for first in range(0, len(targets), _ROWS):
            rows = slice(first, first + _ROWS)
            target = targets[rows, None]
            log_clean, log_sae, log_zero = (logits[rows].float().log_softmax(dim=-1) for logits in (clean, sae, zero))
            p = log_clean.exp()
            values = {
                "ce_clean": -log_clean.gather(1, target)[:, 0],
                "ce_sae": -log_sae.gather(1, target)[:, 0],
                "ce_zero": -log_zero.gather(1, target)[:, 0],
                "kl_sae": (p * (log_clean - log_sae)).sum(dim=1),
                "kl_zero": (p * (log_clean - log_zero)).sum(dim=1),
            }
            np.add.at(self.n, cluster[rows], 1)
            for name, value in values.items():
                np.add.at(self._sums[name], cluster[rows], value.detach().cpu().double().numpy())

    @property
    def n_predictions(self) -> int:
        return int(self.n.sum())

    def mean(self, name: str) -> Estimate:
        """Mean in nats of one of ``NAMES``."""
        return ratio(self._sums[name], self.n, self.n)

    def ce_recovered(self) -> Estimate:
        """1 where the reconstruction predicts as well as the model, 0 where as badly as zeros."""
        s = self._sums
        return ratio(s["ce_zero"] - s["ce_sae"], s["ce_zero"] - s["ce_clean"], self.n)

    def kl_recovered(self) -> Estimate:
        """Likewise of the divergence from the model's own distribution."""
        s = self._sums
        return ratio(s["kl_zero"] - s["kl_sae"], s["kl_zero"], self.n)


def ratio(above: NDArray[np.float64], below: NDArray[np.float64], n: NDArray[np.float64]) -> Estimate:
    """Σ ``above`` / Σ ``below`` over clusters of ``n`` tokens each."""
    return estimate(lambda weights: (weights @ above) / (weights @ below), n)


def estimate(statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], n: NDArray[np.float64]) -> Estimate:
    """The statistic of all clusters, and its interval over resampled clusters.

    Args:
        statistic: ``[resample, cluster]`` weights → ``[resample]``.
        n: ``[cluster]`` tokens; empty clusters are not drawn.
    """
    filled = np.flatnonzero(n)
    everything = np.zeros((1, len(n)))
    everything[:, filled] = 1
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(everything)[0])
        if len(filled) < 2:
            return Estimate(value, None, None)
        rng = np.random.default_rng(_SEED)
        drawn = np.zeros((RESAMPLES, len(n)))
        drawn[:, filled] = rng.multinomial(len(filled), np.full(len(filled), 1 / len(filled)), RESAMPLES)
        low, high = np.nanpercentile(statistic(drawn), [2.5, 97.5])
    return Estimate(value, float(low), float(high))


@torch.no_grad()
def mean_max_cosine(directions: Tensor, rows: int = 1024) -> float:
    """Mean over ``directions`` ``[n, d]`` of the largest cosine with any other: near 1 where latents are doubled."""
    if len(directions) < 2:
        return 0.0
    unit = torch.nn.functional.normalize(directions.float(), dim=1)
    total = 0.0
    for first in range(0, len(unit), rows):
        cosines = unit[first : first + rows] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(first, first + len(cosines))] = -1
        total += float(cosines.max(dim=1).values.double().sum())
    return total / len(unit)
