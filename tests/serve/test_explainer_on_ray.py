"""The Explainer as a deployment of Ray Serve, behind the gateway: answers, streams, refusals and those who go away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from live_services import TOKEN, Live
from raylens.api.openai import CompletionRequest
from raylens_serve.explainer import Explainer

WAIT_S = 60
ASKED: Any = {"prompt": "x = ", "temperature": 0, "max_tokens": 12, "logprobs": 2, "echo": True}


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    [model] = client.models.list()
    return model.id


def test_answers_and_streams_are_those_of_one_process(client: openai.OpenAI, model: str) -> None:  # A4.02
    explainer = Explainer({"model": model, "device": "cpu", "threads": 1})
    try:
        wanted = asyncio.run(explainer.complete(CompletionRequest(model=model, **ASKED)))
    finally:
        explainer.close()
    whole = client.completions.create(model=model, **ASKED)
    assert [one.model_dump() for one in whole.choices] == [one.model_dump(mode="json") for one in wanted.choices]
    parts = list(client.completions.create(model=model, stream=True, **ASKED))
    assert len(parts) > 3
    assert "".join(one.text for part in parts for one in part.choices) == whole.choices[0].text


def test_errors_are_told_apart_across_processes(client: openai.OpenAI, model: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="1,024 tokens; the prompt has 1,202") as caught:
            client.completions.create(model=model, prompt="x " * 1200, stream=stream)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError, match="unknown model 'gpt-9'"):
            client.completions.create(model="gpt-9", prompt="x", stream=stream)


def test_who_goes_away_ends_the_replicas_work(live: Live, client: openai.OpenAI, model: str) -> None:
    def under_way() -> int:
        answer = httpx.get(f"{live.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=WAIT_S)
        said = answer.json()["parts"]["explainer"]["said"]
        return said["under_way"] + said["waiting"]

    long: Any = {"model": model, "prompt": "x", "max_tokens": 1000, "n": 20, "seed": 1}
    for _ in range(2):
        with client.completions.create(stream=True, **long) as stream:
            next(iter(stream))
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(timeout=0.5, **long)
    until = time.monotonic() + WAIT_S
    while under_way():  # eighty of a thousand tokens each: they would take minutes
        assert time.monotonic() < until
        time.sleep(0.05)
