"""What the weights of an SAE say by themselves: promoted tokens, neighbours, a map of directions.

Each becomes one table of :mod:`raylens.schema`. Memory is bounded by a block of rows at a time,
never by the square of the width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from interp_engine import is_rms_norm, rms_norm_parts
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn

from raylens import schema
from raylens.engine.load import token_strings
from raylens.engine.memory import memory_advice
from raylens.engine.saes import LoadedSae
from raylens.engine.unembedding_weights import Unembedding

_BLOCK_ELEMENTS: Final = 1 << 26
"""Scores held at once: 256 MiB of float32."""

_RESIDUAL: Final = frozenset(
    {"embeddings", "resid_pre", "resid_mid", "resid_post", "attn_out", "attn_out_post", "mlp_out", "mlp_out_post"}
)
"""Points that the unembedding reads, through the residual stream."""

_ITERATIONS: Final = 500
"""Of t-SNE: scikit-learn's 1000 take twice as long (20 s for 4096 latents) and lower its loss by half a percent."""
_ANGLE: Final = 0.8
"""Of Barnes and Hut's approximation: a quarter faster than 0.5, with the same divergence."""


def feature_logits(model: Unembedding, sae: LoadedSae, k: int = 20) -> pa.Table:
    """Tokens each latent promotes and suppresses: its decoder row through final norm and unembedding.

    The direct effect on the logits (Nostalgebraist's logit lens, on a direction): the decoder row,
    centred where the final norm centres, times the norm's gain, times the unembedding. The norm's
    division and a softcap keep the order of logits, so they are left out; the unembedding's bias is
    not the latent's doing.

    Returns:
        :data:`raylens.schema.LOGITS`: ``k`` rows of sign ``top`` (rank 0: largest) and ``k`` of
        ``bottom`` (rank 0: smallest) a latent. No rows where the SAE does not write to the
        residual stream (attention heads, MLP neurons): its decoder is in other units there.
    """
    hook = sae.spec.hook
    if sae.sae.W_dec.shape[1] != model.weight.shape[1] or not (hook.is_module_path or hook.name in _RESIDUAL):
        return schema.LOGITS.empty_table()
    unembed = model.weight
    k = min(k, unembed.shape[0])
    ids, logits = [], []
    with torch.inference_mode(), memory_advice("computing logits of latents", unembed.device):
        for rows in _blocks(sae.sae.W_dec, unembed.shape[0]):
            effect = _through_norm(model.norm, rows.to(unembed.device))
            scores = effect.to(unembed.dtype) @ unembed.T
            for sign in (1, -1):
                best = torch.topk(scores * sign, k, dim=-1)
                ids.append(best.indices.cpu())
                logits.append((best.values * sign).float().cpu())
    # [2 · blocks] of [rows, k] → [latents, 2, k]
    id_table = torch.stack([torch.cat(ids[0::2]), torch.cat(ids[1::2])], dim=1).numpy()
    logit_table = torch.stack([torch.cat(logits[0::2]), torch.cat(logits[1::2])], dim=1).numpy()
    distinct, where = np.unique(id_table, return_inverse=True)
    strings = pa.array(token_strings(model.tokenizer, distinct.tolist()), pa.string())
    width = len(id_table)
    return pa.table(
        [
            pa.array(np.repeat(np.arange(width, dtype=np.int32), 2 * k)),
            pa.array(np.tile(np.repeat(np.array(["top", "bottom"]), k), width)),
            pa.array(np.tile(np.arange(k, dtype=np.int16), 2 * width)),
            pa.array(id_table.ravel().astype(np.int32)),
            strings.take(pa.array(where.ravel())),
            pa.array(logit_table.ravel()),
        ],
        schema=schema.LOGITS,
    )


def decoder_neighbours(sae: LoadedSae, k: int = 10) -> pa.Table:
    """The ``k`` latents of most similar decoder direction, by cosine: :data:`raylens.schema.NEIGHBOURS`.

    Rank 0 is the nearest other latent; a latent without direction has cosine 0 to all.
    """
    return _neighbours(sae.sae.W_dec, k, "comparing decoder directions")


