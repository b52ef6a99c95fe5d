"""Which token comes next: the likeliest, or one drawn at a temperature from the most probable ones.

Tokens are drawn by the Gumbel-max trick (Maddison, Tarlow and Minka, "A* sampling", 2014). What is drawn at a place
depends on the seed, the place and the logits alone, so that a text is the same in any company. Batches move logits in
their last bits (see :mod:`raylens.engine.generation`); where that could have decided, it is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from raylens.engine.generation import TIE

_STRIDE: Final = 0x9E3779B97F4A7C15
"""Odd and irregular (2**64 over the golden ratio): neighbouring seeds and places get seeds far apart."""


@dataclass(frozen=True, slots=True)
class Dice:
    """What the tokens of one text are drawn with.

    Attributes:
        temperature: Above 0.
        top_p: Tokens are drawn from the likeliest ones that make up this much of the probability at that temperature,
            at least one (Holtzman et al., "The curious case of neural text degeneration", 2019).
        seed: The same one draws the same tokens.
    """

    temperature: float
    top_p: float
    seed: int

    def scores(self, logits: Tensor, place: int) -> Tensor:
        """float32 ``[vocabulary]`` whose largest is drawn as the token at ``place``."""
        luck = torch.Generator(logits.device).manual_seed((self.seed + place * _STRIDE) % 2**63)
        waits = torch.empty_like(logits).exponential_(generator=luck)
        scaled = logits / self.temperature
        scores = scaled - waits.log()  # −log of an exponential: a Gumbel
        if self.top_p < 1:
            values, order = scaled.softmax(dim=-1).sort(descending=True, stable=True)
            before = values.cumsum(dim=-1) - values
            before[0] = -1.0  # the likeliest may always be drawn
            scores[order[before >= self.top_p]] = -torch.inf
        return scores


@dataclass(frozen=True, slots=True)
class Chosen:
    """The next token of each text.

    Attributes:
        tokens: Their ids.
        close: Whether a difference of :data:`raylens.engine.generation.TIE` in the logits could have chosen another.
        finite: Whether the logits are numbers at all.
    """

    tokens: list[int]
    close: list[bool]
    finite: list[bool]


def choose(logits: Tensor, dice: Sequence[Dice | None], places: Sequence[int]) -> Chosen:
    """Choose for each row.

    Args:
        logits: float32 ``[rows, vocabulary]``.
        dice: One a row; None takes the likeliest.
        places: How many tokens each text has already.
    """
    scores, tie = logits, torch.full((len(dice),), TIE, device=logits.device)
    if any(dice):
        rows = zip(logits, dice, places, strict=True)
        scores = torch.stack([row if one is None else one.scores(row, place) for row, one, place in rows])
        tie = tie / torch.tensor([1.0 if one is None else one.temperature for one in dice], device=logits.device)
    best = scores.topk(min(2, scores.shape[1]), dim=-1)
    close = best.values[:, 0] - best.values[:, -1] < tie
    finite = torch.isfinite(logits.amax(dim=-1))
    return Chosen(best.indices[:, 0].tolist(), close.tolist(), finite.tolist())
