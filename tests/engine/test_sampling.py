"""Tokens that are drawn: from the softmax at the temperature, cut at top_p, the same for the same seed."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from raylens.engine.sampling import Dice, choose

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])


def drawn(n: int, temperature: float, top_p: float = 1.0, seed: int = 0) -> Counter[int]:
    dice = Dice(temperature, top_p, seed)
    rows = LOGITS.expand(n, -1)
    return Counter(choose(rows, [dice] * n, range(n)).tokens)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature: float) -> None:
    n, probabilities = 4000, torch.softmax(LOGITS / temperature, dim=0).tolist()
    found = drawn(n, temperature)
    for token, p in enumerate(probabilities):
        assert found[token] / n == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.6, 0.8, 0.95])
def test_top_p_keeps_the_fewest_tokens_that_make_it_up(top_p: float) -> None:
    probabilities = torch.softmax(LOGITS, dim=0).tolist()  # the likeliest first
    kept = next(n for n in range(1, 6) if sum(probabilities[:n]) >= top_p)
    n, found = 3000, drawn(3000, 1.0, top_p)
    assert set(found) <= set(range(kept))
    for token in range(kept):
        p = probabilities[token] / sum(probabilities[:kept])
        assert found[token] / n == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n) + 1e-9)


def test_a_draw_is_of_its_seed_and_place_alone() -> None:
    alone = [choose(LOGITS[None], [Dice(1.0, 0.9, seed)], [place]).tokens[0] for seed in range(6) for place in range(9)]
    rows = [(Dice(1.0, 0.9, seed), place) for seed in range(6) for place in range(9)]
    together = choose(LOGITS.expand(len(rows), -1), [one for one, _ in rows], [place for _, place in rows]).tokens
    assert together == alone
    assert len({tuple(alone[9 * seed : 9 * seed + 9]) for seed in range(6)}) == 6
    assert (
        choose(LOGITS[None], [Dice(1.0, 1.0, -(2**63))], [0]).tokens
        == choose(LOGITS[None], [Dice(1.0, 1.0, -(2**63))], [0]).tokens
    )


def test_rows_are_chosen_each_in_its_own_way_and_near_ties_are_said() -> None:
    near = torch.tensor([1.0, 1.0005, 0.0, 0.0, 0.0])
    wrong = torch.tensor([1.0, math.nan, 0.0, 0.0, 0.0])
    chosen = choose(torch.stack([LOGITS, near, wrong, LOGITS]), [None, None, None, Dice(1e-4, 1.0, 3)], [0] * 4)
    assert chosen.tokens[:2] == [0, 1]
    assert chosen.tokens[3] == 0
    assert chosen.close[:2] == [False, True]
    assert chosen.finite == [True, True, False, True]