def encoder_neighbours(sae: LoadedSae, k: int = 10) -> pa.Table:
    """As :func:`decoder_neighbours`, by encoder direction: latents that read the same of the input.

    Decoder directions say what latents write. A pair alike in one and not in the other is common, since the
    encoder must tell a direction from those it overlaps with.
    """
    return _neighbours(sae.sae.W_enc.T, k, "comparing encoder directions")


def _neighbours(directions: Tensor, k: int, doing: str) -> pa.Table:
    """The ``k`` most similar of ``directions`` ``[latents, d]`` to each, the block of cosines bounding memory."""
    width = len(directions)
    k = min(k, width - 1)
    cosines, neighbours = [], []
    with torch.inference_mode(), memory_advice(doing, directions.device):
        unit = nn.functional.normalize(directions.float(), dim=-1)
        start = 0
        for rows in _blocks(unit, width):
            similar = rows @ unit.T
            similar[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = -torch.inf
            best = torch.topk(similar, k, dim=-1)
            cosines.append(best.values.cpu().numpy())
            neighbours.append(best.indices.cpu().numpy())
            start += len(rows)
    return pa.table(
        [
            pa.array(np.repeat(np.arange(width, dtype=np.int32), k)),
            pa.array(np.tile(np.arange(k, dtype=np.int16), width)),
            pa.array(np.concatenate(neighbours).ravel().astype(np.int32)),
            pa.array(np.concatenate(cosines).ravel()),
        ],
        schema=schema.NEIGHBOURS,
    )


def decoder_map(sae: LoadedSae, seed: int = 22) -> pa.Table:
    """A two-dimensional layout of decoder directions, :data:`raylens.schema.MAP`: near means similar.

    Unit decoder rows, laid out by t-SNE (van der Maaten & Hinton 2008) as they are: decoders have no few directions
    that matter most, and 50 principal components first, as is usual, leave 4 % of the ten nearest of a latent of pico
    near it, in place of 24 %. An SAE of more than ``schema.MAP_BY_TSNE`` latents gets its first two principal
    components instead, which take seconds at any width. The same ``seed`` gives the same map.
    """
    unit = nn.functional.normalize(sae.sae.W_dec.detach().float(), dim=-1).cpu().numpy()
    if 4 <= len(unit) <= schema.MAP_BY_TSNE:
        perplexity = min(30.0, (len(unit) - 1) / 3)
        layout = TSNE(
            2, perplexity=perplexity, init="pca", max_iter=_ITERATIONS, random_state=seed, n_jobs=1, angle=_ANGLE
        )
        flat = layout.fit_transform(unit)
    else:
        flat = PCA(min(2, *unit.shape), svd_solver="randomized", random_state=seed).fit_transform(unit)
    flat = np.pad(flat, ((0, 0), (0, max(0, 2 - flat.shape[1])))).astype(np.float32)
    index = pa.array(np.arange(len(unit), dtype=np.int32))
    return pa.table([index, pa.array(flat[:, 0]), pa.array(flat[:, 1])], schema=schema.MAP)


def _blocks(rows: Tensor, columns: int) -> Iterator[Tensor]:
    return iter(rows.detach().split(max(1, _BLOCK_ELEMENTS // columns)))


def _through_norm(norm: nn.Module, rows: Tensor) -> Tensor:
    """What the norm makes of directions ``[n, d_model]``, without its division: float32."""
    rows = rows.float()
    if is_rms_norm(norm):
        gain = getattr(norm, "weight", None)
        return rows if gain is None else rows * rms_norm_parts(norm, rows.to(gain.dtype))[1].float()
    rows = rows - rows.mean(dim=-1, keepdim=True)
    gain = getattr(norm, "weight", None)
    return rows if gain is None else rows * gain.float()
