"""What a model writes after a prompt, greedily: the likeliest token at each place, until an end token or a limit.

The result is by definition that of each prompt *alone*: one row, without padding, with a key-value cache. Prompts
are nevertheless generated together, padded on the left, as a step of 24 rows takes little longer than a step of
one. Padding and the number of rows move sums in their last bits (on a CPU in float32 logits differ by 1e-5 between
a row alone and the same row in a batch), which matters only where two tokens are all but equally likely. So a row
of a batch whose two largest logits were ever nearer than ``TIE`` is generated again, alone. In float32 a prompt's
result therefore does not depend on what else is asked. In 16 bits near ties are everywhere, and nothing is
generated again: a result may then depend on its batch.

This is a loop of its own rather than transformers' ``generate``: that fills what is left unset from the generation
settings of the checkpoint, so a candidate could bring its own sampling, penalties or forced tokens. It takes as long.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.shared_prefix import keep_logits
from raylens.errors import InputError, RunError

TIE: Final = 1e-3
"""Nats. A hundred times what batches were seen to move logits by."""

BATCH_TOKENS: Final = 16_384
"""Tokens whose keys and values are held at once, padding and what is yet to be written included."""

EXACT: Final = (torch.float32, torch.float64)
"""In others near ties are everywhere."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote after one prompt.

    Attributes:
        ids: Without the end token; may be empty.
        stopped: Whether an end token came, rather than the limit.
        log_prob: Log p of ``ids`` after the prompt, nats. Batches move its last bits, so it is no part of what makes
            two of them equal.
    """

    ids: tuple[int, ...]
    stopped: bool
    log_prob: float = field(default=0.0, compare=False)

    @property
    def n_tokens(self) -> int:
        """Tokens generated, the end token included."""
        return len(self.ids) + self.stopped


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    ends: frozenset[int] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Generated]:
    """The likeliest continuation of each prompt, in their order.

    Args:
        loaded: A causal LM; of its generation settings only the ids that end a text are used.
        prompts: Token ids, at least one each.
        max_new_tokens: Written at most.
        ends: Ids that end a text; by default :func:`end_ids` of the model.
        batch_tokens: Held at once, see :data:`BATCH_TOKENS`; a prompt that is longer goes alone.

    Raises:
        InputError: A prompt is empty, or prompt and answer are longer than what the model reads.
        RunError: Logits are not finite numbers.
        OutOfMemoryError: A batch does not fit.
    """
    ends = end_ids(loaded) if ends is None else ends
    _check_lengths(loaded, prompts, max_new_tokens)
    if max_new_tokens < 1:
        return [Generated((), False) for _ in prompts]
    found: dict[int, Generated | None] = {}
    with loaded.lock, torch.inference_mode(), memory_advice("generating text", loaded.device):
        for batch in _batches(prompts, max_new_tokens, batch_tokens):
            rows = [prompts[at] for at in batch]
            made = _together(loaded, rows, max_new_tokens, ends) if len(rows) > 1 else [None]
            found |= dict(zip(batch, made, strict=True))
        return [found[at] or _alone(loaded, prompt, max_new_tokens, ends) for at, prompt in enumerate(prompts)]


def end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Ids that end a text: a chat model's end of turn is in its generation settings, beside its end of text."""
    network: Any = loaded.model
    found: set[int] = set()
    named: Any
    for named in (getattr(network.generation_config, "eos_token_id", None), loaded.tokenizer.eos_token_id):
        found.update([named] if isinstance(named, int) else named or ())
    return frozenset(found)


