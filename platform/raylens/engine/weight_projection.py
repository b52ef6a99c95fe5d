"""How much of a weight difference lies along single SAE directions: the score method ``weight_projection``.

A fine-tune that teaches one thing writes, or reads, along few directions of the residual stream; if one of them is
what a latent of the SAE stands for, that latent's direction holds more of the difference than a direction does by
chance. Two sides are looked at:

- *writers* before the SAE's hook point (the embedding, output projections of attention and MLP): their differences
  ΔW, rows being the stream, add up to G = Σ ΔW ΔWᵀ. The energy written along a latent is E = dᵀ G d, with d its
  decoder row, made a unit vector.
- *readers* after it (all other matrices of a block whose input is as wide as the stream): G = Σ ΔWᵀ ΔW, and d is the
  latent's encoder direction.

For a direction u drawn evenly from the unit sphere of n dimensions, uᵀGu has mean tr(G)/n and variance
2/(n+2) · (tr(G²)/n − (tr(G)/n)²), by the second and fourth moments of the sphere. The figure of a latent is the number
of these standard deviations that its E lies above that mean. It has no scale, and G's own spectrum sets the spread; of
random differences to pico's weights the largest of 4 096 figures is 4 to 7, more where the rank is low, as the tail
is heavier then. The score is the largest of all latents and both sides; 0 where nothing differs. It needs no text.

Left out: gains of the norms before readers, and experts of mixture models that are stored as one tensor. The statistic
is this project's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.saes import LoadedSae
from raylens.engine.stream_writers import ATTENTION, MLP, reach, writers
from raylens.engine.weight_difference import weight_differences
from raylens.errors import MismatchError
from raylens.ids import HookPoint

Side = Literal["writers", "readers"]

_ROWS: Final = 16_384


@dataclass(frozen=True, slots=True)
class AlignedFeature:
    """A latent and how much of the difference lies along it.

    Attributes:
        index: Of the latent.
        side: Whether it is written or read.
        deviations: Standard deviations of a random direction's energy above its mean.
        times_random: Its energy in means of a random direction.
    """

    index: int
    side: Side
    deviations: float
    times_random: float


@dataclass(frozen=True, slots=True)
class WeightProjection:
    """What :func:`weight_projection` found.

    Attributes:
        score: The largest ``deviations``; 0 where nothing on either side differs.
        top: Latents of the largest, the largest first.
        n_writers: Matrices that differ.
        n_readers: Likewise.
        n_left_out: Weights that differ and are on neither side: norms, later writers, earlier readers …
    """

    score: float
    top: tuple[AlignedFeature, ...]
    n_writers: int
    n_readers: int
    n_left_out: int


def weight_projection(reference: LoadedModel, candidate: LoadedModel, sae: LoadedSae, k: int = 20) -> WeightProjection:
    """Project the difference of two models' weights on an SAE's directions; the formula is the module's.

    Args:
        reference: Of the same shape as the candidate.
        candidate: With an adapter merged in, where it is one.
        sae: Of a point of the residual stream, or of what a sublayer adds to it.
        k: Latents to report, at most.

    Raises:
        MismatchError: The SAE reads something else, or the models differ in shape.
        InputError: Weights are quantized or NaN.
    """
    sides = _sides(reference, sae.spec.hook)
    if sae.spec.d_in != reference.d_model:
        raise MismatchError(
            f"{sae.id} reads vectors of width {sae.spec.d_in}, and the stream of {reference.name} is "
            f"{reference.d_model} wide.",
            hint="name an SAE of the residual stream.",
        )
    grams: dict[Side, Tensor] = {}
    counts: dict[Side | None, int] = {}
    for difference in weight_differences(reference, candidate):
        place = sides.get(difference.name)
        side = None if place is None else place.side
        counts[side] = counts.get(side, 0) + 1
        if place is not None:
            with torch.inference_mode(), memory_advice("projecting weights", reference.device):
                part = place.gram(difference.delta)
                grams[place.side] = grams[place.side] + part if place.side in grams else part
    found = [one for side, gram in grams.items() for one in _aligned(sae, side, gram, k)]
    found.sort(key=lambda one: (-one.deviations, one.index, one.side))
    return WeightProjection(
        score=found[0].deviations if found else 0.0,
        top=tuple(found[:k]),
        n_writers=counts.get("writers", 0),
        n_readers=counts.get("readers", 0),
        n_left_out=counts.get(None, 0),
    )


def deviations(energies: Tensor, gram: Tensor) -> Tensor:
    """Energies ``[latents]`` along unit directions in standard deviations above a random direction's: float64.

    Args:
        energies: dᵀ G d.
        gram: G, symmetric ``[n, n]``.
    """
    n = len(gram)
    mean = gram.diagonal().double().sum() / n
    spread = gram.double().square().sum() / n - mean.square()  # tr(G²) is the sum of squares, as G is symmetric
    deviation = (2 / (n + 2) * spread).clamp(min=0).sqrt()
    off = energies.double() - mean
    # Of equal energy in all directions no latent stands out, and what is left is rounding.
    return torch.where(deviation > 1e-6 * mean, off / deviation, torch.zeros_like(off))


@dataclass(frozen=True, slots=True)
class _Place:
    """A weight beside the stream.

    Attributes:
        side: Which.
        stream_first: Whether its rows are the stream.
        gain: What a norm between it and the stream multiplies by; None without one.
    """

    side: Side
    stream_first: bool
    gain: Tensor | None = None

    def gram(self, delta: Tensor) -> Tensor:
        """Σ over what is not the stream: float32 ``[d_model, d_model]``."""
        rows = delta if self.stream_first else delta.T
        if self.gain is not None:
            rows = rows * self.gain[:, None].to(rows.device)
        return rows @ rows.T


def _aligned(sae: LoadedSae, side: Side, gram: Tensor, k: int) -> list[AlignedFeature]:
    rows = sae.sae.W_dec if side == "writers" else sae.sae.W_enc.T
    with torch.inference_mode(), memory_advice("projecting weights", gram.device):
        energies = torch.cat([_energies(part.to(gram.device), gram) for part in rows.split(_ROWS)])
        found = deviations(energies, gram)
        best = torch.topk(found, min(k, len(found)))
        mean = float(gram.diagonal().double().sum() / len(gram))
        return [
            AlignedFeature(index, side, value, float(energies[index]) / mean)
            for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def _energies(rows: Tensor, gram: Tensor) -> Tensor:
    unit = nn.functional.normalize(rows.float(), dim=-1)
    return ((unit @ gram) * unit).sum(dim=-1)


def _sides(loaded: LoadedModel, hook: HookPoint) -> dict[str, _Place]:
    """Parameter names of what writes before ``hook`` and of what reads after it."""
    last, whole_stream = reach(loaded, hook)
    arch: Any = loaded.engine.arch
    names = {id(parameter): name for name, parameter in loaded.model.named_parameters()}
    found: dict[str, _Place] = {}
    for layer in range(loaded.n_layers):
        ours = list(writers(loaded, layer))
        for writer in ours:
            before = writer.place <= last if whole_stream else writer.place == last
            if before:
                weight = writer.module.get_parameter("weight")
                found[names[id(weight)]] = _Place("writers", not isinstance(writer.module, Conv1D), writer.gain)
        own = {id(writer.module) for writer in ours}
        for kind, module in _inside(arch, layer):
            if id(module) in own or (layer, kind) <= last:
                continue
            weight = module.get_parameter("weight")
            stream_first = isinstance(module, Conv1D)
            if weight.shape[0 if stream_first else 1] == loaded.d_model and id(weight) in names:
                found[names[id(weight)]] = _Place("readers", stream_first)
    if whole_stream:
        found[names[id(arch.embed.weight)]] = _Place("writers", stream_first=False)
    return found


def _inside(arch: Any, layer: int) -> Iterator[tuple[str, nn.Module]]:
    """Matrices of a layer and the sublayer they are of; what is in neither counts as of the last."""
    try:
        attention = {id(module) for module in arch.attn_module(layer).modules()}
    except (AttributeError, ValueError):
        attention = set()
    for module in arch.block(layer).modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield ATTENTION if id(module) in attention else MLP, module
