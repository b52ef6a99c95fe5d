"""The Explainer as a deployment of Ray Serve, behind the gateway: answers, streams, refusals, and what goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from live_services import TOKEN, Live
from raylens.api.openai import CompletionRequest
from raylens_serve.explainer import Explainer

WAIT_S = 60
CLIENTS = 8
ASKED: Any = {"prompt": "x = ", "temperature": 0, "max_tokens": 12, "logprobs": 2, "echo": True}


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    [model] = client.models.list()
    return model.id


def under_way(live: Live) -> int:
    answer = httpx.get(f"{live.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=WAIT_S)
    said = answer.json()["parts"]["explainer"]["said"]
    return said["under_way"] + said["waiting"]


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
    long: Any = {"model": model, "prompt": "x", "max_tokens": 1000, "n": 20, "seed": 1}
    for _ in range(2):
        with client.completions.create(stream=True, **long) as stream:
            next(iter(stream))
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(timeout=0.5, **long)
    until = time.monotonic() + WAIT_S
    while under_way(live):  # eighty of a thousand tokens each: they would take minutes
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_killed_replica_leaves_no_half_answer(live: Live, client: openai.OpenAI, model: str) -> None:
    """Whoever is in the middle of an answer gets all of it or is told of the end; then all are answered again."""
    long: Any = {"model": model, "prompt": "x = ", "temperature": 0, "max_tokens": 900, "timeout": WAIT_S}
    short: Any = {"model": model, "timeout": WAIT_S, **ASKED}
    begun: list[str] = []

    def told(stream: bool) -> str | openai.APIError:
        try:
            if not stream:
                return client.completions.create(**long).choices[0].text
            with client.completions.create(stream=True, **long) as parts:
                begun.append(next(iter(parts)).choices[0].text)
                return begun[-1] + "".join(one.text for part in parts for one in part.choices)
        except openai.APIError as error:
            return error

    def ask(stream: bool) -> tuple[str | openai.APIError, str]:
        first, until = told(stream), time.monotonic() + WAIT_S
        while True:
            try:
                return first, client.completions.create(**short).choices[0].text
            except openai.APIError:
                assert time.monotonic() < until
                time.sleep(0.1)

    before = client.completions.create(**short).choices[0].text
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask, stream) for stream in (True, False) * (CLIENTS // 2)]
        until = time.monotonic() + WAIT_S
        while len(begun) < CLIENTS // 2 or under_way(live) < CLIENTS:
            assert time.monotonic() < until
        (replica,) = live.replicas("Explainer")
        replica.kill()
        firsts, again = zip(*(one.result(3 * WAIT_S) for one in asking), strict=True)
    assert set(again) == {before}
    errors = [one for one in firsts if isinstance(one, openai.APIError)]
    assert all("starting again" in one.message for one in errors)
    assert errors, "nobody was in the middle of an answer"
    whole = [one for one in firsts if isinstance(one, str)]
    assert not whole or set(whole) == {client.completions.create(**long).choices[0].text}