def _check_lengths(loaded: LoadedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    limit = loaded.info.max_positions
    for at, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(
                f"prompt {at} has no tokens for {loaded.name} to continue.",
                hint="give it text, or a model whose tokenizer begins every text with a token of its own.",
            )
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise InputError(
                f"prompt {at} has {len(prompt):,} tokens, which with {max_new_tokens:,} to write are more than the "
                f"{limit:,} of {loaded.name}.",
                hint="shorten the prompt, or write fewer tokens.",
            )


def _batches(prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_tokens: int) -> Iterator[list[int]]:
    """Places of prompts that go together, alike lengths first: less of a batch is padding."""
    batch: list[int] = []
    for at in sorted(range(len(prompts)), key=lambda at: len(prompts[at])):
        if batch and (len(batch) + 1) * (len(prompts[at]) + max_new_tokens) > batch_tokens:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _alone(loaded: LoadedModel, prompt: Sequence[int], max_new_tokens: int, ends: frozenset[int]) -> Generated:
    """The definition."""
    network: Any = loaded.model
    made: list[int] = []
    log_prob = 0.0
    ids = torch.tensor([list(prompt)], device=loaded.device)
    keep = keep_logits(network, 1)
    whole, cache = ids, None
    while len(made) < max_new_tokens:
        if cache is None:
            out = network(whole, use_cache=True, **keep)
        else:
            out = network(ids, past_key_values=cache, use_cache=True, **keep)
        logits = out.logits[0, -1].float()
        value, token = logits.max(dim=-1)
        _check_finite(loaded, value)
        if int(token) in ends:
            return Generated(tuple(made), True, log_prob)
        made.append(int(token))
        log_prob += float(value - logits.logsumexp(dim=-1))
        ids = token.view(1, 1)
        whole = torch.cat([whole, ids], dim=1)
        cache = getattr(out, "past_key_values", None)  # none of a state-space model: it reads all again
    return Generated(tuple(made), False, log_prob)


def _together(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, ends: frozenset[int]
) -> list[Generated | None]:
    """A batch; None for a row that has to be generated alone."""
    network: Any = loaded.model
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), loaded.pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(loaded.device), mask.to(loaded.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    placed = "position_ids" in inspect.signature(network.forward).parameters
    keep = keep_logits(network, 1)
    ending = torch.tensor(sorted(ends), dtype=torch.long, device=loaded.device)
    active = torch.ones(len(prompts), dtype=torch.bool, device=loaded.device)
    tied = torch.zeros_like(active)
    exact = loaded.dtype in EXACT
    written: list[Tensor] = []
    log_probs: list[Tensor] = []
    cache = None
    while len(written) < max_new_tokens and bool(active.any()):
        where = {"position_ids": positions} if placed else {}
        out = network(ids, attention_mask=mask, past_key_values=cache, use_cache=True, **where, **keep)
        cache = getattr(out, "past_key_values", None)
        if not _is_plain(cache):  # what else a model keeps may not leave padding out
            return [None] * len(prompts)
        logits = out.logits[:, -1].float()
        best = logits.topk(2, dim=-1)
        _check_finite(loaded, best.values)
        if exact:
            tied |= active & (best.values[:, 0] - best.values[:, 1] < TIE)
        token = best.indices[:, 0]
        written.append(token)
        log_probs.append(best.values[:, 0] - logits.logsumexp(dim=-1))
        active &= ~torch.isin(token, ending)
        ids, positions = token[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    rows, nats = torch.stack(written, dim=1).tolist(), torch.stack(log_probs, dim=1).tolist()
    return [None if again else _cut(row, own, ends) for row, own, again in zip(rows, nats, tied.tolist(), strict=True)]


def _cut(row: list[int], log_probs: list[float], ends: frozenset[int]) -> Generated:
    end = next((at for at, token in enumerate(row) if token in ends), None)
    return Generated(tuple(row[:end]), end is not None, sum(log_probs[:end]))


def _is_plain(cache: object) -> bool:
    return isinstance(cache, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in cache.layers)


def _check_finite(loaded: LoadedModel, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise RunError(
            f"the logits of {loaded.name} are not all finite numbers.",
            hint="activations overflow or weights are damaged: try --dtype float32, else train it again.",
        )
