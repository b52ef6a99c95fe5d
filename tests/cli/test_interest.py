"""What ``--sort interesting`` prefers, as its help says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.store.examples import Example
from raylens_app.cli.interest import TYPICAL_DENSITY, appeal, frequency


def example(doc_id: int, tokens: str, firing: dict[int, float]) -> Example:
    words = tuple(tokens.split())
    activations = np.array([firing.get(at, 0.0) for at in range(len(words))], np.float32)
    return Example(doc_id, doc_id, "s", "p", tokens, words, activations, float(activations.max()))


@given(st.floats(1e-9, 1), st.floats(1e-9, 1))
def test_frequency_falls_on_both_sides_of_the_typical(one: float, other: float) -> None:
    values = frequency(np.array([one, other, TYPICAL_DENSITY, 0.0]))
    assert values[2] == pytest.approx(1)
    assert values[3] == 0
    distance = np.abs(np.log10(np.array([one, other]) / TYPICAL_DENSITY))
    assert (values[0] >= values[1]) == (distance[0] <= distance[1]) or values[0] == pytest.approx(values[1])


def test_context_beats_a_bare_token_beats_disagreement_beats_one_document() -> None:
    in_context = [example(n, "self a return self", {3: 1.0}) for n in range(4)]
    every_token = [example(n, "self a return self", {0: 0.5, 3: 1.0}) for n in range(4)]
    disagreeing = [example(n, f"w{n} a", {0: 1.0}) for n in range(4)]
    one_document = [example(0, "w0 a", {0: 1.0}) for _ in range(4)]
    assert appeal(in_context) == pytest.approx(0.6)
    assert appeal(every_token) == pytest.approx(0.2)
    assert appeal(disagreeing) == pytest.approx(0.05)
    assert appeal(one_document) == pytest.approx(0.05)
    assert appeal([]) == 0


def test_the_sort_uses_it_and_leaves_out_what_is_rare(raylens: Callable[..., Any], tiny_workspace: Path) -> None:
    rows = raylens(tiny_workspace, "features", "--sae", "layer_3", "--sort", "interesting", "--json").document
    assert [row["id"] for row in rows] == ["f_3_2"], "the others fire in fewer than 20 windows"
    assert 0 < rows[0]["interest"] <= 1
