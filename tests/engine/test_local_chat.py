"""A local chat model against the slowest way to ask it: one question, one token, one whole forward at a time."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raylens.bundle.paths import PICO
from raylens.chat import Message, Reply, Request
from raylens.config import Quantization
from raylens.engine.chat_prompt import chat_prompt
from raylens.engine.load import LoadedModel, load_model, token_strings
from raylens.engine.local_chat import LocalChat
from raylens.engine.models import locate
from raylens.errors import InputError, OutOfMemoryError
from raylens.llm.errors import ContextTooLongError, RequestRefusedError


@pytest.fixture(scope="module")
def pico() -> LocalChat:
    return LocalChat(load_model(PICO, device="cpu"))


def ask(text: str, **more: Any) -> Request:
    return Request((Message("user", text),), **more)


def replies(chat: LocalChat, *requests: Request) -> list[Reply]:
    found = chat.answer(requests)
    assert all(isinstance(one, Reply) for one in found)
    return [one for one in found if isinstance(one, Reply)]


def greedy(model: LoadedModel, request: Request) -> tuple[list[int], list[torch.Tensor]]:
    """Likeliest ids and float64 log-probabilities ``[vocabulary]`` of each place; no batch, no cache, no padding."""
    ids = chat_prompt(model.tokenizer, request.messages).ids
    made: list[int] = []
    rows: list[torch.Tensor] = []
    network: nn.Module = model.model
    with torch.inference_mode():
        for _ in range(request.max_tokens):
            row = torch.log_softmax(network(torch.tensor([[*ids, *made]])).logits[0, -1].double(), dim=0)
            rows.append(row)
            made.append(int(row.argmax()))
    return made, rows


PROMPTS = ("def area(", "for name, value in sorted(table.items()):\n    print(", "π", "math.pi * radius**2 " * 3)


def test_a_batch_says_what_each_question_gets_alone_token_by_token(loaded: LoadedModel) -> None:
    chat = LocalChat(loaded, max_batch=3)
    requests = [ask(text, max_tokens=5 + 3 * i, top_logprobs=2 * i) for i, text in enumerate(PROMPTS)]
    for request, reply in zip(requests, replies(chat, *requests), strict=True):
        made, rows = greedy(loaded, request)
        assert reply.text == loaded.tokenizer.decode(made)
        assert (reply.completion_tokens, reply.finish_reason) == (request.max_tokens, "length")
        assert reply.prompt_tokens == len(chat_prompt(loaded.tokenizer, request.messages).ids)
        if not request.top_logprobs:
            assert reply.logprobs is None
            continue
        assert reply.logprobs is not None
        assert [one.token for one in reply.logprobs] == token_strings(loaded.tokenizer, made)
        for one, token, row in zip(reply.logprobs, made, rows, strict=True):
            assert one.logprob == pytest.approx(float(row[token]), abs=1e-4)
            values = row.topk(request.top_logprobs).values.tolist()
            assert list(one.top.values()) == pytest.approx(values[: len(one.top)], abs=1e-4)
            assert next(iter(one.top)) == one.token


def test_an_answer_ends_before_its_first_stop_text(pico: LocalChat) -> None:
    whole = replies(pico, ask("def area(radius):", max_tokens=24, top_logprobs=1))[0]
    text, cuts = whole.text, range(0, len(whole.text) - 5, 3)
    stops = [(text[at : at + 1 + at % 5], "never said") for at in cuts]
    found = replies(pico, *(ask("def area(radius):", max_tokens=24, top_logprobs=1, stop=stop) for stop in stops))
    assert len({one.text for one in found}) > 4
    for (stop, _), reply in zip(stops, found, strict=True):
        cut = text.find(stop)
        assert (reply.text, reply.finish_reason) == (text[:cut], "stop")
        assert reply.logprobs is not None
        assert whole.logprobs is not None
        tokens = [one.token for one in reply.logprobs]
        assert tokens == [one.token for one in whole.logprobs[: len(tokens)]]
        assert "".join(tokens[:-1]) == text[: len("".join(tokens[:-1]))]
        assert len("".join(tokens[:-1])) < max(cut, 1) <= len("".join(tokens)) or (cut, tokens) == (0, [])
        # Paid for is all up to the token that completed the stop text.
        so_far = ["".join(one.token for one in whole.logprobs[:n]) for n in range(25)]
        assert reply.completion_tokens == next(n for n, said in enumerate(so_far) if stop in said)


def test_an_end_token_ends_an_answer_and_is_not_said(model_folders: dict[str, Path]) -> None:
    model = load_model(str(model_folders["llama"]), device="cpu")
    made, _ = greedy(model, ask(PROMPTS[0], max_tokens=8))
    end = next(at for at in range(2, 8) if made[at] not in made[:at])
    network: Any = model.model
    network.generation_config.eos_token_id = [1, made[end]]
    network.generation_config.repetition_penalty = 0.01  # of the checkpoint's taste, not of this request
    chat = LocalChat(model)
    ended, cut = replies(chat, ask(PROMPTS[0], max_tokens=8, top_logprobs=1), ask(PROMPTS[0], max_tokens=end))
    assert (ended.text, ended.finish_reason) == (model.tokenizer.decode(made[:end]), "stop")
    assert (ended.completion_tokens, len(ended.logprobs or ())) == (end + 1, end)
    assert (cut.text, cut.finish_reason, cut.completion_tokens) == (ended.text, "length", end)


def test_tokens_are_drawn_from_the_softmax_at_the_temperature(llama: LoadedModel) -> None:
    n = 1200
    chat = LocalChat(llama, max_batch=600)
    row = greedy(llama, ask("def", max_tokens=1))[1][0]
    for temperature in (1.0, 0.4):
        requests = [ask("def", max_tokens=1, temperature=temperature, seed=seed, top_logprobs=1) for seed in range(n)]
        drawn = Counter(reply.logprobs[0].logprob for reply in replies(chat, *requests) if reply.logprobs)
        probabilities = torch.softmax(row / temperature, dim=0)
        for token in probabilities.topk(5).indices.tolist():
            p = float(probabilities[token])
            seen = sum(
                count for logprob, count in drawn.items() if math.isclose(logprob, float(row[token]), abs_tol=1e-4)
            )
            assert seen / n == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))


def test_a_seed_says_the_same_in_any_company(pico: LocalChat) -> None:
    some = [ask(text, max_tokens=12, temperature=1.0, seed=seed) for text in PROMPTS for seed in (1, 2, None)]
    together, alone = replies(pico, *some, ask("x", max_tokens=3)), [replies(pico, one)[0] for one in some]
    assert [one.text for one in together[:-1]] == [one.text for one in alone]
    assert len({one.text for one in alone}) == len(some)


def test_what_does_not_fit_the_context_is_told_apart(pico: LocalChat) -> None:
    prompt = "x = 1\n" * 400
    found = pico.answer([ask("x", max_tokens=2), ask(prompt, max_tokens=2), ask("x", max_tokens=1024)])
    assert isinstance(found[0], Reply)
    assert isinstance(found[1], ContextTooLongError)
    assert "more than the 1,024 of raylens/pico" in str(found[2])
    assert isinstance(LocalChat(pico.model, max_model_len=8).answer([ask("x", max_tokens=6)])[0], ContextTooLongError)


def test_a_batch_that_does_not_fit_into_memory_is_halved(pico: LocalChat, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [ask(text, max_tokens=4) for text in (*PROMPTS, "too much")]
    whole = replies(pico, *requests)
    network: Any = pico.model.model
    generate, too_much = network.generate, chat_prompt(pico.model.tokenizer, requests[-1].messages).ids

    def scarce(input_ids: torch.Tensor, **more: Any) -> Any:
        if len(input_ids) > 2 or any(row[-len(too_much) :] == too_much for row in input_ids.tolist()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(input_ids=input_ids, **more)

    monkeypatch.setattr(network, "generate", scarce, raising=False)
    found = pico.answer(requests)
    assert found[:-1] == whole[:-1]
    assert isinstance(found[-1], OutOfMemoryError)


@pytest.mark.parametrize("quantization", ["bnb-8bit", "bnb-4bit"])
def test_weights_in_few_bits_say_nearly_the_same(pico: LocalChat, quantization: Quantization) -> None:  # A1.11
    chat = LocalChat(load_model(PICO, device="cpu", quantization=quantization))
    kinds = {type(module).__name__ for module in chat.model.model.modules()}
    assert kinds & {"Linear8bitLt", "Linear4bit"}
    pairs = [("some code:\n", "for name in sorted(names):\n    print(name)\n"), ("", "import os\nimport sys\n")]
    for whole, few in zip(pico.losses(pairs), chat.losses(pairs), strict=True):
        assert not isinstance(whole, Exception)
        assert not isinstance(few, Exception)
        assert 0 < abs(few - whole).max() < 1.5
        assert abs(few.mean() - whole.mean()) < 0.3
    assert replies(chat, ask("def area(radius):", max_tokens=4))[0].completion_tokens == 4


TALK = (
    Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"),
)  # fmt: skip


def rendered(model: LoadedModel, template: str | None, messages: tuple[Message, ...] = TALK) -> str:
    model.tokenizer.chat_template = template
    prompt = chat_prompt(model.tokenizer, messages)
    assert prompt.stop == (() if template else ("\nUser:",))
    text = model.tokenizer.decode(prompt.ids)
    assert isinstance(text, str)
    return text


def test_a_chat_is_written_by_the_models_own_template(model_folders: dict[str, Path]) -> None:
    model = load_model(str(model_folders["llama"]), device="cpu")
    plain = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}{% if enable_thinking %}<think>{% endif %}"
    )
    assert rendered(model, plain) == "<bos>[system]Be brief.[user]a[assistant]b[user]c[assistant]"
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    assert rendered(model, no_system + plain) == "<bos>[user]Be brief.\n\na[assistant]b[user]c[assistant]"
    assert rendered(model, None) == "<bos>Be brief.\n\nUser: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"
    with pytest.raises(RequestRefusedError, match=r"chat template does not take this chat \(never\)"):
        rendered(model, "{{ raise_exception('never') }}")


def test_a_base_model_stops_where_it_would_write_the_users_next_turn(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(model_folders["llama"]), device="cpu")
    network: Any = model.model
    said = model.tokenizer(" yes\n\nUser: and", add_special_tokens=False)["input_ids"]

    def forward(input_ids: torch.Tensor, **more: Any) -> Any:
        out = original(input_ids, **more)
        out.logits[:] = -10.0
        out.logits[:, -1, said[min(forward_calls.pop(), len(said) - 1)]] = 10.0
        return out

    original, forward_calls = network.forward, list(range(20, -1, -1))
    forward.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
    monkeypatch.setattr(network, "forward", forward)
    reply = replies(LocalChat(model), ask("is it?", max_tokens=20))[0]
    assert (reply.text, reply.finish_reason) == (" yes\n", "stop")
    assert 21 - len(forward_calls) == reply.completion_tokens < 20  # and nothing was computed beyond


@pytest.mark.parametrize(
    ("method", "package"),
    [("awq", "gptqmodel"), ("gptq", "gptqmodel and optimum"), ("compressed-tensors", "compressed")],
)
def test_a_quantized_checkpoint_says_what_it_needs(
    method: str, package: str, model_folders: dict[str, Path], tmp_path: Path, hub_cache: Callable[..., str]
) -> None:
    folder = shutil.copytree(model_folders["llama"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"stored in {method.upper()}, which needs {package}") as caught:
        load_model(str(folder))
    assert "pip install" in caught.value.hint
    assert "vLLM" in caught.value.hint
    # On the hub, the configuration says so before any weights are asked for: here there are none.
    (folder / "model.safetensors").unlink()
    hub_cache("someone/quantized", folder)
    with pytest.raises(InputError, match=f"someone/quantized is stored in {method.upper()}"):
        locate("someone/quantized")
    assert locate("someone/quantized", weights=False).name == "someone/quantized"


@pytest.mark.gpu
def test_a_gpu_says_what_a_cpu_says(pico: LocalChat) -> None:
    chat = LocalChat(load_model(PICO, device="cuda"))
    requests = [ask(text, max_tokens=9, top_logprobs=2, stop=("never",)) for text in PROMPTS]
    for here, there in zip(replies(pico, *requests), replies(chat, *requests), strict=True):
        assert (here.text, here.completion_tokens) == (there.text, there.completion_tokens)
    drawn = [ask(text, max_tokens=9, temperature=1.0, seed=3) for text in PROMPTS]
    assert [one.text for one in replies(chat, *drawn)] == [replies(chat, one)[0].text for one in drawn]
    pairs = [("some code:\n", text) for text in PROMPTS]
    for here, there in zip(pico.losses(pairs), chat.losses(pairs), strict=True):
        assert here == pytest.approx(there, abs=1e-2)
