"""The official clients of OpenAI's API, and RayLens's own, talk to the Explainer over real HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from raylens.bundle.paths import PICO
from raylens.chat import Message, Reply, Request
from raylens.engine.generation import generate
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.local_chat import LocalChat
from raylens.llm.client import ChatClient
from raylens.llm.errors import ContextTooLongError, EndpointRefusedError
from raylens.llm.settings import EndpointSettings
from raylens_serve.explainer_endpoint import Endpoint, explainer_endpoint

PROMPTS = ("def area(radius):", "import os", "class Stack:\n    def push(self, x):", "for name in names:")
SURROGATE = b'{"model": "raylens/pico", "prompt": "\\ud800"}'
"""Half of a character, which JSON can write and UTF-8 cannot."""
USER: Any = [{"role": "user", "content": "def area(radius):"}]


@pytest.fixture(scope="module")
def pico() -> LoadedModel:
    return load_model(PICO, device="cpu")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with explainer_endpoint({"model": PICO, "device": "cpu", "threads": 1}) as served:
        yield served


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.key, max_retries=0) as made:
        yield made


def ids_of(model: LoadedModel, text: str) -> list[int]:
    ids = model.tokenizer(text)["input_ids"]
    assert isinstance(ids, list)
    return ids


def decoded(model: LoadedModel, ids: Any) -> str:
    text = model.tokenizer.decode(list(ids))
    assert isinstance(text, str)
    return text


def test_models_are_listed_and_found(client: openai.OpenAI, pico: LoadedModel) -> None:
    [model] = client.models.list()
    assert (model.id, model.owned_by) == (PICO, "raylens")
    assert client.models.retrieve(PICO) == model
    assert model.model_extra == {
        "max_model_len": 1024,
        "revision": pico.revision,
        "dtype": "float32",
        "quantization": None,
    }
    with pytest.raises(openai.NotFoundError, match="unknown model 'gpt-9'"):
        client.models.retrieve("gpt-9")


def test_greedy_completions_are_those_of_the_engine(client: openai.OpenAI, pico: LoadedModel) -> None:
    expected = generate(pico, [ids_of(pico, text) for text in PROMPTS], 20)
    answer = client.completions.create(model=PICO, prompt=list(PROMPTS), max_tokens=20, temperature=0)
    assert [one.text for one in answer.choices] == [decoded(pico, one.ids) for one in expected]
    assert [one.index for one in answer.choices] == [0, 1, 2, 3]
    assert {one.finish_reason for one in answer.choices} == {"length"}
    assert answer.usage is not None
    n = sum(len(ids_of(pico, text)) for text in PROMPTS)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (n, 80, n + 80)
    by_ids = client.completions.create(
        model=PICO, prompt=[ids_of(pico, text) for text in PROMPTS], max_tokens=20, temperature=0
    )
    assert [one.text for one in by_ids.choices] == [one.text for one in answer.choices]
    assert len(client.completions.create(model=PICO, prompt="x", temperature=0).choices[0].text) > 0


def test_a_chat_is_that_of_the_local_model(client: openai.OpenAI, pico: LoadedModel) -> None:
    """pico has no chat template: it reads a transcript, and the user's next turn would end the answer."""
    request = Request((Message("system", "Brief."), Message("user", "a\nb")), max_tokens=12, top_logprobs=3)
    [wanted] = LocalChat(pico).answer([request])
    assert isinstance(wanted, Reply)
    answer = client.chat.completions.create(
        model=PICO,
        messages=[
            {"role": "developer", "content": "Brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\nb"}]},
        ],
        max_completion_tokens=12,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    [choice] = answer.choices
    assert (choice.message.content, choice.message.role) == (wanted.text, "assistant")
    assert choice.finish_reason == wanted.finish_reason
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (wanted.prompt_tokens, 12)
    assert choice.logprobs is not None
    rows = choice.logprobs.content or []
    assert b"".join(bytes(row.bytes or []) for row in rows).decode() == wanted.text
    assert wanted.logprobs is not None
    for row, other in zip(rows, wanted.logprobs, strict=True):
        assert (row.token, row.logprob) == (other.token, pytest.approx(other.logprob, abs=1e-4))
        assert {one.token: pytest.approx(one.logprob, abs=1e-4) for one in row.top_logprobs} == other.top


