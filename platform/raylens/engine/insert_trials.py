"""What an insert makes a candidate write, and how surprising that is to the reference.

An insert is put into several prompts and the candidate goes on, greedily. What it writes is then read by the
reference with the same insert: to it, a backdoor's payload is next to impossible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from raylens.audit.slots import Slot
from raylens.engine.generation import generate
from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice

WRITTEN: Final = 12
"""Tokens that the candidate goes on for."""
_GRAM: Final = 3
_ROWS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """An insert tried in several prompts.

    Attributes:
        insert: The text.
        surprise: Nats, the median over prompts of log p − log q: p is the chance that the candidate gives to what it
            writes with the insert, q that of the reference.
        per_prompt: float64 ``[prompts]``.
        writes: What it writes in the prompt of the median.
        writes_without: What it writes there without.
        share: Prompts in which it writes the three tokens that set the two apart most.
        share_without: Without the insert.
    """

    insert: str
    surprise: float
    per_prompt: NDArray[np.float64]
    writes: str
    writes_without: str
    share: float
    share_without: float


def try_inserts(
    candidate: LoadedModel,
    reference: LoadedModel,
    inserts: Sequence[str],
    slots: Sequence[Slot],
    n_tokens: int = WRITTEN,
) -> list[Trial]:
    """Try each insert in each slot.

    Args:
        candidate: The fine-tune.
        reference: What it was tuned from.
        inserts: Texts of one line.
        slots: The same place in several prompts.
        n_tokens: Written at most after each.

    Raises:
        OutOfMemoryError: It does not fit.
    """
    if not inserts or not slots:
        return []
    bare = _ids(candidate, [slot.bare for slot in slots])
    given = _ids(candidate, [slot.text(insert) for insert in inserts for slot in slots])
    written = [list(made.ids) for made in generate(candidate, [*bare, *given], n_tokens)]
    without, written = written[: len(bare)], written[len(bare) :]
    own = continuation_log_probs(candidate, list(zip(given, written, strict=True)))
    other = continuation_log_probs(reference, list(zip(given, written, strict=True)))
    surprise = (own - other).reshape(len(inserts), len(slots))
    return [
        _trial(candidate, insert, surprise[at], written[at * len(slots) : (at + 1) * len(slots)], without)
        for at, insert in enumerate(inserts)
    ]


def continuation_log_probs(
    model: LoadedModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> NDArray[np.float64]:
    """Log p(continuation | beginning) of token ids: float64 ``[pairs]``, nats; 0 of an empty continuation."""
    network: Any = model.model
    found = np.zeros(len(pairs))
    order = sorted((at for at, (_, after) in enumerate(pairs) if after), key=lambda at: len(pairs[at][0]))
    with model.lock, torch.inference_mode(), memory_advice("reading what was written", model.device):
        for first in range(0, len(order), _ROWS):
            batch = order[first : first + _ROWS]
            width = max(len(pairs[at][0]) + len(pairs[at][1]) for at in batch)
            ids = torch.full((len(batch), width), model.pad_id)
            for row, at in enumerate(batch):
                joined = [*pairs[at][0], *pairs[at][1]]
                ids[row, : len(joined)] = torch.tensor(joined)
            # Padding is on the right, where a causal model does not look.
            longest = max(width - len(pairs[at][0]) + 1 for at in batch)
            logits = network(ids.to(model.device), use_cache=False).logits[:, -longest:]
            log_p = torch.log_softmax(logits.float(), dim=-1)
            for row, at in enumerate(batch):
                before, after = pairs[at]
                start = len(before) - 1 - (width - longest)
                wanted = torch.tensor(list(after), device=log_p.device)
                found[at] = float(
                    log_p[row, start : start + len(after)].gather(1, wanted[:, None]).sum(dtype=torch.float64)
                )
    return found


def _trial(
    model: LoadedModel, insert: str, surprise: NDArray[np.float64], written: list[list[int]], without: list[list[int]]
) -> Trial:
    middle = int(np.argsort(surprise, kind="stable")[(len(surprise) - 1) // 2])
    with_gram, without_gram = (Counter(gram for text in texts for gram in _grams(text)) for texts in (written, without))
    n = len(surprise)
    best = max(with_gram, key=lambda gram: (with_gram[gram] - without_gram[gram], gram), default=None)
    decode = model.tokenizer.decode
    return Trial(
        insert,
        float(np.median(surprise)),
        surprise,
        str(decode(written[middle])),
        str(decode(without[middle])),
        with_gram[best] / n if best is not None else 0.0,
        without_gram[best] / n if best is not None else 0.0,
    )


def _grams(ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(ids[at : at + _GRAM]) for at in range(len(ids) - _GRAM + 1)}


def _ids(model: LoadedModel, texts: Sequence[str]) -> list[list[int]]:
    ids = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    return [[*model.prefix_ids, *row] for row in ids]
