"""Readings of prompts against full logits, sae-lens's own encode, and each text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fine_tunes import changed, pico, prompts_of
from raylens.audit.pooling import pool
from raylens.audit.scores import kl_divergence
from raylens.engine import prompt_reading
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.prompt_reading import PromptTokens, read_prompts
from raylens.engine.readings import NextTokens, PromptReading, from_bytes, to_bytes
from raylens.engine.saes import LoadedSae, load_sae
from raylens.errors import DamagedFileError, InputError, MismatchError, RunError


def texts_of(loaded: LoadedModel) -> list[PromptTokens]:
    """Prompts with answers of several lengths: none asked for, an empty one, and one as long as the prompt."""
    found = []
    for at, ids in enumerate(prompts_of(loaded)):
        answer = [None, (), tuple(ids[::-1])][at % 3]
        found.append(PromptTokens((*ids, *(answer or ())), None if answer is None else len(ids)))
    return found


def logits_of(loaded: LoadedModel, ids: tuple[int, ...]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return loaded.model(torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])  # gemma2 caps its logits
def test_divergence_is_that_of_full_logits_where_all_tokens_are_kept(
    architecture: str, loaded_models: dict[str, LoadedModel], model_folders: dict[str, Path]
) -> None:
    reference, candidate = loaded_models[architecture], changed(model_folders[architecture])
    texts = texts_of(reference)
    tops = [one.next_tokens for one in read_prompts(reference, None, texts, keep_top=10_000)]
    assert all(top is not None and top.ids.shape[1] == reference.info.vocab_size for top in tops)
    found = read_prompts(candidate, None, texts, [top for top in tops if top])
    for text, one in zip(texts, found, strict=True):
        assert one.codes is None
        assert one.next_tokens is None
        prompt = text.ids[: text.n_prompt]
        expected = kl_divergence(logits_of(reference, prompt), logits_of(candidate, prompt)).mean()
        assert one.kl == pytest.approx(expected, abs=2e-5)
        assert expected > 1e-3


def test_divergence_over_kept_tokens_is_a_lower_bound_that_rises(
    llama: LoadedModel, model_folders: dict[str, Path]
) -> None:
    candidate, texts = changed(model_folders["llama"]), texts_of(llama)
    before = [0.0] * len(texts)
    for keep in (1, 8, 64, 10_000):
        tops = [one.next_tokens for one in read_prompts(llama, None, texts, keep_top=keep)]
        found = [one.kl for one in read_prompts(candidate, None, texts, [top for top in tops if top])]
        assert all(kl is not None and kl >= low - 1e-6 for low, kl in zip(before, found, strict=True))
        before = [kl or 0.0 for kl in found]


@given(seed=st.integers(0, 2**32 - 1), kept=st.integers(1, 12))
def test_merging_outcomes_never_raises_the_divergence(seed: int, kept: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = (torch.from_numpy(rng.normal(0, 3, (4, 12))).log_softmax(1) for _ in range(2))
    ids = p.topk(kept, dim=1).indices
    parts = [prompt_reading._partition(side, ids) for side in (p, q)]
    top = NextTokens(ids.numpy().astype(np.int32), *parts[0])
    found, full = top.kl_to(*parts[1]), kl_divergence(p.numpy(), q.numpy())
    assert (found <= full + 1e-9).all()
    if kept == 12:
        np.testing.assert_allclose(found, full, atol=1e-12)
    assert (top.kl_to(*parts[0]) == 0).all()


def test_the_reference_is_no_way_from_itself() -> None:
    model, sae = pico(), load_sae("raylens-pico-res/layer_3")
    texts = texts_of(model)
    reference = read_prompts(model, sae, texts)
    tops = [one.next_tokens for one in reference if one.next_tokens]
    again = read_prompts(model, sae, texts, tops)
    assert [one.kl for one in again] == [0.0] * len(texts)
    for before, after in zip(reference, again, strict=True):
        check_same_codes(before, after)


def check_same_codes(one: PromptReading, other: PromptReading) -> None:
    assert one.codes is not None
    assert other.codes is not None
    for name in ("position", "feature", "activation"):
        np.testing.assert_array_equal(getattr(one.codes, name), getattr(other.codes, name))
    assert (one.codes.n_positions, one.codes.answer) == (other.codes.n_positions, other.codes.answer)


def test_codes_are_those_of_sae_lens_and_know_the_answer(loaded: LoadedModel, sae_folder: Path) -> None:
    sae = load_sae(sae_folder)
    texts = texts_of(loaded)
    for text, one in zip(texts, read_prompts(loaded, sae, texts), strict=True):
        with torch.inference_mode():
            hidden = loaded.model(torch.tensor([list(text.ids)]), output_hidden_states=True).hidden_states[2][0]
            dense = sae.sae.encode(hidden).numpy()
        assert one.codes is not None
        found = np.zeros_like(dense)
        found[one.codes.position, one.codes.feature] = one.codes.activation
        np.testing.assert_allclose(found, dense, atol=1e-5)
        assert one.codes.n_positions == len(text.ids)
        assert one.codes.answer == (None if text.answer_start is None else (text.answer_start, len(text.ids)))
    asked = [one.codes for one, text in zip(read_prompts(loaded, sae, texts), texts, strict=True) if text.answer_start]
    assert pool([codes for codes in asked if codes], sae.d_sae, "answer").positions.min() == 0


def test_one_pass_a_text_and_the_same_numbers_in_any_order(
    loaded: LoadedModel, sae_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, texts = load_sae(sae_folders["topk"]), texts_of(loaded)
    texts += [PromptTokens(text.ids[::-1], text.answer_start) for text in texts]  # some of equal length
    passes: list[int] = []
    handle = loaded.engine.arch.embed.register_forward_hook(lambda *_: passes.append(1))
    together = read_prompts(loaded, sae, texts)
    handle.remove()
    assert len(passes) == len(texts)
    backwards = read_prompts(loaded, sae, texts[::-1])[::-1]
    alone = [read_prompts(loaded, sae, [text])[0] for text in texts]
    monkeypatch.setattr(prompt_reading, "_LOGITS", 3 * loaded.info.vocab_size)
    blocks = read_prompts(loaded, sae, texts)
    for one, *others in zip(together, backwards, alone, strict=True):
        for other in others:
            check_same_codes(one, other)
            assert to_bytes([one]) == to_bytes([other])
    for one, other in zip(together, blocks, strict=True):
        assert one.next_tokens is not None
        assert other.next_tokens is not None
        np.testing.assert_allclose(one.next_tokens.log_probs, other.next_tokens.log_probs, atol=1e-5)
    candidate = read_prompts(loaded, None, texts, [one.next_tokens for one in together if one.next_tokens])
    assert all(one.kl is not None and one.kl < 1e-5 for one in candidate)


def test_texts_of_equal_length_go_together_off_the_cpu(
    llama: LoadedModel, sae_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = load_sae(sae_folders["jumprelu"])
    texts = [PromptTokens(tuple(range(start, start + n)), 2) for start, n in ((3, 6), (40, 9), (9, 6), (80, 6))]
    alone = read_prompts(llama, sae, texts)
    original = prompt_reading._batches
    monkeypatch.setattr(prompt_reading, "_batches", lambda texts, _: original(texts, 14))
    assert list(prompt_reading._batches(texts, 1)) == [[0, 2], [3], [1]]
    for one, other in zip(alone, read_prompts(llama, sae, texts), strict=True):
        assert one.codes is not None
        assert other.codes is not None
        np.testing.assert_array_equal(one.codes.feature, other.codes.feature)
        np.testing.assert_allclose(one.codes.activation, other.codes.activation, atol=1e-5)


def test_nothing_to_read_is_read(llama: LoadedModel, sae_folders: dict[str, Path]) -> None:
    sae = load_sae(sae_folders["topk"])
    texts = [PromptTokens(()), PromptTokens((), 0), PromptTokens((4, 5, 6), 0)]
    reference = read_prompts(llama, sae, texts)
    assert [one.codes.n_positions for one in reference if one.codes] == [0, 0, 3]
    tops = [one.next_tokens for one in from_bytes(to_bytes(reference)) if one.next_tokens]
    assert [one.kl for one in read_prompts(llama, sae, texts, tops)] == [0.0, 0.0, 0.0]
    assert read_prompts(llama, sae, []) == []
    assert from_bytes(to_bytes([])) == []
    with pytest.raises(ValueError, match="an answer at 4 of 3 tokens"):
        PromptTokens((1, 2, 3), 4)


def test_readings_come_back_from_bytes_and_damage_is_told() -> None:
    model, sae = pico(), load_sae("raylens-pico-res/layer_1")
    texts = texts_of(model)
    readings = read_prompts(model, sae, texts)
    blob = to_bytes(readings)
    assert blob == to_bytes(from_bytes(blob)) == to_bytes(read_prompts(model, sae, texts))
    for one, other in zip(readings, from_bytes(blob), strict=True):
        check_same_codes(one, other)
        assert one.next_tokens is not None
        assert other.next_tokens is not None
        for name in ("ids", "log_probs", "rest"):
            np.testing.assert_array_equal(getattr(one.next_tokens, name), getattr(other.next_tokens, name))
    tops = [one.next_tokens for one in readings if one.next_tokens]
    candidate = read_prompts(model, None, texts, tops)
    assert [one.kl for one in from_bytes(to_bytes(candidate))] == [one.kl for one in candidate]
    for bad in (b"", b"PK\x03\x04", blob[:-9], to_bytes([]).replace(b"version", b"variant")):
        with pytest.raises(DamagedFileError, match="stored readings of prompts cannot be read"):
            from_bytes(bad)
    with pytest.raises(ValueError, match="some readings have codes and others not"):
        to_bytes([*readings, *candidate])


def test_what_does_not_belong_together_is_refused(
    llama: LoadedModel, loaded_models: dict[str, LoadedModel], sae_folders: dict[str, Path]
) -> None:
    texts = [PromptTokens((5, 6, 7, 8), 3)]
    tops = [one.next_tokens for one in read_prompts(llama, None, texts) if one.next_tokens]
    with pytest.raises(MismatchError, match="read on 1 prompts of 3 tokens, the candidate on 1 of 4"):
        read_prompts(llama, None, [PromptTokens((5, 6, 7, 8))], tops)
    wide = NextTokens(np.full_like(tops[0].ids, 4095), tops[0].log_probs, tops[0].rest)
    with pytest.raises(MismatchError, match=r"the reference may say token 4095, and .* has only 3"):
        read_prompts(llama, None, texts, [wide])
    with pytest.raises(InputError, match="prompt 0 and its answer have 129 tokens, more than the 128"):
        read_prompts(llama, None, [PromptTokens((5,) * 129, 3)])
    with pytest.raises(MismatchError, match="reads vectors of width 32"):
        read_prompts(pico(), load_sae(sae_folders["topk"]), texts)


@pytest.mark.parametrize("where", ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
def test_activations_that_are_no_numbers_are_an_error(
    where: str, model_folders: dict[str, Path], sae_folders: dict[str, Path]
) -> None:
    damaged = load_model(str(model_folders["llama"]), device="cpu")
    with torch.no_grad():
        damaged.model.get_parameter(where)[3] = torch.nan
    sae: LoadedSae | None = load_sae(sae_folders["standard"])
    with pytest.raises(RunError, match="not all finite numbers"):
        read_prompts(damaged, sae, [PromptTokens((5, 6, 7, 8), 3)])
    with pytest.raises(RunError, match="not all finite numbers"):
        read_prompts(damaged, None, [PromptTokens((5, 6, 7, 8), 3)])