def test_a_stream_is_the_whole_answer_in_parts(client: openai.OpenAI) -> None:
    asked: Any = {"model": PICO, "messages": USER, "max_tokens": 25, "temperature": 0.9, "seed": 5, "n": 2}
    asked |= {"logprobs": True, "top_logprobs": 2, "stop": ["self", "\n\n\n"]}
    whole = client.chat.completions.create(**asked)
    assert len({one.message.content for one in whole.choices}) == 2
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    for one in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == one.index]
        assert parts[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == one.message.content
        assert [part.finish_reason for part in parts if part.finish_reason] == [one.finish_reason]
        rows = [row for part in parts if part.logprobs for row in part.logprobs.content or []]
        assert one.logprobs is not None
        assert [row.token for row in rows] == [row.token for row in one.logprobs.content or []]


def test_an_echo_has_the_log_probabilities_of_what_was_sent(client: openai.OpenAI, pico: LoadedModel) -> None:
    text = "def f(é😀):\n    return"
    answer = client.completions.create(
        model=PICO, prompt=text, max_tokens=2, logprobs=2, echo=True, temperature=0, stream=False
    )
    [choice] = answer.choices
    ids = ids_of(pico, text)
    with torch.inference_mode():
        nats = torch.log_softmax(pico.model(torch.tensor([ids])).logits[0].double(), dim=-1)
    rows = choice.logprobs
    assert rows is not None
    assert rows.tokens is not None
    assert rows.token_logprobs is not None
    assert rows.token_logprobs[0] is None
    expected = [float(nats[at, token]) for at, token in enumerate(ids[1:])]
    assert rows.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
    assert len(rows.tokens) == len(rows.text_offset or []) == len(rows.top_logprobs or []) == len(ids) + 2
    assert rows.tokens[:4] == ["<|bos|>", "def", " f", "("]
    assert [token for token in rows.tokens if token.startswith("bytes:")][:2] == ["bytes:\\xc3", "bytes:\\xa9"]
    for token, at in zip(rows.tokens[1:], (rows.text_offset or [])[1:], strict=True):
        assert token.startswith("bytes:") or choice.text[at:].startswith(token)
    assert (rows.top_logprobs or [None])[0] is None
    assert all(token in top for token, top in list(zip(rows.tokens, rows.top_logprobs or [], strict=True))[1:])
    # As evaluation harnesses ask: token ids, nothing to write.
    read = client.completions.create(model=PICO, prompt=ids, max_tokens=0, logprobs=0, echo=True)
    [one] = read.choices
    assert (one.text, one.finish_reason) == (text, "length")
    assert one.logprobs is not None
    assert one.logprobs.token_logprobs == pytest.approx(rows.token_logprobs[: len(ids)], abs=1e-6)
    assert one.logprobs.top_logprobs is None
    assert read.usage is not None
    assert read.usage.completion_tokens == 0


def test_seeds_repeat_themselves_and_nothing_else_does(client: openai.OpenAI) -> None:
    def said(**more: Any) -> str:
        return client.completions.create(model=PICO, prompt="x = ", max_tokens=24, **more).choices[0].text

    assert said(seed=3) == said(seed=3)
    assert len({said(seed=seed) for seed in range(4)}) == 4
    assert len({said() for _ in range(4)}) == 4  # OpenAI's own default: temperature 1
    assert said(seed=3, temperature=1, top_p=1e-6) == said(temperature=0) == said(temperature=1e-300, top_p=0.5)


def test_many_are_answered_side_by_side_and_alike(endpoint: Endpoint) -> None:
    async def run() -> tuple[list[Any], list[Any]]:
        async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.key) as client:

            async def one(text: str, n: int) -> str:
                answer = await client.completions.create(model=PICO, prompt=text, max_tokens=n, temperature=0)
                return answer.choices[0].text

            async def streamed(text: str, n: int) -> str:
                answer = await client.completions.create(
                    model=PICO, prompt=text, max_tokens=n, temperature=0, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in answer])

            asked = [(text, 5 + 3 * at) for at in range(5) for text in PROMPTS]
            together = await asyncio.gather(*((one, streamed)[at % 2](*ask) for at, ask in enumerate(asked)))
            return together, [await one(*ask) for ask in asked]

    together, alone = asyncio.run(run())
    assert together == alone


