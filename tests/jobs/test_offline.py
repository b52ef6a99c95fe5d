"""A model of one's own as a judge: what it answers, what it is asked, and what happens when its worker dies."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest

import raylens_jobs.offline
from fake_llm import Answer, Asked, FakeLlm
from raylens.bundle.paths import PICO, model_path
from raylens.chat import Message, Reply, Request
from raylens.engine.load import LoadedModel, load_model, token_strings
from raylens.engine.local_chat import LocalChat
from raylens.engine.token_losses import token_losses
from raylens.errors import DamagedFileError, InputError, RaylensError, UnknownNameError
from raylens.llm.asker import Asker
from raylens.llm.errors import ContextTooLongError, EndpointRefusedError
from raylens.llm.replies import ReplyCache
from raylens.llm.settings import ChatSettings, EndpointSettings, OfflineSettings
from raylens.llm.spend import Usage
from raylens.store.workspace import Workspace
from raylens_jobs.askers import open_asker
from raylens_jobs.offline import Copies, OfflineClient, choose_copies

T = TypeVar("T")

PICO_SETTINGS = OfflineSettings(model=PICO, max_batch=8)
PROMPTS = ("def area(radius):", "import os", "class Stack:\n    def push(self, x):", "for name in names:")


def ask(text: str, **more: Any) -> Request:
    return Request((Message("user", text),), **{"max_tokens": 8, **more})


@pytest.fixture(scope="module")
def pico() -> LoadedModel:
    return load_model(PICO, device="cpu")


@pytest.fixture(scope="module")
def loop() -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """One event loop for the module, in a thread of its own, so that one actor serves several tests."""
    own = asyncio.new_event_loop()
    thread = threading.Thread(target=own.run_forever, daemon=True)
    thread.start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, own).result(120)
    own.call_soon_threadsafe(own.stop)
    thread.join()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace.open(tmp_path_factory.mktemp("workspace"), create=True)


@pytest.fixture(scope="module")
def offline(ray_cluster: None, loop: Callable[..., Any], workspace: Workspace) -> Iterator[OfflineClient]:
    client = open_asker(PICO_SETTINGS, workspace)
    assert isinstance(client, OfflineClient)
    loop(client.__aenter__())
    yield client
    loop(client.__aexit__(None, None, None))


async def all_of(*work: Coroutine[Any, Any, T]) -> list[T | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


def test_questions_are_answered_together_once_and_from_the_cache_after(
    offline: OfflineClient, loop: Callable[..., Any], pico: LoadedModel, workspace: Workspace
) -> None:
    requests = [ask(text, top_logprobs=2, max_tokens=4 + n) for n, text in enumerate(PROMPTS)]
    pairs = [(context, text) for context in ("about code:\n", "of every kind:\n") for text in (*PROMPTS, "")]
    before = offline.usage
    replies = loop(all_of(*(offline.ask(one) for one in [*requests, *requests])))
    losses = loop(all_of(*(offline.losses(*pair) for pair in pairs)))
    expected = LocalChat(pico, max_batch=8).answer(requests)
    for reply, wanted in zip(replies[:4], expected, strict=True):
        assert isinstance(wanted, Reply)
        assert (reply.text, reply.completion_tokens, reply.cost_usd) == (wanted.text, wanted.completion_tokens, 0.0)
        assert [one.logprob for one in reply.logprobs] == pytest.approx(
            [one.logprob for one in wanted.logprobs or ()], abs=1e-4
        )
    assert [(one.text, one.from_cache) for one in replies[4:]] == [(one.text, True) for one in replies[:4]]
    for row, wanted in zip(losses, token_losses(pico, pairs), strict=True):
        np.testing.assert_allclose(row, np.asarray(wanted), atol=2e-4)
    assert offline.usage.calls - before.calls == 4 + 8
    assert offline.usage.cached - before.cached == 4
    assert offline.usage.completion_tokens - before.completion_tokens == sum(
        one.completion_tokens for one in replies[:4]
    )

    async def rerun() -> tuple[list[Any], list[Any], Usage]:
        async with OfflineClient(PICO_SETTINGS, cache=ReplyCache(workspace.files)) as again:
            found = await all_of(*(again.ask(one) for one in requests))
            read = await all_of(*(again.losses(*pair) for pair in pairs))
            assert not again._workers  # no model was loaded for it
            await again.forget(requests[0])
            return found, read, again.usage

    found, read, usage = loop(rerun())
    assert [(one.text, one.logprobs, one.from_cache) for one in found] == [
        (one.text, one.logprobs, True) for one in replies[:4]
    ]
    np.testing.assert_array_equal(np.concatenate(read), np.concatenate(losses))
    assert usage == Usage(cached=12)
    assert loop(offline.ask(requests[0])).text == replies[0].text
    assert offline.usage.calls - before.calls == 4 + 8 + 1


def test_one_question_that_does_not_fit_leaves_the_others_alone(
    offline: OfflineClient, loop: Callable[..., Any]
) -> None:
    found = loop(all_of(offline.ask(ask("x " * 1200)), offline.ask(ask("y = 2")), offline.losses("x", " y" * 1200)))
    assert isinstance(found[0], ContextTooLongError)
    assert isinstance(found[1], Reply)
    assert isinstance(found[2], ContextTooLongError)


def test_a_question_given_up_is_not_asked(offline: OfflineClient, loop: Callable[..., Any]) -> None:
    async def give_up() -> int:
        before = offline.usage.calls
        task = asyncio.create_task(offline.ask(ask("never mind", max_tokens=900)))
        await asyncio.sleep(0)
        task.cancel()
        await offline.ask(ask("but this"))
        return offline.usage.calls - before

    assert loop(give_up()) == 1


def test_a_worker_that_dies_is_started_again_and_asked_again(offline: OfflineClient, loop: Callable[..., Any]) -> None:
    loop(offline.ask(ask("before")))
    ours = psutil.Process().children(recursive=True)
    workers = [one for one in ours if one.name().startswith("ray::ChatActor")]
    assert workers
    before = offline.usage

    async def die() -> Reply:
        for one in workers:
            one.suspend()  # so that it dies over the question, however fast it is
        answer = asyncio.create_task(offline.ask(ask("def area(radius):", max_tokens=5)))
        await asyncio.sleep(0.2)
        for one in workers:
            one.kill()
        return await answer

    assert loop(die()).completion_tokens == 5
    assert (offline.usage.calls - before.calls, offline.usage.retries - before.retries) == (2, 1)
    assert offline.usage.failed == before.failed


def outcomes(settings: OfflineSettings, *requests: Request) -> tuple[list[Any], Usage]:
    async def run() -> tuple[list[Any], Usage]:
        async with OfflineClient(settings) as client:
            return [
                *await all_of(*(client.ask(one) for one in requests)),
                *await all_of(client.ask(ask("z"))),
            ], client.usage

    return asyncio.run(run())


def test_a_worker_that_dies_again_and_again_is_one_sentence(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Doomed:
        def load(self, *_: object) -> None: ...

        def answer(self, _: object) -> None:
            import os

            os._exit(1)

    monkeypatch.setattr(raylens_jobs.offline, "ChatActor", Doomed)
    found, usage = outcomes(PICO_SETTINGS, ask("a"), ask("b"))
    assert all(isinstance(one, EndpointRefusedError) for one in found)
    assert "the worker that runs raylens/pico died 3 times in a row" in str(found[0])
    assert usage.failed == 3


def test_a_model_that_does_not_load_is_said_as_it_would_be_in_one_process(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def load(self, *_: object) -> None:
            raise DamagedFileError("a weights file in m cannot be read.", hint="copy it again.")

    monkeypatch.setattr(raylens_jobs.offline, "ChatActor", Broken)
    found, usage = outcomes(PICO_SETTINGS, ask("a"), ask("b"))
    assert [type(one) for one in found] == [DamagedFileError] * 3
    assert usage.failed == 3


def spoilt(tmp_path: Path, how: str) -> str:
    folder = model_path(PICO)
    assert folder is not None
    copy = shutil.copytree(folder, tmp_path / "model")
    if how == "pickled":
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    else:
        config = json.loads((copy / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
        (copy / "config.json").write_text(json.dumps(config))
    return str(copy)


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("awq", InputError, "is stored in AWQ, which needs gptqmodel"),
        ("pickled", InputError, r"has no model.safetensors and no index of parts, but only pickled ones"),
        ("missing", UnknownNameError, "unknown model"),
    ],
)
def test_what_can_be_known_before_loading_is_said_on_opening(
    how: str, error: type[RaylensError], says: str, tmp_path: Path
) -> None:
    model = str(tmp_path / "nowhere") if how == "missing" else spoilt(tmp_path, how)

    async def open_it() -> None:
        async with OfflineClient(OfflineSettings(model=model)):
            pytest.fail("it opened")

    with pytest.raises(error, match=says):
        asyncio.run(open_it())


@pytest.mark.parametrize(
    ("settings", "nodes", "copies"),
    [
        ({}, [{"CPU": 1}], Copies(1, 0, 1, 0)),
        ({}, [{"CPU": 2}], Copies(1, 0, 1, 1)),
        ({}, [{"CPU": 4}, {"CPU": 8}], Copies(1, 0, 7, 7)),
        ({}, [{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 1}], Copies(3, 1, 1, 1)),
        ({"gpus_per_copy": 2}, [{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 1}], Copies(1, 2, 1, 1)),
        ({"gpus_per_copy": 8}, [{"CPU": 8, "GPU": 4}], Copies(1, 4, 1, 1)),
        ({"num_gpus": 1}, [{"CPU": 8, "GPU": 4}], Copies(1, 1, 1, 1)),
        ({"num_gpus": 0}, [{"CPU": 8, "GPU": 4}], Copies(1, 0, 7, 7)),
        ({"num_gpus": 8}, [{"CPU": 8}], Copies(1, 0, 7, 7)),
        ({"device": "cpu"}, [{"CPU": 8, "GPU": 4}], Copies(1, 0, 7, 7)),
    ],
)
def test_counts_of_gpus_are_upper_bounds(
    settings: dict[str, Any], nodes: list[dict[str, float]], copies: Copies
) -> None:
    assert choose_copies(OfflineSettings(model="m", **settings), nodes) == copies


def served_by(model: LoadedModel) -> Callable[[Asked], Answer]:
    """What vLLM would answer with this model: chats, and texts echoed with their log-probabilities."""
    chat = LocalChat(model)

    def respond(asked: Asked) -> Answer:
        if asked.target.endswith("/chat/completions"):
            messages = tuple(Message(one["role"], one["content"]) for one in asked.body["messages"])
            (reply,) = chat.answer([Request(messages, max_tokens=asked.body["max_tokens"])])
            assert isinstance(reply, Reply)
            return Answer(reply.text)
        ids: Any = model.tokenizer(asked.body["prompt"], add_special_tokens=False)["input_ids"]
        (losses,) = token_losses(model, [("", asked.body["prompt"])])
        rows = {
            "tokens": ["<|bos|>", *token_strings(model.tokenizer, ids)],
            "token_logprobs": [None, *(-np.asarray(losses)).tolist()],
        }
        return Answer(raw=json.dumps({"choices": [{"text": "", "logprobs": rows}]}).encode())

    return respond


def test_every_provider_is_asked_alike(  # A1.11
    offline: OfflineClient,
    loop: Callable[..., Any],
    workspace: Workspace,
    pico: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-0123456789abcdefghij")
    request, pair = ask("import math"), ("about code:\n", "def area(radius):\n    return radius\n")

    async def asked(asker: Asker) -> tuple[str, Any, tuple[int, int]]:
        assert isinstance(asker, Asker)
        before = asker.usage
        reply, losses = await asker.ask(request), await asker.losses(*pair)
        assert (await asker.ask(request)).from_cache
        return reply.text, losses, (asker.usage.calls - before.calls, asker.usage.cached - before.cached)

    async def opened(chat: ChatSettings) -> tuple[str, Any, tuple[int, int]]:
        async with open_asker(chat, workspace) as asker:
            return await asked(asker)

    with FakeLlm(served_by(pico)) as llm:
        found = {
            "openrouter": loop(opened(EndpointSettings(provider="openrouter", base_url=llm.base_url, model="m"))),
            "openai": loop(opened(EndpointSettings(base_url=llm.base_url + "/other", model="m"))),
            "offline": loop(asked(offline)),
        }
        assert len(llm.asked) == 4
    for text, losses, counts in found.values():
        assert text == found["offline"][0]
        np.testing.assert_allclose(losses, found["offline"][1], atol=2e-4)
        assert counts == (2, 1)
