"""The Explainer on vLLM, as far as can be told without vLLM: what it is configured with, and how it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig

from raylens.api.openai import ChatRequest, CompletionRequest
from raylens.api.openai_answers import ChatChunk, ChatCompletion, Completion
from raylens.bundle.paths import PICO, model_path
from raylens.errors import InputError, RunError, UnknownNameError
from raylens.llm.errors import ContextTooLongError, RequestRefusedError
from raylens_serve.explainer_vllm import VllmExplainer, llm_values, vllm_explainer
from raylens_serve.settings import ExplainerSettings


def settings(**more: Any) -> ExplainerSettings:
    return ExplainerSettings.of({"model": "org/talker", "engine": "vllm", **more})


def test_the_config_of_the_model_is_one_that_ray_takes() -> None:
    values = llm_values(settings(revision="abc", dtype="bfloat16", num_gpus=2, replicas=3, max_batch=64))
    config = LLMConfig(**values)
    assert (config.model_id, config.llm_engine) == ("org/talker", "vLLM")
    assert config.engine_kwargs == {
        "dtype": "bfloat16",
        "max_num_seqs": 64,
        "max_logprobs": 20,
        "generation_config": "vllm",
        "load_format": "safetensors",
        "trust_remote_code": False,
        "revision": "abc",
        "tokenizer_revision": "abc",
        "tensor_parallel_size": 2,
    }
    assert config.deployment_config == {"num_replicas": 3}


def test_weights_come_from_where_they_are(tmp_path: Path) -> None:
    def source(model: str) -> str:
        return llm_values(settings(model=model))["model_loading_config"]["model_source"]

    assert source(PICO) == str(model_path(PICO))
    assert source(str(tmp_path)) == str(tmp_path)
    assert source("org/talker") == "org/talker"
    four = llm_values(settings(quantization="bnb-4bit"))["engine_kwargs"]
    assert (four["quantization"], four["load_format"]) == ("bitsandbytes", "bitsandbytes")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"quantization": "bnb-8bit"}, "no weights in 8 bits"),
        ({"device": "cpu"}, "for GPUs, not cpu"),
        ({"num_gpus": 0.5}, "whole GPUs, not 0.5"),
    ],
)
def test_what_it_does_not_take_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        llm_values(settings(**wrong))


def test_without_vllm_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylens_serve.explainer_vllm.find_spec", lambda _: None)
    with pytest.raises(InputError, match="not installed here") as caught:
        vllm_explainer(settings())
    assert "ray[llm]" in caught.value.hint


class Server:
    """Says what vLLM's server says, in its forms: a handle whose methods stream."""

    def __init__(self, *said: Any) -> None:
        self.said, self.asked = said, []

    def options(self, **_: Any) -> Any:
        def method(name: str) -> Any:
            def remote(request: Any) -> Any:
                self.asked.append((name, request))
                return Stream(self.said)

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(chat=method("chat"), completions=method("completions"))


class Stream:
    def __init__(self, said: tuple[Any, ...]) -> None:
        self.said = said

    async def __aiter__(self) -> AsyncIterator[Any]:
        for one in self.said:
            yield one

    def cancel(self) -> None: ...


def model(values: dict[str, Any]) -> Any:
    """A pydantic object of vLLM's, as far as is asked of it."""
    return SimpleNamespace(model_dump=lambda mode: values)


def event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values)}\n\n"


def explainer(server: Server) -> VllmExplainer:
    values = settings().model_dump(mode="json")
    return VllmExplainer(values, server, (dict, dict))  # pyright: ignore[reportArgumentType]


CHAT = ChatRequest.model_validate(
    {"model": "org/talker", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "metadata": {"a": "b"}}
)
TEXT = CompletionRequest(model="org/talker", prompt="x", echo=True, logprobs=1, max_tokens=1)
HEAD = {"id": "i", "created": 1, "model": "org/talker"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": None}


def test_whole_answers_are_passed_on() -> None:
    said = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": []}, "finish_reason": "stop"}
    server = Server(model({**HEAD, "object": "chat.completion", "choices": [said], "usage": USAGE, "kv": None}))
    answer = asyncio.run(explainer(server).complete(CHAT))
    assert isinstance(answer, ChatCompletion)
    assert (answer.choices[0].message.content, answer.usage.total_tokens) == ("", 3)
    wanted = {"model": "org/talker", "temperature": 1.0, "max_tokens": 3}
    assert server.asked == [("chat", {**wanted, "messages": [{"role": "user", "content": "x"}]})]
    rows = {"tokens": ["x"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}
    choice = {"index": 0, "text": "x!", "logprobs": rows, "finish_reason": "length", "prompt_logprobs": None}
    server = Server(model({**HEAD, "object": "text_completion", "choices": [choice], "usage": USAGE}))
    text = asyncio.run(explainer(server).complete(TEXT))
    assert isinstance(text, Completion)
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.token_logprobs == (None,)
    assert server.asked[0][1]["echo"] is True


def test_streams_are_passed_on_however_they_are_packed() -> None:
    def chunk(text: str) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        return {**HEAD, "object": "chat.completion.chunk", "choices": [choice]}

    server = Server([event(chunk("a")), event(chunk("b"))], event(chunk("c")) + event(chunk("d")), "data: [DONE]\n\n")

    async def run() -> list[Any]:
        return [one async for one in explainer(server).stream(CHAT.model_copy(update={"stream": True}))]

    chunks = asyncio.run(run())
    assert all(isinstance(one, ChatChunk) for one in chunks)
    assert [one.choices[0].delta.content for one in chunks] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"error": {"message": "This model's maximum context length is 9 tokens.", "code": 400}}, ContextTooLongError),
        ({"error": {"message": "no such thing", "type": "BadRequestError", "code": 400}}, RequestRefusedError),
        ({"object": "error", "message": "the engine is dead", "code": 500}, RunError),
    ],
)
def test_its_errors_are_ours(said: dict[str, Any], kind: type[Exception]) -> None:
    for form in (model(said), event(said)):
        with pytest.raises(kind, match=said.get("error", said)["message"]):
            asyncio.run(explainer(Server(form)).complete(CHAT))
    with pytest.raises(UnknownNameError):
        asyncio.run(explainer(Server()).complete(CHAT.model_copy(update={"model": "other"})))
    with pytest.raises(RunError, match="no answer"):
        asyncio.run(explainer(Server()).complete(CHAT))