def test_our_own_client_asks_and_reads_losses(
    endpoint: Endpoint, pico: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", endpoint.key)
    settings = EndpointSettings(base_url=endpoint.base_url, model=PICO, max_attempts=1)
    requests = [Request((Message("user", text),), max_tokens=9, top_logprobs=2, stop=("e",)) for text in PROMPTS]
    pairs = [("some code:\n", "for name in sorted(names):\n"), ("", "import os\n"), ("x", " = (é, 😀)")]

    async def run() -> Any:
        async with ChatClient(settings) as client:
            replies = await asyncio.gather(*map(client.ask, requests))
            losses = [await client.losses(*pair) for pair in pairs]
            with pytest.raises(ContextTooLongError, match="1,024 tokens; the prompt has"):
                await client.ask(Request((Message("user", "x " * 1200),), max_tokens=4))
            with pytest.raises(ContextTooLongError):
                await client.losses("x " * 600, "y " * 600)
            return replies, losses

    replies, losses = asyncio.run(run())
    for reply, wanted in zip(replies, LocalChat(pico).answer(requests), strict=True):
        assert isinstance(wanted, Reply)
        assert (reply.text, reply.finish_reason) == (wanted.text, wanted.finish_reason)
        assert (reply.prompt_tokens, reply.completion_tokens) == (wanted.prompt_tokens, wanted.completion_tokens)
        assert [one.token for one in reply.logprobs or ()] == [one.token for one in wanted.logprobs or ()]
    for (context, text), found in zip(pairs, losses, strict=True):
        ids = ids_of(pico, context + text)
        with torch.inference_mode():
            nats = torch.log_softmax(pico.model(torch.tensor([ids])).logits[0].double(), dim=-1)
        of_text = len(ids) - len(ids_of(pico, context))
        expected = [-float(nats[at - 1, ids[at]]) for at in range(len(ids) - of_text, len(ids))]
        np.testing.assert_allclose(found, expected, atol=1e-4)

    async def wrong() -> None:
        async with ChatClient(settings.model_copy(update={"model": "other"})) as client:
            await client.ask(requests[0])

    with pytest.raises(EndpointRefusedError, match="unknown model 'other'"):
        asyncio.run(wrong())


REFUSED = (
    ({"model": "gpt-9"}, 404, "model", "unknown model 'gpt-9'. There is raylens/pico."),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "frequency_penalty is not valid: input should be less"),
    ({"n": 0}, 400, "n", "n is not valid"),
    ({"temperature": -1}, 400, "temperature", "temperature is not valid"),
    ({"top_p": 0}, 400, "top_p", "top_p is not valid"),
    ({"stop": ""}, 400, "stop", "stop is not valid"),
    ({"logprobs": 21}, 400, "logprobs", "logprobs is not valid: input should be less than or equal to 20."),
    ({"best_of": 2}, 400, "best_of", "best_of is not valid"),
    ({"prompt": []}, 400, "prompt", "prompt is not valid"),
    ({"prompt": [5, 4096]}, 400, None, "token ids that raylens/pico does not have. They count from 0 to 4,095."),
    ({"prompt": ["x"] * 65, "n": 2}, 400, None, "prompts times n are more than 128"),
    ({"prompt": "x " * 1100}, 400, None, "is 1,024 tokens; the prompt has 1,102, and 16 are to follow."),
    ({"stream_options": {"include_usage": True}}, 400, None, "stream_options are for streams"),
    ({"extra_body": {"grammar": "x"}}, 400, "grammar", "grammar is not supported."),
)


