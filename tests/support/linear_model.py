"""A causal model that is linear: embedding, then blocks that add up tokens times matrices. By hand it is arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor, nn

from raylens.engine.load import LoadedModel
from raylens.engine.saes import LoadedSae
from raylens.ids import HookPoint, SaeId
from raylens.specs import ModelInfo, SaeSpec


class CausalBlock(nn.Module):
    """``h'[t] = own · h[t] + before · h[t − 1]``; the first token has none before it."""

    def __init__(self, own: Tensor, before: Tensor) -> None:
        super().__init__()
        self.own, self.before = nn.Parameter(own), nn.Parameter(before)

    def forward(self, hidden: Tensor) -> Tensor:
        shifted = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], dim=1)
        return hidden @ self.own.T + shifted @ self.before.T


class LinearModel(nn.Module):
    """Blocks at ``path.blocks.N``; gives logits over its embedding."""

    def __init__(self, embedding: Tensor, blocks: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(embedding)
        self.blocks = nn.ModuleList([CausalBlock(own, before) for own, before in blocks])

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        hidden = self.embed(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return SimpleNamespace(logits=hidden @ self.embed.weight.T)


class _Tokenizer:
    """Token n reads ``tn``."""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [f"t{token}" for token in ids]

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return [f"t{token}" for (token,) in rows]


def linear_model(embedding: Tensor, blocks: Sequence[tuple[Tensor, Tensor]]) -> LoadedModel:
    """The model as RayLens holds one; token 0 is its BOS."""
    model = LinearModel(embedding, blocks).eval()
    n_tokens, width = embedding.shape
    engine: Any = SimpleNamespace(hf_model=model, arch=SimpleNamespace(embed=model.embed), dtype=torch.float32)
    tokenizer: Any = _Tokenizer()
    info = ModelInfo("linear", "0" * 40, width, len(blocks), n_tokens, "Linear", None)
    return LoadedModel(engine, tokenizer, info, (0,), frozenset({0}))


def sae_at(block: int, sae: SAE[Any], name: str = "") -> LoadedSae:
    """An SAE that reads what a block gives."""
    sae.requires_grad_(False)
    d_in, d_sae = sae.W_enc.shape
    id_ = SaeId("linear", name or f"layer_{block}")
    hook = HookPoint.parse(f"path.blocks.{block}")
    architecture = sae.cfg.architecture()
    return LoadedSae(
        sae, SaeSpec(id_, "linear", hook, d_in, d_sae, architecture, None, True, "float32", f"fingerprint of {id_}")
    )
