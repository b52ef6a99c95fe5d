"""A beginning that many sequences share, read by a model once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """A beginning that was read.

    Attributes:
        cache: Its keys and values, of one row.
        last: Logits ``[1, vocabulary]`` of what follows it.
    """

    cache: DynamicCache
    last: Tensor


def read_prefix(network: Any, ids: Sequence[int], device: torch.device) -> SharedPrefix | None:
    """Read token ids, at least one; None where the model keeps something else than keys and values."""
    out = network(torch.tensor([list(ids)], device=device), use_cache=True, **keep_logits(network, 1))
    cache = out.past_key_values
    if not isinstance(cache, DynamicCache) or not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
        return None
    return SharedPrefix(cache, out.logits[:, -1])


def logits_after(network: Any, prefix: SharedPrefix, ids: Tensor, keep: int | None = None) -> Tensor:
    """Logits of ``ids`` ``[rows, tokens]`` that follow the prefix: ``[rows, tokens or keep, vocabulary]``.

    Args:
        network: A transformers model.
        prefix: What they follow.
        ids: int64, on the model's device; padding may stand on the right.
        keep: Of how many last positions; all by default.
    """
    cache = _for_rows(prefix.cache, len(ids))
    options = {} if keep is None else keep_logits(network, keep)
    logits = network(ids, past_key_values=cache, use_cache=True, **options).logits
    return logits if keep is None else logits[:, -keep:]


def _for_rows(cache: DynamicCache, n: int) -> DynamicCache:
    """The same keys and values for ``n`` rows, not copied: a forward joins its own to them in new tensors."""
    made = copy.copy(cache)
    layers: list[Any] = [copy.copy(layer) for layer in cache.layers]
    for layer in layers:
        layer.keys, layer.values = (each.expand(n, -1, -1, -1) for each in (layer.keys, layer.values))
    made.layers = layers
    return made


def keep_logits(network: Any, positions: int | Tensor) -> dict[str, Any]:
    """Only these positions' logits, where the model can leave out the others: they are most of its memory."""
    takes = "logits_to_keep" in inspect.signature(network.forward).parameters
    return {"logits_to_keep": positions} if takes else {}
