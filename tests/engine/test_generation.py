"""Generation against the definition: one prompt at a time, the whole text read again for every token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from fine_tunes import HEADS, pico, prompts_of
from raylens.engine import generation
from raylens.engine.generation import Generated, end_ids, generate
from raylens.engine.insert_trials import continuation_log_probs
from raylens.engine.load import LoadedModel, load_model
from raylens.errors import InputError, RunError


def whole_text_again(loaded: LoadedModel, prompt: list[int], n: int, ends: frozenset[int]) -> Generated:
    made: list[int] = []
    with torch.inference_mode():
        while len(made) < n:
            logits = loaded.model(torch.tensor([[*prompt, *made]]), use_cache=False).logits[0, -1]
            token = int(logits.argmax())
            if token in ends:
                return Generated(tuple(made), True)
            made.append(token)
    return Generated(tuple(made), False)


def test_a_batch_writes_what_each_prompt_alone_does(loaded: LoadedModel) -> None:
    # The long one goes beyond gemma2's window of 16 tokens.
    prompts = prompts_of(loaded, [*HEADS, "return math.pi * radius**2\n" * 3])
    ends = frozenset({5, 17, 40})
    found = generate(loaded, prompts, 12, ends=ends)
    assert found == [whole_text_again(loaded, prompt, 12, ends) for prompt in prompts]


def test_pico_writes_the_same_in_any_batch() -> None:
    model = pico()
    prompts = prompts_of(model)
    alone = [generate(model, [prompt], 24)[0] for prompt in prompts]
    assert alone[:3] == [whole_text_again(model, prompt, 24, end_ids(model)) for prompt in prompts[:3]]
    assert generate(model, prompts, 24) == alone
    assert generate(model, prompts[::-1], 24) == alone[::-1]
    assert generate(model, prompts, 24, batch_tokens=80) == alone
    assert generate(model, [prompts[0]] * 9, 24) == [alone[0]] * 9


@settings(max_examples=10)
@given(data=st.data())
def test_what_else_is_asked_changes_nothing(llama: LoadedModel, data: st.DataObject) -> None:
    ids = st.lists(st.integers(2, 250), min_size=1, max_size=30)
    prompts = data.draw(st.lists(ids, min_size=1, max_size=6))
    found = generate(llama, prompts, 6, batch_tokens=data.draw(st.sampled_from([1, 60, 10_000])))
    assert found == [generate(llama, [prompt], 6)[0] for prompt in prompts]


def test_rows_with_all_but_equal_tokens_are_generated_alone(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(model_folders["llama"]), device="cpu")
    network: Any = model.model
    with torch.no_grad():  # tokens 100 … 199 say the same as 200 … 299: every step is a tie wherever one of them leads
        network.lm_head.weight[100:200] = network.lm_head.weight[200:300] * (1 + 1e-7)
    prompts = prompts_of(model)
    alone: list[list[int]] = []
    original = generation._alone

    def counted(loaded: LoadedModel, prompt: list[int], *more: Any) -> Generated:
        alone.append(prompt)
        return original(loaded, prompt, *more)

    monkeypatch.setattr(generation, "_alone", counted)
    found = generate(model, prompts, 8)
    assert alone
    assert len(alone) <= len(prompts)
    assert found == [generate(model, [prompt], 8)[0] for prompt in prompts]


def test_a_model_that_keeps_more_than_keys_and_values_writes_one_prompt_at_a_time(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(llama)
    expected = generate(llama, prompts, 5)
    network: Any = llama.model
    original = network.forward

    def forward(*args: Any, **settings: Any) -> Any:
        out = original(*args, **{**settings, "use_cache": False})
        assert out.past_key_values is None
        return out

    forward.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
    monkeypatch.setattr(network, "forward", forward)
    assert generate(llama, prompts, 5) == expected


def test_log_probs_of_what_is_written(loaded: LoadedModel) -> None:
    prompts = prompts_of(loaded, HEADS)
    for found in (generate(loaded, prompts, 6), [generate(loaded, [prompt], 6)[0] for prompt in prompts]):
        oracle = continuation_log_probs(loaded, [(p, one.ids) for p, one in zip(prompts, found, strict=True)])
        assert [one.log_prob for one in found] == pytest.approx(list(oracle), abs=1e-3)


def test_an_end_token_ends_the_text_and_is_not_of_it() -> None:
    model = pico()
    prompts = prompts_of(model)
    first = [generate(model, [prompt], 1, ends=frozenset())[0].ids[0] for prompt in prompts]
    found = generate(model, prompts, 6, ends=frozenset({first[0]}))
    assert found[0] == Generated((), True)  # a text may be empty
    assert found[0].n_tokens == 1
    assert all(first[0] not in one.ids for one in found)
    assert [one.stopped for one in found] == [len(one.ids) < 6 for one in found]
    passes: list[int] = []
    handle = model.engine.arch.embed.register_forward_hook(lambda *_: passes.append(1))
    generate(model, [prompts[0]] * 3, 50, ends=frozenset({first[0]}))
    handle.remove()
    assert len(passes) == 1  # once all have ended, nothing more is written
    assert generate(model, prompts, 0) == [Generated((), False)] * len(prompts)
    assert generate(model, [], 5) == []


def test_generation_settings_of_a_checkpoint_do_not_count(model_folders: dict[str, Path], llama: LoadedModel) -> None:
    model = load_model(str(model_folders["llama"]), device="cpu")
    network: Any = model.model
    network.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, no_repeat_ngram_size=1, forced_bos_token_id=9,
        suppress_tokens=[1, 2, 3], num_beams=4, max_new_tokens=2, eos_token_id=[0, 1],
    )  # fmt: skip
    before = network.generation_config.to_dict()
    ends = frozenset({0, 1})
    assert end_ids(model) == ends
    assert generate(model, prompts_of(model), 8) == generate(llama, prompts_of(llama), 8, ends=ends)
    assert network.generation_config.to_dict() == before


def test_what_cannot_be_continued_is_said(llama: LoadedModel, model_folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"prompt 1 has no tokens for .* to continue"):
        generate(llama, [[5], []], 3)
    with pytest.raises(InputError, match="prompt 0 has 120 tokens, which with 9 to write are more than the 128"):
        generate(llama, [[5] * 120], 9)
    assert len(generate(llama, [[5] * 120], 8)[0].ids) == 8
    damaged = load_model(str(model_folders["llama"]), device="cpu")
    with torch.no_grad():
        damaged.model.get_parameter("model.norm.weight")[3] = torch.nan
    for prompts in ([[5, 6]], [[5, 6], [7]]):
        with pytest.raises(RunError, match=r"the logits of .* are not all finite numbers"):
            generate(damaged, prompts, 3)
