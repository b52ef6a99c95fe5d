"""Tokens that may stand in another's place: those the model expects there, and those whose embedding is alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.unembedding import logits_of


def propose(loaded: LoadedModel, token: int, before: Tensor | None, n: int) -> list[int]:
    """Substitutes of a token, at most ``n`` of either kind, without itself and special ones.

    Args:
        loaded: The model.
        token: What stands there.
        before: ``[d_model]``, what the final norm gives at the place before; None for the first place of a text.
        n: Of either kind.

    Raises:
        RunError: Logits are not finite numbers.
        OutOfMemoryError: It does not fit.
    """
    banned = [token, *loaded.special_ids]
    found: list[int] = []
    if before is not None:
        (logits,) = logits_of(loaded, before[None])
        found = _largest(loaded, logits[0], banned, n)
    return list(dict.fromkeys([*found, *_largest(loaded, _likeness(loaded, token), banned, n)]))


def _likeness(loaded: LoadedModel, token: int) -> Tensor:
    """Of each token's embedding to one's: cosines, but for that one's length."""
    with loaded.lock, torch.inference_mode(), memory_advice("comparing embeddings", loaded.device):
        table = loaded.engine.arch.embed.get_parameter("weight")
        # Lengths are divided out after the product, so that no second table is made.
        norms = torch.linalg.vector_norm(table, dim=1, dtype=torch.float32)
        return (table @ table[token]).float() / norms.clamp(min=1e-12)


def _largest(loaded: LoadedModel, scores: Tensor, banned: Sequence[int], n: int) -> list[int]:
    """Of tokens that the tokenizer has: the embedding may have more rows."""
    scores = scores[: len(loaded.tokenizer)].clone()
    scores[[token for token in banned if token < len(scores)]] = -torch.inf
    best = scores.topk(min(n, len(scores)))
    return best.indices[torch.isfinite(best.values)].tolist()
