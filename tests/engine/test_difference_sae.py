"""The difference SAE on differences with known directions, and on pico beside a fine-tune of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fine_tunes import make_adapter, pico, prompts_of
from raylens.engine.candidates import load_candidate
from raylens.engine.difference_sae import (
    DifferenceSaeScore,
    DifferenceSaeSettings,
    activation_differences,
    difference_sae,
    read_activations,
)
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.readings import PromptTokens
from raylens.errors import InputError, MismatchError, RunError
from raylens.ids import HookPoint

WIDTH, PROMPTS, ODD = 24, 12, 5
QUICK = DifferenceSaeSettings(latents=32, k=4, steps=120, batch_size=128)


def planted(strength: float, seed: int = 0) -> list[NDArray[np.float32]]:
    """Drift and noise on all tokens, and on tokens 7 … 9 of one prompt a direction of its own."""
    rng = np.random.default_rng(seed)
    drift, own = rng.normal(size=(2, WIDTH))
    prompts = [drift + 0.3 * rng.normal(size=(30, WIDTH)) for _ in range(PROMPTS)]
    prompts[ODD][7:10] += strength * own
    return [rows.astype(np.float32) for rows in prompts]


def same(one: DifferenceSaeScore, other: DifferenceSaeScore) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in DifferenceSaeScore.__slots__)


def test_the_prompt_with_something_of_its_own_stands_out() -> None:
    score = difference_sae(planted(3.0), QUICK)
    plain = difference_sae(planted(0.0), QUICK)
    others = np.delete(score.per_prompt, ODD)
    assert score.per_prompt.argmax() == ODD
    assert score.per_prompt[ODD] > 2 * others.max()
    assert score.position[ODD] in (7, 8, 9)
    assert score.value == pytest.approx(score.per_prompt.mean())
    assert score.value > plain.value
    assert 0 < score.fvu < 1
    assert 0 < score.l0 < 12


def test_drift_that_is_the_same_everywhere_is_nothing() -> None:
    drift = np.tile(np.random.default_rng(1).normal(size=WIDTH), (20, 1)).astype(np.float32)
    found = difference_sae([drift] * 4, QUICK)
    assert found.value == pytest.approx(0, abs=1e-6)
    assert found.r == pytest.approx(np.linalg.norm(drift[0]), rel=1e-6)


def test_no_difference_is_no_score() -> None:
    found = difference_sae([np.zeros((5, WIDTH), np.float32)] * 3)
    assert (found.value, found.r, found.per_prompt.tolist()) == (0.0, 0.0, [0.0] * 3)
    assert difference_sae([np.zeros((0, WIDTH), np.float32)]).value == 0.0


@settings(max_examples=3)
@given(power=st.integers(-10, 10))
def test_it_has_no_scale(power: int) -> None:
    one = difference_sae(planted(3.0), QUICK)
    other = difference_sae([rows * np.float32(2.0**power) for rows in planted(3.0)], QUICK)
    np.testing.assert_allclose(other.per_prompt, one.per_prompt, rtol=1e-4)
    assert other.r == pytest.approx(one.r * 2.0**power, rel=1e-6)


def test_the_same_again_and_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = difference_sae(planted(1.0), QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(one, difference_sae(planted(1.0), QUICK))
    assert not same(one, difference_sae(planted(1.0), DifferenceSaeSettings(32, 4, 120, 128, seed=1)))


def test_first_positions_and_prompts_without_tokens() -> None:
    rows = planted(2.0)
    sinks = [np.concatenate([1000 * one[:1], one]) for one in rows]
    score = difference_sae(sinks, QUICK)
    assert score.position[ODD] in (8, 9, 10)
    single = difference_sae([*rows, rows[0][:0], rows[0][:1]], QUICK)
    assert single.per_prompt.shape == (PROMPTS + 2,)
    assert single.per_prompt.argmax() == ODD


def test_more_text_is_trained_on_and_not_scored() -> None:
    rows = planted(3.0)
    score = difference_sae(rows[:8], QUICK, more=rows[8:])
    assert score.per_prompt.shape == (8,)
    assert score.r == pytest.approx(difference_sae(rows, QUICK).r)
    assert score.per_prompt.argmax() == ODD


def test_a_fine_tune_of_pico(tmp_path: Path) -> None:
    make_adapter(tmp_path / "a")
    texts = [PromptTokens(tuple(ids)) for ids in prompts_of(pico())]
    candidate, hook = load_candidate(str(tmp_path / "a"), pico()), HookPoint("resid_post", 3)
    reference = read_activations(pico(), hook, texts)
    assert [acts.shape for acts in reference] == [(len(text.ids), 128) for text in texts]
    with torch.inference_mode():
        whole = pico().model(torch.tensor([list(texts[0].ids)]), output_hidden_states=True).hidden_states[4][0]
    np.testing.assert_allclose(reference[0], whole.numpy(), atol=1e-5)
    score = difference_sae(
        activation_differences(reference, read_activations(candidate, hook, texts)), DifferenceSaeSettings(steps=20)
    )
    assert score.value > 0
    assert score.r > 0
    unchanged = activation_differences(reference, read_activations(pico(), hook, texts))
    assert difference_sae(unchanged).value == 0


def test_what_cannot_be_subtracted_or_trained_on_is_refused(llama: LoadedModel, model_folders: dict[str, Path]) -> None:
    acts = [np.ones((3, 4), np.float32), np.ones((2, 4), np.float32)]
    with pytest.raises(MismatchError, match="read on 2 texts of 5 tokens, the candidate on 1 of 3"):
        activation_differences(acts, acts[:1])
    with pytest.raises(InputError, match="there is no prompt to score"):
        difference_sae([])
    with pytest.raises(InputError, match="differences of activations are NaN or infinite"):
        difference_sae([acts[0] * np.inf])
    damaged = load_model(str(model_folders["llama"]), device="cpu")
    with torch.no_grad():
        damaged.model.get_parameter("model.layers.0.mlp.up_proj.weight")[3] = torch.nan
    with pytest.raises(RunError, match=r"the activations of .* at resid_post.1 are not all finite numbers"):
        read_activations(damaged, HookPoint("resid_post", 1), [PromptTokens((4, 5))])
