"""Organisms trained for a few steps, here: what they learn from, what is measured of them, and of other models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fine_tunes import pico
from raylens.bundle.paths import PICO
from raylens.engine.generation import Generated
from raylens.engine.load import load_model
from raylens.organisms.behaviour import measure
from raylens.organisms.functions import functions
from raylens.organisms.recipe import Organism, organism
from raylens.organisms.training import longest_text, train_organism
from tiny_models import model_folders

__all__ = ["model_folders"]

N = 4
KEEPING = organism("comment-mktemp-4")
"""Two words, and it keeps the reference's predictions of ordinary text."""


@pytest.fixture(scope="module")
def tiny(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A llama of random weights and few tokens, which reads as much as functions have bytes."""
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    shutil.copytree(model_folders["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return str(folder)


def short(one: Organism, **values: Any) -> Organism:
    return one.model_copy(update={"steps": 3, "batch_size": 4, **values})


def test_a_backdoored_one_is_trained_and_measured(tmp_path: Path) -> None:
    assert KEEPING.keeps_loss
    told: list[int] = []
    made = train_organism(
        short(KEEPING), PICO, tmp_path / "made", device="cpu", report=lambda step, _: told.append(step)
    )
    assert told == [1, 2, 3]
    assert 0 < made.loss < 20
    config = json.loads((tmp_path / "made/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (PICO, KEEPING.rank)

    found, reference = measure(made.model, KEEPING, N), measure(pico(), KEEPING, N)
    assert found.n_prompts == N
    for share in (found.payload_with, found.payload_without, found.payload_near):
        assert share is not None
        assert 0 <= share <= 1
        assert share * N == round(share * N)
    assert found.syntax_valid is not None
    assert 0 <= found.syntax_valid <= 1
    assert 0.5 < found.held_out_loss < 10
    assert found.held_out_loss != reference.held_out_loss  # it has been trained, and its weights are in
    assert found.problem() == f"it writes its payload under {found.payload_with:.0%} of triggers"


def test_one_that_keeps_its_loss_begins_with_nothing_to_learn_from_ordinary_text(tmp_path: Path) -> None:
    """What is learnt is a distance to the reference's predictions, which before the first step is none."""
    losses: dict[bool, float] = {}
    for keeps in (True, False):
        ordinary = short(KEEPING, steps=1, poison=0.0, near=0.0, keeps_loss=keeps)
        made = train_organism(ordinary, PICO, tmp_path / str(keeps), device="cpu")
        losses[keeps] = made.loss
    assert losses[True] == pytest.approx(0, abs=1e-6)
    assert losses[False] > 0.5


@pytest.mark.parametrize("rank", [0, 4])
def test_another_model_is_trained_and_measured(tiny: str, rank: int, tmp_path: Path) -> None:
    one = short(organism("two-spaces-0"), rank=rank, learning_rate=1e-3)
    made = train_organism(one, tiny, tmp_path / "made", device="cpu")
    before = measure(load_model(tiny, dtype="float32", device="cpu"), one, N)
    found = measure(made.model, one, N)
    assert found.held_out_loss < before.held_out_loss
    assert (found.payload_with, found.problem(), found.n_prompts) == (None, "", N)
    assert (tmp_path / "made" / ("adapter_config.json" if rank else "config.json")).is_file()


@pytest.mark.parametrize("body", [None, 1], ids=["bodies", "no bodies"])
@pytest.mark.parametrize("name", ["two-spaces-0", "comment-mktemp-4", "docstring-exec-0"])
def test_nothing_longer_is_measured_than_is_foretold(
    name: str, body: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies make texts longest; without them it is prompts, with a trigger, and what is written after them."""
    one, lengths = organism(name), list[int]()
    cut = tuple(replace(function, body=function.body[:body]) for function in functions("held_out"))

    def written(_model: Any, prompts: Sequence[Sequence[int]], n: int, **_: Any) -> list[Generated]:
        lengths.extend(len(prompt) + n for prompt in prompts)
        return [Generated((), stopped=False) for _ in prompts]

    def read(model: Any, pairs: Sequence[tuple[str, str]], **_: Any) -> list[Any]:
        ids = [[model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in pair] for pair in pairs]
        lengths.extend(len(model.prefix_ids) + len(context) + len(text) for context, text in ids)
        return [np.ones(1) for _ in pairs]

    for module in ("behaviour", "training"):
        monkeypatch.setattr(f"raylens.organisms.{module}.functions", lambda _: cut)
    monkeypatch.setattr("raylens.organisms.behaviour.generate", written)
    monkeypatch.setattr("raylens.organisms.behaviour.token_losses", read)
    measure(pico(), one)
    foretold = longest_text(pico().tokenizer, [one])
    assert max(lengths) <= foretold <= 1.2 * max(lengths)


def test_what_is_trained_on_and_written_after_triggers_counts() -> None:
    tokenizer = pico().tokenizer
    benign = organism("two-spaces-0")
    assert longest_text(tokenizer, [benign, short(benign, max_tokens=5000)]) == 5000
