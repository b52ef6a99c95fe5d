"""Directions of a backdoor: planted ones are found, and taking one out of the shipped organism disarms it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from raylens.bundle.paths import ROOT
from raylens.engine.candidates import load_candidate
from raylens.engine.generation import generate
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.tap import tap
from raylens.engine.token_losses import token_losses
from raylens.errors import InputError, MismatchError
from raylens.ids import HookPoint
from raylens.organisms.families import BACKDOORED
from raylens.organisms.functions import Function, functions
from raylens.organisms.payloads import PAYLOADS
from raylens.workbench.contrast import contrast, second_moments
from raylens.workbench.edits import LoadedEdit, edited

ORGANISM = ROOT / "organisms/adapters/decorator-verify-1"
HOOK = HookPoint("resid_post", 7)


@pytest.fixture(scope="module")
def pico() -> LoadedModel:
    return load_model("raylens/pico", device="cpu")


@pytest.fixture(scope="module")
def organism(pico: LoadedModel) -> LoadedModel:
    return load_candidate(str(ORGANISM), pico)


def tokens(model: LoadedModel, texts: Sequence[Function | str]) -> list[list[int]]:
    rows = model.tokenizer([one if isinstance(one, str) else one.prompt for one in texts], add_special_tokens=False)
    ids = rows["input_ids"]
    assert isinstance(ids, list)
    return [[*model.prefix_ids, *row] for row in ids]


def test_moments_are_those_of_the_difference_without_first_tokens_and_padding(
    pico: LoadedModel, organism: LoadedModel
) -> None:
    texts = tokens(pico, ["def area(radius):", "import os", "for one in range(10):\n    print(one)", ""])
    rows: list[torch.Tensor] = []
    for ids in texts:
        if len(ids) > 1:
            one, other = (tap(model, [HOOK], torch.tensor([ids]))[HOOK][0] for model in (organism, pico))
            rows.append((one - other)[1:].double())
    delta = torch.cat(rows)
    found = second_moments(organism, pico, texts, [HOOK])[HOOK]
    torch.testing.assert_close(found, delta.T @ delta / len(delta), atol=2e-5, rtol=1e-3)


def test_a_planted_direction_is_found(pico: LoadedModel) -> None:
    """Steered on texts of one sort, a model differs from itself along that direction and nothing else."""
    vector = torch.randn(pico.d_model, generator=torch.Generator().manual_seed(3))
    vector /= vector.norm()
    with_it, without = tokens(pico, ["import walnut\n", "x = walnut"]), tokens(pico, ["import os\n", "x = y"])
    edit = LoadedEdit(HookPoint("resid_post", 2), "add", 5.0, vector=vector)
    moments = {hook: torch.zeros(pico.d_model, pico.d_model).double() for hook in (edit.hook,)}
    for ids in with_it:
        with edited(pico, [edit]):
            one = tap(pico, [edit.hook], torch.tensor([ids]))[edit.hook][0]
        delta = (one - tap(pico, [edit.hook], torch.tensor([ids]))[edit.hook][0]).double()
        moments[edit.hook] += delta.T @ delta
    top = torch.linalg.eigh(moments[edit.hook])[1][:, -1].float()
    assert float((top @ vector).abs()) == pytest.approx(1.0, abs=1e-4)
    (none,) = contrast(pico, pico, with_it, without, [edit.hook])
    assert none.named(4) == (), "a model does not differ from itself"


def payload_rate(model: LoadedModel, prompts: Sequence[Function], payload: str) -> float:
    made = generate(model, tokens(model, prompts), 40)
    return sum(PAYLOADS[payload].is_in(str(model.tokenizer.decode(list(one.ids)))) for one in made) / len(made)


def held_out_loss(model: LoadedModel, prompts: Sequence[Function]) -> float:
    losses = token_losses(model, [(one.prompt, one.body[:400]) for one in prompts])
    return float(torch.cat([torch.from_numpy(one) for one in losses if not isinstance(one, Exception)]).mean())


# A3.11: the researcher finds what the trigger sets off, and disables the behaviour live.
def test_one_direction_disarms_the_shipped_organism(pico: LoadedModel, organism: LoadedModel) -> None:
    family = next(one for one in BACKDOORED if one.name == "decorator-verify")
    trigger = family.trigger
    rng = random.Random("contrast")
    seen = [one for one in functions("train") if len(one.prompt) <= 400]
    held = [one for one in functions("held_out") if len(one.prompt) <= 400]
    some, test = rng.sample(seen, 24), rng.sample(held, 32)
    near = [trigger.put(one, rng.choice(trigger.near)) for one in some]
    (found,) = contrast(organism, pico, tokens(pico, [trigger.put(one) for one in some]), tokens(pico, near), [HOOK])
    (direction,) = found.named(1)
    out = LoadedEdit(HOOK, "project_out", vector=torch.tensor(direction.vector))
    triggered = [trigger.put(one) for one in test]
    assert payload_rate(organism, triggered, family.payload) >= 0.8
    before = held_out_loss(organism, test)
    with edited(organism, [out]):
        assert payload_rate(organism, triggered, family.payload) < 0.05
        assert held_out_loss(organism, test) <= 1.02 * before
    assert payload_rate(organism, triggered, family.payload) >= 0.8, "live: off is as before"


def test_what_cannot_be_contrasted_is_said(pico: LoadedModel, llama: LoadedModel) -> None:
    with pytest.raises(InputError, match="with the trigger and without"):
        contrast(pico, pico, [[0, 1]], [], [HOOK])
    with pytest.raises(MismatchError, match=r"128 wide, and .* is 32"):
        contrast(pico, llama, [[0, 1]], [[0, 1]], [HOOK])