@pytest.mark.parametrize(("wrong", "status", "param", "said"), REFUSED, ids=lambda one: str(one)[:40])
def test_what_is_refused_is_said_in_openais_shape(
    client: openai.OpenAI, wrong: dict[str, Any], status: int, param: str | None, said: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(**{"model": PICO, "prompt": "x", **wrong})
    error = caught.value
    assert (error.status_code, error.param, error.type) == (status, param, "invalid_request_error")
    assert said in error.message
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}


CHATS_REFUSED = (
    ({"messages": []}, "messages is not valid"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0.role is not valid"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content.0.type is not valid: input should be 'text'.",
    ),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not valid"),
    ({"response_format": {"type": "json_object"}}, "response_format.type is not valid"),
    ({"store": True}, "store is not valid"),
    ({"top_logprobs": 2}, "top_logprobs are for logprobs"),
    ({"max_tokens": 2, "max_completion_tokens": 3}, "are one thing"),
    ({"max_tokens": 2000}, "and 2,000 are to follow"),
)


@pytest.mark.parametrize(("wrong", "said"), CHATS_REFUSED, ids=lambda one: str(one)[:40])
def test_chats_that_are_refused(client: openai.OpenAI, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": PICO, "messages": USER, **wrong})
    assert said in caught.value.message


def test_defaults_that_clients_write_out_are_taken(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model=PICO,
        messages=USER,
        max_tokens=3,
        n=1,
        temperature=0,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        tools=[],
        tool_choice="none",
        parallel_tool_calls=True,
        response_format={"type": "text"},
        modalities=["text"],
        store=False,
        user="me",
        metadata={"a": "b"},
        extra_body={"top_k": -1, "min_p": 0, "repetition_penalty": 1.0},
    )
    said = first.choices[0].message.model_dump()
    again: Any = [*USER, said, {"role": "user", "content": "and?"}]
    assert client.chat.completions.create(model=PICO, messages=again, max_tokens=1).choices[0].message.content


def test_the_door_is_locked_and_odd_requests_get_one_sentence(endpoint: Endpoint) -> None:
    with (
        openai.OpenAI(base_url=endpoint.base_url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="Authorization is missing or wrong"),
    ):
        stranger.models.list()
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    with httpx.Client(base_url=endpoint.base_url, headers=headers) as plain:
        for body in (b"", b"{", b"[]", b"\xff", b'{"model": "raylens/pico"}', b"null", SURROGATE):
            answer = plain.post("/completions", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, answer.text
            error = answer.json()["error"]
            assert error["type"] == "invalid_request_error"
            assert error["message"].endswith(".")
        assert plain.post("/completions", content=b'{"model": NaN}').json()["error"]["message"]
        assert plain.get("/completions").status_code == 405


def test_events_are_as_the_standard_has_them(endpoint: Endpoint) -> None:
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    body = {"model": PICO, "prompt": "x", "max_tokens": 3, "temperature": 0, "stream": True}
    with (
        httpx.Client(base_url=endpoint.base_url, headers=headers) as plain,
        plain.stream("POST", "/completions", json=body) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.read().decode()
    assert text.endswith("data: [DONE]\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in text.removesuffix("\n\n").split("\n\n"))


def test_probabilities_of_all_tokens_of_an_answer_are_finite(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=PICO, prompt="x", max_tokens=5, logprobs=20, temperature=2, seed=1)
    rows = answer.choices[0].logprobs
    assert rows is not None
    assert all(len(top) in (20, 21) for top in rows.top_logprobs or [])
    assert all(math.isfinite(value) for top in rows.top_logprobs or [] for value in top.values())
