"""How hard a text is to predict after a context: the loss of each of its tokens.

Many texts are read after one context (the excerpts of a feature after its explanation). Its keys and values
are computed once, and every text goes on from a copy of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.shared_prefix import SharedPrefix, keep_logits, logits_after, read_prefix
from raylens.llm.errors import ContextTooLongError, RequestRefusedError


@dataclass(frozen=True, slots=True)
class _Pair:
    """Token ids of one context (what the tokenizer puts before any text included) and one text."""

    context: tuple[int, ...]
    text: tuple[int, ...]


def token_losses(
    model: LoadedModel, pairs: Sequence[tuple[str, str]], *, max_rows: int = 16, max_len: int | None = None
) -> list[NDArray[np.float64] | RequestRefusedError]:
    """Negative log-probability of each token of each text, given its context and the tokens before it.

    A text is tokenised apart from its context, so that it has the same tokens after any.

    Args:
        model: A causal LM.
        pairs: (context, text); those that share a context are best given together.
        max_rows: Texts in one forward.
        max_len: Tokens of context and text together, at most; None for any number.

    Returns:
        A pair: nats, float64 ``[tokens of the text]``, NaN for a first token with nothing before it; or why there
        are none.

    Raises:
        OutOfMemoryError: It does not fit.
    """
    found: dict[int, NDArray[np.float64] | RequestRefusedError] = {}
    alike: dict[tuple[int, ...], list[tuple[int, _Pair]]] = {}
    for at, (context, text) in enumerate(pairs):
        pair = _Pair((*model.prefix_ids, *_ids(model, context)), _ids(model, text))
        length = len(pair.context) + len(pair.text)
        if max_len is not None and length > max_len:
            found[at] = ContextTooLongError(
                f"context and text have {length:,} tokens, more than the {max_len:,} of {model.name}.",
                hint="give shorter excerpts, or a model with a longer context.",
            )
        elif not pair.text:
            found[at] = np.zeros(0)
        else:
            alike.setdefault(pair.context, []).append((at, pair))
    alone: list[tuple[int, _Pair]] = []
    with model.lock, torch.inference_mode(), memory_advice("reading texts for their losses", model.device):
        for context, group in alike.items():
            several = len(group) > 1 and context
            shared = read_prefix(_network(model), context, model.device) if several else None
            if shared is None:
                alone += group
                continue
            for batch in _batches(group, max_rows):
                rows = _after(model, shared, [pair for _, pair in batch])
                found |= {at: row for (at, _), row in zip(batch, rows, strict=True)}
        for batch in _batches(alone, max_rows):
            rows = _whole(model, [pair for _, pair in batch])
            found |= {at: row for (at, _), row in zip(batch, rows, strict=True)}
    return [found[at] for at in range(len(pairs))]


def _after(model: LoadedModel, shared: SharedPrefix, pairs: Sequence[_Pair]) -> list[NDArray[np.float64]]:
    """Losses of texts that all follow one context."""
    ids = _padded([pair.text for pair in pairs], model)
    logits = shared.last.expand(len(pairs), 1, -1)
    if ids.shape[1] > 1:
        logits = torch.cat([logits, logits_after(_network(model), shared, ids[:, :-1])], dim=1)
    losses = _nats(logits, ids)
    return [row[: len(pair.text)] for row, pair in zip(losses, pairs, strict=True)]


def _whole(model: LoadedModel, pairs: Sequence[_Pair]) -> list[NDArray[np.float64]]:
    """Losses of texts with contexts of their own, each read in one piece with its context."""
    ids = _padded([pair.context + pair.text for pair in pairs], model)
    first = max(min(len(pair.context) for pair in pairs), 1)  # no earlier token is asked about
    rows = np.full((len(pairs), ids.shape[1]), np.nan)
    if ids.shape[1] > first:
        wanted = torch.arange(first - 1, ids.shape[1] - 1, device=ids.device)
        keep = keep_logits(_network(model), wanted)
        logits = _network(model)(ids, use_cache=False, **keep).logits
        rows[:, first:] = _nats(logits if keep else logits[:, wanted], ids[:, first:])
    return [row[len(pair.context) :][: len(pair.text)] for row, pair in zip(rows, pairs, strict=True)]


def _nats(logits: torch.Tensor, ids: torch.Tensor) -> NDArray[np.float64]:
    """float64 ``[rows, tokens]`` of logits ``[rows, tokens, vocabulary]`` of the tokens ``ids``."""
    losses = functional.cross_entropy(logits.float().transpose(1, 2), ids, reduction="none")
    return losses.double().cpu().numpy()


def _padded(rows: Sequence[tuple[int, ...]], model: LoadedModel) -> torch.Tensor:
    """int64 ``[rows, longest]``, padded on the right: no mask is needed, as what comes later changes nothing before."""
    ids = torch.full((len(rows), max(map(len, rows))), model.pad_id)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
    return ids.to(model.device)


def _ids(model: LoadedModel, text: str) -> tuple[int, ...]:
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    return tuple(ids)


def _network(model: LoadedModel) -> Any:
    return model.engine.hf_model


def _batches(group: Sequence[tuple[int, _Pair]], size: int) -> list[Sequence[tuple[int, _Pair]]]:
    return [group[first : first + size] for first in range(0, len(group), size)]
