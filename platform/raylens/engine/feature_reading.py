"""Reading texts together: one forward pass serves several texts and all SAEs that are wanted of any of them.

Texts of about the same length go together, padded on the right, where a causal model does not look: no mask is
needed, so the pass takes the attention kernel's own causal path, and each text gets the numbers that it gets alone,
up to the order in which a matrix product adds. The pass ends at the last layer that somebody wants. Only the tokens
themselves are encoded, never padding, and dense activations of latents never leave :mod:`raylens.engine.encode`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylens.engine.encode import Sparse, encode_sparse
from raylens.engine.load import LoadedModel
from raylens.engine.saes import LoadedSae
from raylens.engine.tap import tap
from raylens.engine.unembedding import FINAL_NORM, logits_of
from raylens.errors import InputError
from raylens.ids import HookPoint

BATCH_TOKENS: Final = 8192
"""Read in one pass, padding included."""

CPU_TOKENS: Final = 2048
"""At most, on a CPU: from there on more rows are no faster, and leave its caches (64 texts of 256 tokens through pico
and three SAEs: 0.8 of the time that one pass takes)."""

_NOTHING: Final = Sparse(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
"""Codes of a text without tokens."""


@dataclass(frozen=True, slots=True)
class WantedReading:
    """What is wanted of one text.

    Attributes:
        ids: Its tokens.
        saes: That read it.
        next_tokens: How many of the likeliest next tokens; 0 for none.
    """

    ids: tuple[int, ...]
    saes: tuple[LoadedSae, ...] = ()
    next_tokens: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Likeliest:
    """Tokens that may come next, the likeliest first; all arrays are ``[n]``."""

    ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def first(self, n: int) -> Likeliest:
        """The first ``n``, or all where there are fewer."""
        return Likeliest(self.ids[:n], self.logits[:n], self.probabilities[:n])


@dataclass(frozen=True, slots=True, eq=False)
class TextReading:
    """What was read of one text.

    Attributes:
        codes: Of each SAE, in order.
        next_tokens: None where none were wanted.
    """

    codes: tuple[Sparse, ...]
    next_tokens: Likeliest | None = None


def read_texts(
    loaded: LoadedModel, wanted: Sequence[WantedReading], batch_tokens: int = BATCH_TOKENS
) -> list[TextReading]:
    """Read texts, in as few passes as their lengths allow.

    Args:
        loaded: The model; a pass holds its lock.
        wanted: Texts; none is longer than the model reads.
        batch_tokens: Tokens of a pass, padding included; a longer text goes alone.

    Raises:
        InputError: Next tokens are wanted of no tokens.
        MismatchError: An SAE is of another width than what it reads.
        RunError: Activations or logits are not finite numbers.
        OutOfMemoryError: A pass does not fit.
    """
    if any(one.next_tokens and not one.ids for one in wanted):
        raise InputError(
            f"there are no tokens for {loaded.name} to continue.",
            hint="give it text, or a model whose tokenizer begins every text with a token of its own.",
        )
    found: dict[int, TextReading] = {}
    for batch in batches([len(one.ids) for one in wanted], tokens_a_pass(loaded, batch_tokens)):
        found |= zip(batch, _pass(loaded, [wanted[at] for at in batch]), strict=True)
    return [found[at] for at in range(len(wanted))]


def tokens_a_pass(loaded: LoadedModel, batch_tokens: int) -> int:
    """Tokens that it is best to read at a time, at most ``batch_tokens``."""
    return min(batch_tokens, CPU_TOKENS) if loaded.device.type == "cpu" else batch_tokens


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of texts that go together, the longest first, so that little of a batch is padding."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids ``[rows, longest]`` int64; none of the rows is empty.

    They are padded on the right with their own last token: nothing looks at it, but where a model overflows on tokens
    that no text has (padding), 0 times infinity is not 0.
    """
    ids = np.empty((len(rows), max(map(len, rows))), np.int64)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)], row[len(own) :] = own, own[-1]
    return torch.from_numpy(ids)


def encode_rows(sae: LoadedSae, acts: Tensor, spans: Mapping[int, tuple[int, int]]) -> list[Sparse]:
    """Codes of some tokens of some rows.

    Args:
        sae: The SAE.
        acts: ``[rows, positions, d_in]``.
        spans: Row → first place and the one after the last; codes count their tokens from the first.

    Returns:
        One a row of ``spans``, in their order.
    """
    codes = encode_sparse(sae, torch.cat([acts[row, first:end] for row, (first, end) in spans.items()]))
    starts = np.cumsum([0, *(end - first for first, end in spans.values())])
    edges = np.searchsorted(codes.token, starts)
    return [
        Sparse(codes.token[low:high] - np.int32(start), codes.feature[low:high], codes.activation[low:high])
        for start, low, high in zip(starts, edges, edges[1:], strict=False)
    ]


def _pass(loaded: LoadedModel, texts: Sequence[WantedReading]) -> list[TextReading]:
    """One pass over texts, none longer than the first."""
    saes = {id(sae): sae for one in texts for sae in one.saes}
    points: list[HookPoint] = [sae.spec.hook for sae in saes.values()]
    if any(one.next_tokens for one in texts):
        points.append(FINAL_NORM)
    # Texts without tokens come last, and have nothing to read.
    rows = [one.ids for one in texts if one.ids]
    read = tap(loaded, points, padded(rows)) if rows else {}
    codes: dict[tuple[int, int], Sparse] = {}
    for key, sae in saes.items():
        own = [row for row, one in enumerate(texts) if one.ids and any(sae is other for other in one.saes)]
        if own:
            found = encode_rows(sae, read[sae.spec.hook], {row: (0, len(texts[row].ids)) for row in own})
            codes |= {(row, key): code for row, code in zip(own, found, strict=True)}
    following = _next_tokens(loaded, read.get(FINAL_NORM), texts)
    return [
        TextReading(tuple(codes.get((row, id(sae)), _NOTHING) for sae in one.saes), following.get(row))
        for row, one in enumerate(texts)
    ]


def _next_tokens(loaded: LoadedModel, hidden: Tensor | None, texts: Sequence[WantedReading]) -> dict[int, Likeliest]:
    rows = [row for row, one in enumerate(texts) if one.next_tokens]
    if hidden is None or not rows:
        return {}
    last = torch.stack([hidden[row, len(texts[row].ids) - 1] for row in rows])
    most = max(texts[row].next_tokens for row in rows)
    found: list[Likeliest] = []
    for logits in logits_of(loaded, last):
        top = logits.topk(min(most, logits.shape[1]), dim=-1)
        shares = (top.values - logits.logsumexp(dim=-1, keepdim=True)).exp()
        arrays = top.indices.cpu().numpy(), top.values.cpu().numpy(), shares.cpu().numpy()
        found += [Likeliest(ids, values, own) for ids, values, own in zip(*arrays, strict=True)]
    return {row: one.first(texts[row].next_tokens) for row, one in zip(rows, found, strict=True)}
