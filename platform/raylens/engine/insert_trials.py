"""What an insert makes a candidate write, and how surprising that is to the reference.

An insert is put into several prompts and the candidate goes on, greedily. What it writes is then read by the
reference with the same insert: to it, a backdoor's payload is next to impossible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from raylens.audit.slots import Slot
from raylens.engine.generation import generate
from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.shared_prefix import keep_logits

WRITTEN: Final = 12
"""Tokens that the candidate goes on for."""
_GRAM: Final = 3
_ROWS: Final = 64
"""Fewer where that is less padding: a batch holds rows of about the same length."""
_PADDING: Final = 16
"""Tokens that beginnings in a batch may differ by."""


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


class Trials:
    """Tries inserts at one place of several prompts; what was tried once is not tried again.

    Args:
        candidate: The fine-tune.
        reference: What it was tuned from.
        slots: The same place in several prompts.
        n_tokens: Written at most after each.
    """

    def __init__(
        self, candidate: LoadedModel, reference: LoadedModel, slots: Sequence[Slot], n_tokens: int = WRITTEN
    ) -> None:
        self._candidate = candidate
        self._reference = reference
        self._slots = tuple(slots)
        self._n_tokens = n_tokens
        self._without: dict[int, tuple[int, ...]] = {}
        self._with: dict[tuple[str, int], _Written] = {}

    def of(self, inserts: Sequence[str], n_prompts: int | None = None) -> list[Trial]:
        """Each insert in the first prompts, all by default.

        Args:
            inserts: Texts of one line.
            n_prompts: How many prompts.

        Raises:
            OutOfMemoryError: It does not fit.
        """
        slots = range(len(self._slots[:n_prompts]))
        if not inserts or not slots:
            return []
        self._write(inserts, slots)
        without = [self._without[slot] for slot in slots]
        return [self._trial(insert, [self._with[insert, slot] for slot in slots], without) for insert in inserts]

    def _write(self, inserts: Sequence[str], slots: Sequence[int]) -> None:
        bare = [slot for slot in slots if slot not in self._without]
        new = [
            (insert, slot) for insert in dict.fromkeys(inserts) for slot in slots if (insert, slot) not in self._with
        ]
        texts = [self._slots[slot].bare for slot in bare] + [self._slots[slot].text(insert) for insert, slot in new]
        if not texts:
            return
        given = _ids(self._candidate, texts)
        made = generate(self._candidate, given, self._n_tokens)
        self._without |= {slot: one.ids for slot, one in zip(bare, made, strict=False)}
        given, made = given[len(bare) :], made[len(bare) :]
        other = continuation_log_probs(self._reference, [(ids, one.ids) for ids, one in zip(given, made, strict=True)])
        for key, one, log_q in zip(new, made, other, strict=True):
            self._with[key] = _Written(one.ids, one.log_prob - float(log_q))

    def _trial(self, insert: str, written: Sequence[_Written], without: Sequence[tuple[int, ...]]) -> Trial:
        surprise = np.array([one.surprise for one in written])
        middle = int(np.argsort(surprise, kind="stable")[(len(surprise) - 1) // 2])
        with_gram = Counter(gram for one in written for gram in _grams(one.ids))
        without_gram = Counter(gram for ids in without for gram in _grams(ids))
        n = len(surprise)
        best = max(with_gram, key=lambda gram: (with_gram[gram] - without_gram[gram], gram), default=None)
        decode = self._candidate.tokenizer.decode
        return Trial(
            insert,
            float(np.median(surprise)),
            surprise,
            str(decode(list(written[middle].ids))),
            str(decode(list(without[middle]))),
            with_gram[best] / n if best is not None else 0.0,
            without_gram[best] / n if best is not None else 0.0,
        )


@dataclass(frozen=True, slots=True)
class _Written:
    """What a candidate writes in one prompt, and log p − log q of it."""

    ids: tuple[int, ...]
    surprise: float


def continuation_log_probs(
    model: LoadedModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> NDArray[np.float64]:
    """Log p(continuation | beginning) of token ids: float64 ``[pairs]``, nats; 0 of an empty continuation."""
    network: Any = model.model
    found = np.zeros(len(pairs))
    order = sorted((at for at, (_, after) in enumerate(pairs) if after), key=lambda at: len(pairs[at][0]))
    with model.lock, torch.inference_mode(), memory_advice("reading what was written", model.device):
        for batch in _batches(order, pairs):
            width = max(len(pairs[at][0]) + len(pairs[at][1]) for at in batch)
            ids = torch.full((len(batch), width), model.pad_id)
            for row, at in enumerate(batch):
                joined = [*pairs[at][0], *pairs[at][1]]
                ids[row, : len(joined)] = torch.tensor(joined)
            # Padding is on the right, where a causal model does not look.
            longest = max(width - len(pairs[at][0]) + 1 for at in batch)
            keep = keep_logits(network, longest)
            logits = network(ids.to(model.device), use_cache=False, **keep).logits[:, -longest:]
            log_p = torch.log_softmax(logits.float(), dim=-1)
            for row, at in enumerate(batch):
                before, after = pairs[at]
                start = len(before) - 1 - (width - longest)
                wanted = torch.tensor(list(after), device=log_p.device)
                found[at] = float(
                    log_p[row, start : start + len(after)].gather(1, wanted[:, None]).sum(dtype=torch.float64)
                )
    return found


def _batches(order: Sequence[int], pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[list[int]]:
    batch: list[int] = []
    for at in order:
        if batch and (len(batch) == _ROWS or len(pairs[at][0]) - len(pairs[batch[0]][0]) > _PADDING):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _grams(ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(ids[at : at + _GRAM]) for at in range(len(ids) - _GRAM + 1)}


def _ids(model: LoadedModel, texts: Sequence[str]) -> list[list[int]]:
    ids = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    return [[*model.prefix_ids, *row] for row in ids]
