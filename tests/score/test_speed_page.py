"""docs/speed.md says how many calls each scorer makes: what it says is counted here."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from raylens.examples.excerpt import Excerpt
from raylens.score.questions import ScorerSettings, score_prompts
from raylens.score.scorers import CHAT

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "speed.md").read_text()


def excerpts(first: int, *, active: bool) -> list[Excerpt]:
    """Fifty of 32 tokens, each of a document of its own."""
    made = []
    for number in range(first, first + 50):
        activations = np.zeros(32, np.float32)
        activations[24] = (1 + number / 10) if active else 0
        tokens = tuple(f" word{place}" for place in range(32))
        made.append(
            Excerpt.of(
                number, number, 0, tokens, np.arange(32, dtype=np.int32), activations, number % 10 if active else None
            )
        )
    return made


@pytest.mark.parametrize("scorer", CHAT)
def test_the_page_counts_calls_as_the_scorers_make_them(scorer: str) -> None:  # A1.15
    row = next(line for line in PAGE.splitlines() if line.startswith("|") and f"`{scorer}`" in line.split("|")[1])
    stated = re.match(r"\s*(\d+)", row.split("|")[2])
    assert stated
    settings = ScorerSettings(score_prompts())
    asked = CHAT[scorer].build_requests("a word", excerpts(0, active=True), excerpts(50, active=False), settings, 22)
    assert len(asked) == int(stated[1])


def test_the_order_names_flags_that_exist() -> None:  # A1.15
    from raylens_app.cli.autointerp.parser import flags

    known = {option for flag in flags() for option in flag.options}
    named = set(re.findall(r"`(--[a-z_0-9]+)", PAGE))
    assert named <= known
    ranks = [int(rank) for rank in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]
    assert ranks == list(range(1, len(ranks) + 1))
    assert len(ranks) >= 5
