"""The key reaches the endpoint it is for, and nothing else: no file, log, error, repr or pickle."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from pathlib import Path

import cloudpickle
import pytest

from fake_llm import Answer, Asked, FakeLlm
from llm_clients import FakeClock, question, settings_for
from raylens.errors import RaylensError
from raylens.llm.client import ChatClient
from raylens.llm.replies import ReplyCache
from raylens.store.files import Files

SECRET = "sk-test-0123456789abcdefghij"


def echo(asked: Asked) -> Answer:
    """An endpoint that repeats all it was sent, in an answer or an error of every kind."""
    said = f"you sent {asked.headers['authorization']}"
    statuses = {"401": 401, "400": 400, "404": 404, "429": 429, "500": 500, "402": 402, "307": 307}
    if status := statuses.get(asked.prompt):
        return Answer.error(status, said, headers={"Location": f"/?key={SECRET}", "X-Echo": said, "Retry-After": "1"})
    if asked.prompt == "prose":
        return Answer(raw=said.encode())
    if asked.prompt == "cut":
        return Answer(said, cut=60)
    if asked.prompt == "drop":
        return Answer(drop=True)
    if asked.prompt == "hang":
        return Answer(hang=True)
    return Answer(said)


def test_a_key_is_sent_and_never_kept(
    llm: FakeLlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    llm.respond = echo
    settings = settings_for(llm, timeout_s=0.3, max_attempts=2)
    prompts = ["fine", "401", "400", "404", "429", "500", "402", "307", "prose", "cut", "drop", "hang"]
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="raylens")  # a command run before may have set it higher
    shown: list[str] = []

    async def run() -> None:
        client = ChatClient(settings, cache=ReplyCache(Files.open(tmp_path)), clock=FakeClock())
        async with client:
            shown.append(f"{client} {client!r} {vars(client)!r} {client.usage}")
            for pickler in (pickle, cloudpickle):
                with pytest.raises(TypeError, match="not pickled"):
                    pickler.dumps(client)
            answers = await asyncio.gather(*(client.ask(question(one)) for one in prompts), return_exceptions=True)
        assert [type(one).__name__ for one in answers] == [
            "Reply", "EndpointRefusedError", "RequestRefusedError", "EndpointRefusedError", "EndpointUnavailableError",
            "EndpointUnavailableError", "EndpointRefusedError", "EndpointRefusedError",
            *["EndpointUnavailableError"] * 4,
        ]  # fmt: skip
        for one in answers:
            shown.append(f"{one} {one!r}")
            if isinstance(one, RaylensError):
                everything = traceback.TracebackException.from_exception(one, capture_locals=True)
                shown.extend(everything.format())
                shown.append(repr(cloudpickle.dumps(one)))
                assert str(pickle.loads(pickle.dumps(one))) == str(one)
                assert one.__context__ is None  # no error of httpx, with its request, goes along

    asyncio.run(run())
    assert all(one.headers["authorization"] == f"Bearer {SECRET}" for one in llm.asked)
    assert {one.prompt for one in llm.asked} == set(prompts)

    shown += [str(settings), repr(settings), settings.model_dump_json(), repr(pickle.dumps(settings))]
    shown += [f"{one.getMessage()} {one.args!r} {one.exc_info!r}" for one in caplog.records]
    assert any("again in" in one for one in shown)  # logs were seen
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stored) == 1
    shown += [path.read_text() for path in stored]
    assert any("you sent Bearer ***" in one for one in shown)
    leaks = [one for one in shown if SECRET in one or SECRET[8:20] in one]
    assert leaks == []


def test_the_key_is_read_where_the_client_is_opened(llm: FakeLlm, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = pickle.loads(pickle.dumps(settings_for(llm)))

    async def run() -> None:
        for key in ("sk-first-00000000000000", "sk-second-0000000000000"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            async with ChatClient(settings) as client:
                await client.ask(question())
                assert llm.asked[-1].headers["authorization"] == f"Bearer {key}"
            assert key not in repr(vars(client))

    asyncio.run(run())


def test_a_wrong_key_names_its_variable_alone(llm: FakeLlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", SECRET)
    llm.respond = lambda asked: Answer.error(401, f"bad key {SECRET}")

    async def run() -> None:
        async with ChatClient(settings_for(llm, provider="openrouter")) as client:
            with pytest.raises(RaylensError, match="refused the key") as refused:
                await client.ask(question())
            assert "OPENROUTER_API_KEY" in refused.value.hint
            assert "bad key" not in str(refused.value)

    asyncio.run(run())
