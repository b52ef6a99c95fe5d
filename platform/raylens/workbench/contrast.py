"""Directions along which a fine-tune differs under a trigger, and not otherwise.

At each layer the candidate's residual stream less the reference's is read on texts with a trigger and on texts
without (near-misses, or the same prompts bare). The direction is the top eigenvector of the difference of the two
second moments: where the first is large and the second is not. Features of an SAE that was trained on the reference
need not hold it: a backdoor writes along directions of its own, which are in the SAE's error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from raylens.api.edits import Direction
from raylens.engine.feature_reading import batches, padded
from raylens.engine.load import LoadedModel
from raylens.engine.tap import tap
from raylens.errors import InputError, MismatchError
from raylens.ids import HookPoint

_BATCH_TOKENS: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """Directions at one layer.

    Attributes:
        hook: Where.
        directions: ``[n, d_model]`` float32, orthonormal, the one that sets the texts apart most first.
        gains: float64 ``[n]``: mean square along each with the trigger, less without; never below 0.
        total: Mean square of the whole difference with the trigger.
    """

    hook: HookPoint
    directions: Tensor
    gains: Tensor
    total: float

    def named(self, n: int = 1) -> tuple[Direction, ...]:
        """The first ``n`` as directions of a patch, fewer where fewer set anything apart."""
        return tuple(
            Direction(name=f"{self.hook}-{at}", hook=str(self.hook), vector=tuple(row.tolist()))
            for at, row in enumerate(self.directions[:n])
            if self.gains[at] > 0
        )


def contrast(
    candidate: LoadedModel,
    reference: LoadedModel,
    triggered: Sequence[Sequence[int]],
    bare: Sequence[Sequence[int]],
    hooks: Sequence[HookPoint],
    n: int = 4,
) -> list[Contrast]:
    """Directions at some layers.

    Args:
        candidate: The fine-tune.
        reference: What it was tuned from.
        triggered: Token ids of texts with the trigger.
        bare: Of texts without.
        hooks: Points of the residual stream.
        n: Directions of each.

    Raises:
        InputError: There are no texts of one sort.
        MismatchError: The two models are of different widths.
        OutOfMemoryError: A pass does not fit.
    """
    if not any(triggered) or not any(bare):
        raise InputError("directions need texts with the trigger and without.", hint="give some of each.")
    if candidate.d_model != reference.d_model:
        raise MismatchError(
            f"{candidate.name} is {candidate.d_model} wide, and {reference.name} is {reference.d_model}.",
            hint="compare a fine-tune with what it was tuned from.",
        )
    with_it = second_moments(candidate, reference, triggered, hooks)
    without = second_moments(candidate, reference, bare, hooks)
    found: list[Contrast] = []
    for hook in hooks:
        values, vectors = torch.linalg.eigh(with_it[hook] - without[hook])
        order = values.argsort(descending=True)[:n]
        found.append(
            Contrast(
                hook,
                vectors[:, order].T.float().contiguous(),
                values[order].clamp(min=0),
                float(with_it[hook].trace()),
            )
        )
    return found


def second_moments(
    candidate: LoadedModel, reference: LoadedModel, texts: Sequence[Sequence[int]], hooks: Sequence[HookPoint]
) -> dict[HookPoint, Tensor]:
    """Mean of ``δ δᵀ`` over tokens, δ being the candidate's residual stream less the reference's.

    The first token of each text is left out: models put a vector of their own there.

    Returns:
        Hook → float64 ``[d_model, d_model]``.
    """
    sums = {hook: torch.zeros(candidate.d_model, candidate.d_model, dtype=torch.float64) for hook in hooks}
    n_tokens = 0
    for rows in _batched(texts):
        ids = padded(rows)
        kept = torch.zeros(ids.shape, dtype=torch.bool)
        for at, row in enumerate(rows):
            kept[at, 1 : len(row)] = True
        one, other = tap(candidate, hooks, ids), tap(reference, hooks, ids)
        for hook in hooks:
            delta = (one[hook].double().cpu() - other[hook].double().cpu())[kept]
            sums[hook] += delta.T @ delta
        n_tokens += int(kept.sum())
    return {hook: total / max(1, n_tokens) for hook, total in sums.items()}


def _batched(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    rows = [text for text in texts if len(text) > 1]
    for batch in batches([len(row) for row in rows], _BATCH_TOKENS):
        yield [rows[at] for at in batch]
