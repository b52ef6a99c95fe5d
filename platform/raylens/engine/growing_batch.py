"""Texts of different lengths that a model continues side by side; they join and leave between steps.

Each text is read alone first. Rows that are then stepped together are aligned on the right: keys and values of the
shorter ones are padded on the left and masked, and every row counts its own positions. A model that keeps something
else than keys and values (a state-space model, say) is stepped row by row.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from raylens.engine.load import LoadedModel
from raylens.engine.shared_prefix import keep_logits

_PIECE: Final = 1024
"""Positions whose logits are held at once where all of a prompt's are wanted."""


class GrowingBatch:
    """Rows that were read, and what the model keeps of them; made by :func:`read` and :func:`join`.

    Attributes:
        cache: What the model keeps; None where it keeps nothing, and reads all of a row again.
        rows: Token ids of each.
        exact: Whether its logits are those of a row alone, to the last bit.
    """

    def __init__(self, loaded: LoadedModel, cache: Any, rows: list[list[int]], *, exact: bool) -> None:
        self.loaded = loaded
        self._network: Any = loaded.model
        self.cache: Any = cache
        self.rows = rows
        self.exact = exact

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def can_join(self) -> bool:
        """Whether all that is kept are keys and values, which can be padded."""
        return _is_plain(self.cache)

    @property
    def length(self) -> int:
        """Of the longest row, in tokens."""
        return max(map(len, self.rows))

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Add a token to each row; logits of what follows, float32 ``[rows, vocabulary]``."""
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(token)
        device = self.loaded.device
        if self.cache is None:
            assert len(self.rows) == 1, "rows without a cache are not joined"
            ids, where = torch.tensor([self.rows[0]], device=device), {}
        else:
            ids = torch.tensor([[token] for token in tokens], device=device)
            where = {"past_key_values": self.cache, **self._places(device)}
        out = self._network(ids, use_cache=True, **where, **keep_logits(self._network, 1))
        self.cache = getattr(out, "past_key_values", None)
        return _last(self.loaded, out)

    def keep(self, places: Sequence[int]) -> None:
        """Let all rows but these go, and the padding that only those needed."""
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[at] for at in places]
        if self.cache is None or not self.rows:
            return
        indices = torch.tensor(list(places))
        for layer in self.cache.layers:
            layer.batch_select_indices(indices)
        if self.can_join:
            _align(self.cache, self.length)

    def _places(self, device: torch.device) -> dict[str, Tensor]:
        """Mask and positions; none where no row is padded, which leaves the model to its fastest way."""
        lengths = [len(row) for row in self.rows]
        longest = max(lengths)
        if min(lengths) == longest:
            return {}
        counts = torch.tensor(lengths, device=device)[:, None]
        mask = (torch.arange(longest, device=device)[None] >= longest - counts).long()
        places = {"attention_mask": mask}
        if "position_ids" in inspect.signature(self._network.forward).parameters:
            places["position_ids"] = counts - 1
        return places


def read(loaded: LoadedModel, ids: Sequence[int]) -> tuple[GrowingBatch, Tensor]:
    """Read one text alone; logits of what follows it, float32 ``[1, vocabulary]``."""
    network: Any = loaded.model
    out = network(torch.tensor([list(ids)], device=loaded.device), use_cache=True, **keep_logits(network, 1))
    cache = getattr(out, "past_key_values", None)
    return GrowingBatch(loaded, cache, [list(ids)], exact=True), _last(loaded, out)


def reread(loaded: LoadedModel, prompt: Sequence[int], written: Sequence[int]) -> tuple[GrowingBatch, Tensor]:
    """Read one text as if it had been written alone, token by token: the same to the last bit."""
    batch, logits = read(loaded, prompt)
    for token in written:
        logits = batch.step([token])
    return batch, logits


def read_scored(
    loaded: LoadedModel, ids: Sequence[int], top: int
) -> tuple[list[tuple[float, list[tuple[int, float]]]], GrowingBatch, Tensor]:
    """Read one text as :func:`read` does, and log-probabilities of its tokens with it.

    Args:
        loaded: A causal LM.
        ids: At least one.
        top: How many likely tokens to give at each place.

    Returns:
        For each token but the first: nats after those before it, and the likeliest ids in its place with theirs; then
        as :func:`read`.
    """
    network: Any = loaded.model
    whole = torch.tensor([list(ids)], device=loaded.device)
    found: list[tuple[float, list[tuple[int, float]]]] = []
    out: Any = None
    cache: Any = None
    start, size = 0, _PIECE
    while start < len(ids):
        out = network(whole[:, start : start + size], use_cache=True, past_key_values=cache)
        cache = getattr(out, "past_key_values", None)
        if size < len(ids) and not _is_plain(cache):
            start, size, cache = 0, len(ids), None  # it cannot be read in parts
            continue
        nats = torch.log_softmax(out.logits[0, : len(ids) - 1 - start].float(), dim=-1).to(loaded.device)
        taken = nats.gather(1, whole[0, start + 1 : start + 1 + len(nats), None])[:, 0].tolist()
        likely = nats.topk(min(top, nats.shape[1]), dim=-1)
        rows = zip(taken, likely.indices.tolist(), likely.values.tolist(), strict=True)
        found += [(value, list(zip(tokens, values, strict=True))) for value, tokens, values in rows]
        start += size
    return found, GrowingBatch(loaded, cache, [list(ids)], exact=False), _last(loaded, out)


def join(batches: Sequence[GrowingBatch]) -> GrowingBatch:
    """One batch of the rows of several, in their order; each of them can join, and none is used after."""
    first = batches[0]
    rows = [row for batch in batches for row in batch.rows]
    longest = max(map(len, rows))
    for batch in batches:
        _align(batch.cache, longest)
    for layer, *others in zip(*(batch.cache.layers for batch in batches), strict=True):
        if layer.is_initialized:  # not where it reads another layer's keys
            layer.keys = torch.cat([layer.keys, *(other.keys for other in others)])
            layer.values = torch.cat([layer.values, *(other.values for other in others)])
    return GrowingBatch(first.loaded, first.cache, rows, exact=False)


def _is_plain(cache: object) -> bool:
    plain = (DynamicLayer, DynamicSlidingWindowLayer)  # their subclasses keep more
    return isinstance(cache, DynamicCache) and all(type(layer) in plain for layer in cache.layers)


def _last(loaded: LoadedModel, out: Any) -> Tensor:
    return out.logits[:, -1].float().to(loaded.device)


def _align(cache: DynamicCache, length: int) -> None:
    """Pad or trim keys and values on the left to rows of ``length`` tokens."""
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        if not layer.is_initialized or layer.keys is None or layer.values is None:
            continue
        wanted = length
        if isinstance(layer, DynamicSlidingWindowLayer):
            wanted = min(length, layer.sliding_window - 1)
            layer.cumulative_length = length
        missing = wanted - layer.keys.shape[-2]
        if missing > 0:
            layer.keys = functional.pad(layer.keys, (0, 0, missing, 0))
            layer.values = functional.pad(layer.values, (0, 0, missing, 0))
        elif missing < 0:
            # A copy, so that the memory of what is trimmed is given back.
            layer.keys = layer.keys[..., -missing:, :].clone()
            layer.values = layer.values[..., -missing:, :].clone()
