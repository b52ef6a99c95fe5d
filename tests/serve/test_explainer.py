"""The Explainer itself: what it answers in this process, and what becomes of it when things go wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from raylens.api.openai import ChatRequest, CompletionRequest
from raylens.api.openai_answers import ChatChunk, ChatCompletion, Completion
from raylens.bundle.paths import PICO, model_path
from raylens.engine.growing_batch import GrowingBatch
from raylens.engine.load import load_tokenizer
from raylens.errors import InputError, OverloadedError, RaylensError, RunError, UnknownNameError
from raylens.llm.errors import RequestRefusedError
from raylens_serve.explainer import Explainer
from raylens_serve.explainer_endpoint import explainer_app
from raylens_serve.label_server import LabelServer
from raylens_serve.services import Local

TOKEN = "t" * 24
SETTINGS = {"model": PICO, "device": "cpu", "threads": 1, "max_batch": 3}
WAIT_S = 60


@pytest.fixture(scope="module")
def explainer() -> Iterator[Explainer]:
    made = Explainer(SETTINGS)
    yield made
    made.close()


@contextmanager
def served(service: Any) -> Iterator[openai.OpenAI]:
    """A client of it, over real HTTP."""
    app = explainer_app(Local(service) if service else None, TOKEN)
    with (
        LabelServer(app) as server,
        openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=TOKEN, max_retries=0) as client,
    ):
        yield client


def completion(**more: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": PICO, "prompt": "x = ", "temperature": 0, **more})


def chat(*turns: tuple[str, str], **more: Any) -> ChatRequest:
    messages = [{"role": role, "content": content} for role, content in turns]
    return ChatRequest.model_validate({"model": PICO, "messages": messages, "temperature": 0, **more})


def status(explainer: Explainer) -> dict[str, Any]:
    return asyncio.run(explainer.status())


def until_idle(explainer: Explainer) -> None:
    until = time.monotonic() + WAIT_S
    while (found := status(explainer))["under_way"] or found["waiting"]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_it_answers_in_this_process_whole_and_in_parts(explainer: Explainer) -> None:
    async def run() -> tuple[Any, list[Any], Any, list[Any]]:
        local = Local(explainer)
        whole = await local.call("complete", completion(max_tokens=6, logprobs=1))
        parts = [one async for one in local.stream("stream", completion(max_tokens=6, logprobs=1))]
        said = await local.call("complete", chat(("user", "def f("), max_tokens=6))
        chunks = [one async for one in local.stream("stream", chat(("user", "def f("), max_tokens=6))]
        return whole, parts, said, chunks

    whole, parts, said, chunks = asyncio.run(run())
    assert isinstance(whole, Completion)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert sum(len(part.choices[0].logprobs.tokens) for part in parts if part.choices[0].logprobs) == 6
    assert isinstance(said, ChatCompletion)
    assert all(isinstance(one, ChatChunk) for one in chunks)
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == said.choices[0].message.content
    assert whole.system_fingerprint == said.system_fingerprint == chunks[0].system_fingerprint
    found = status(explainer)
    assert (found["model"], found["device"], found["dtype"], found["max_batch"]) == (PICO, "cpu", "float32", 3)
    asyncio.run(explainer.check_health())


def test_a_client_that_goes_away_ends_its_answer(explainer: Explainer) -> None:
    """A stream is left after its first part, a whole answer before it came: neither is written to its end."""
    calls = []
    step = GrowingBatch.step
    with pytest.MonkeyPatch.context() as patch, served(explainer) as client:
        patch.setattr(GrowingBatch, "step", lambda batch, tokens: (calls.append(1), step(batch, tokens))[1])
        stream = client.completions.create(model=PICO, prompt="x", max_tokens=1000, seed=1, stream=True)
        next(iter(stream))
        stream.close()
        until_idle(explainer)
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(model=PICO, prompt="x", max_tokens=1000, seed=1, timeout=0.3)
        until_idle(explainer)
    assert len(calls) < 1500


def test_one_that_is_cancelled_in_this_process_ends_too(explainer: Explainer) -> None:
    async def run() -> None:
        stream = explainer.stream(completion(max_tokens=1000))
        async with aclosing(stream):  # pyright: ignore[reportArgumentType]
            async for _ in stream:
                break
        task = asyncio.create_task(explainer.complete(completion(max_tokens=1000)))
        while not (await explainer.status())["under_way"]:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    until_idle(explainer)


def test_what_does_not_fit_into_memory_is_a_507_and_the_rest_goes_on(explainer: Explainer) -> None:  # A0.23
    step = GrowingBatch.step

    def scarce(batch: GrowingBatch, tokens: Sequence[int]) -> torch.Tensor:
        if any(len(row) > 300 for row in batch.rows):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return step(batch, tokens)

    with pytest.MonkeyPatch.context() as patch, served(explainer) as client:
        patch.setattr(GrowingBatch, "step", scarce)
        asked: Any = {"model": PICO, "prompt": [1] * 400, "max_tokens": 20, "temperature": 0}
        with pytest.raises(openai.APIStatusError, match="ran out of memory") as caught:
            client.completions.create(**asked)
        assert caught.value.status_code == 507
        with pytest.raises(openai.APIError, match="ran out of memory"):  # the prompt was read: its last event says it
            list(client.completions.create(**asked, stream=True))
        assert client.completions.create(model=PICO, prompt="x", max_tokens=3).usage
    until_idle(explainer)


def test_too_many_at_a_time_are_a_503_with_retry_after(explainer: Explainer) -> None:
    class Full:
        async def complete(self, request: Any) -> Any:
            raise OverloadedError("1,024 requests wait for pico already.", hint="ask again in a moment.")

        async def stream(self, request: Any) -> AsyncIterator[Any]:
            await self.complete(request)
            yield

    with served(Full()) as client:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model=PICO, prompt="x", stream=stream)
            assert caught.value.status_code == 503
            assert caught.value.response.headers["retry-after"] == "2"
            assert caught.value.type == "server_error"


def test_a_stream_that_breaks_off_says_so() -> None:
    class Breaks:
        def __init__(self, error: Exception) -> None:
            self.error = error

        async def stream(self, request: Any) -> AsyncIterator[Any]:
            yield Completion(id="c", created=1, model=PICO, system_fingerprint="f", choices=())
            raise self.error

        async def complete(self, request: Any) -> Any:
            raise self.error

    for error, said in (
        (RunError("the logits are no numbers.", hint="try float32."), "the logits are no numbers. Try float32."),
        (KeyError("secret"), "this failed. The log of the services says how."),
    ):
        with served(Breaks(error)) as client:
            with pytest.raises(openai.APIError, match=said):
                list(client.completions.create(model=PICO, prompt="x", stream=True))
            with pytest.raises(openai.InternalServerError, match=said) as caught:
                client.completions.create(model=PICO, prompt="x")
            assert caught.value.status_code == 500


def test_where_none_is_served_every_request_is_told() -> None:
    with served(None) as client:
        asks: list[Callable[[], Any]] = [
            client.models.list,
            lambda: client.models.retrieve("m"),
            lambda: client.completions.create(model="m", prompt="x"),
            lambda: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]),
        ]
        for ask in asks:
            with pytest.raises(openai.NotFoundError, match="no explainer is served here"):
                ask()


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="explainer_vllm"):
        Explainer({"model": PICO, "engine": "vllm"})
    with pytest.raises(InputError, match="max_batch is not valid"):
        Explainer({"model": PICO, "max_batch": 0})
    with pytest.raises(UnknownNameError):
        Explainer({"model": "no such model"})
    with pytest.raises(UnknownNameError), _closing(Explainer(SETTINGS)) as explainer:
        asyncio.run(explainer.complete(completion(model="gpt-9")))


@contextmanager
def _closing(explainer: Explainer) -> Iterator[Explainer]:
    try:
        yield explainer
    finally:
        explainer.close()


@pytest.mark.parametrize("quantization", ["bnb-8bit", "bnb-4bit"])
def test_weights_in_few_bits_answer_too(quantization: str) -> None:  # A1.11
    with _closing(Explainer({**SETTINGS, "quantization": quantization})) as explainer:
        answer = asyncio.run(explainer.complete(completion(max_tokens=4)))
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4
        assert status(explainer)["quantization"] == quantization
        kinds = {type(module).__name__ for module in explainer._loaded.model.modules()}
        assert kinds & {"Linear8bitLt", "Linear4bit"}


def test_a_chat_template_is_used_and_may_refuse(tmp_path: Path) -> None:
    source = model_path(PICO)
    assert source is not None
    folder = shutil.copytree(source, tmp_path / "talker")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% if m.content == 'no' %}{{ raise_exception('not this') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    with _closing(Explainer({**SETTINGS, "model": str(folder)})) as explainer:

        async def said(*turns: tuple[str, str]) -> Any:
            return await explainer.complete(chat(*turns, model=str(folder), max_tokens=4))

        answer = asyncio.run(said(("system", "Be brief."), ("user", "a")))
        ids = load_tokenizer(PICO)("<user>Be brief.\n\na<assistant>", add_special_tokens=False)["input_ids"]
        assert isinstance(ids, list)
        assert answer.usage.prompt_tokens == len(ids)
        whole = asyncio.run(explainer.complete(completion(model=str(folder), prompt=ids, max_tokens=4)))
        assert isinstance(whole, Completion)
        assert answer.choices[0].message.content == whole.choices[0].text
        with pytest.raises(RequestRefusedError, match="not this"):
            asyncio.run(said(("user", "no")))
        with served(explainer) as client, pytest.raises(openai.BadRequestError, match="does not take this chat"):
            client.chat.completions.create(model=str(folder), messages=[{"role": "user", "content": "no"}])


def test_a_replica_whose_work_stopped_says_so() -> None:
    explainer = Explainer(SETTINGS)
    explainer.close()
    with pytest.raises(RunError, match="nothing is written"):
        asyncio.run(explainer.check_health())
    with pytest.raises(RaylensError, match="was stopped"):
        asyncio.run(explainer.complete(completion()))


SCARCE = """
import resource, sys
import openai, psutil
from raylens_serve.explainer_endpoint import explainer_endpoint

with explainer_endpoint({"model": sys.argv[1], "device": "cpu", "threads": 1}) as endpoint:
    client = openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.key, max_retries=0)

    def ask(n):
        asked = {"prompt": [5] * n, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        return client.completions.create(model=sys.argv[1], **asked).usage.prompt_tokens

    for _ in range(3):
        ask(20)  # whatever is made once is made
    room = psutil.Process().memory_info().vms + 8 * 2**20  # the long ones need more than sixty
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    for _ in range(2):
        try:
            ask(2500)
        except openai.APIStatusError as error:
            print(error.status_code, error.message)
        print(ask(20))
"""


def test_memory_that_really_does_not_suffice_is_a_507_each_time(tmp_path: Path) -> None:  # A0.23
    source = model_path(PICO)
    assert source is not None
    folder = shutil.copytree(source, tmp_path / "roomy")
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps(config))
    words = [sys.executable, "-c", SCARCE, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1::2] == ["20", "20"]
    for line in lines[::2]:
        assert line.startswith("507 "), line
        assert "cpu ran out of memory while writing text." in line, line
