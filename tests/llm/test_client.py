"""The client against a real endpoint that misbehaves in every way the issue lists."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from fake_llm import Answer, FakeLlm
from llm_clients import FakeClock, question, settings_for, talk
from raylens.chat import TokenLogprob
from raylens.errors import InputError, RaylensError
from raylens.llm.client import ChatClient
from raylens.llm.errors import (
    ContextTooLongError,
    EndpointRefusedError,
    EndpointUnavailableError,
    RequestRefusedError,
)
from raylens.llm.settings import EndpointSettings


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that is taken, where nobody listens: every connection is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def raised(settings: EndpointSettings, clock: FakeClock | None = None) -> RaylensError:
    [outcome] = talk(settings, "q", clock=clock).outcomes
    assert isinstance(outcome, RaylensError), outcome
    return outcome


def test_a_question_is_sent_and_its_answer_counted(llm: FakeLlm) -> None:  # A1.11
    llm.script.append(Answer("two words", finish_reason="length"))
    found = talk(settings_for(llm), question("what is it ?", max_tokens=9))
    [reply], [asked] = found.replies, llm.asked
    assert (reply.text, reply.finish_reason, reply.from_cache) == ("two words", "length", False)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cost_usd) == (4, 2, None)
    assert asked.target == "/v1/chat/completions"
    assert (asked.body["model"], asked.body["max_tokens"], asked.prompt) == ("fake", 9, "what is it ?")
    used = found.usage
    assert (used.calls, used.retries, used.cached, used.failed, used.unpriced) == (1, 0, 0, 0, 1)
    assert (used.prompt_tokens, used.completion_tokens, used.usd) == (4, 2, 0.0)


def test_what_the_endpoint_says_it_cost_counts(llm: FakeLlm) -> None:
    llm.respond = lambda asked: Answer("a", usage={"prompt_tokens": 5, "completion_tokens": 1, "cost": 0.25})
    found = talk(settings_for(llm, provider="openrouter"), "q", "r")
    assert [one.cost_usd for one in found.replies] == [0.25, 0.25]
    assert (found.usage.usd, found.usage.unpriced) == (0.5, 0)
    assert llm.asked[0].body["usage"] == {"include": True}


def test_no_more_calls_are_under_way_than_allowed(llm: FakeLlm) -> None:
    llm.respond = lambda asked: Answer(asked.prompt, delay_s=0.02)
    prompts = [f"q{i}" for i in range(24)]
    assert talk(settings_for(llm, max_concurrency=4), *prompts).texts == prompts
    assert llm.high_water == 4


def test_calls_are_spaced_by_the_rate(llm: FakeLlm) -> None:
    clock = FakeClock()
    llm.script.append(Answer.error(500))
    assert len(talk(settings_for(llm, requests_per_minute=30), *"abcde", clock=clock).texts) == 5
    assert clock.time - 1000 >= 5 * 2.0  # six requests, one of them a retry


def test_a_refused_connection_is_tried_again_and_then_said(refusing_port: int) -> None:
    clock = FakeClock()
    settings = EndpointSettings(base_url=f"http://127.0.0.1:{refusing_port}/v1", model="m", max_attempts=4)
    error = raised(settings, clock)
    assert isinstance(error, EndpointUnavailableError)
    assert error.retryable
    assert str(settings.base_url) in error.message
    assert "cannot be reached" in error.message
    assert "attempt 4 of 4" in error.message
    assert len(clock.slept) == 3
    assert all(wait <= 0.5 * 2**i for i, wait in enumerate(clock.slept))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Answer.error(500, "boom"), r"failed \(500\): boom"),
        (Answer.error(503), r"failed \(503\)"),
        (Answer.error(408), r"failed \(408\)"),
        (Answer.error(409), r"failed \(409\)"),
        (Answer.error(425), r"failed \(425\)"),
        (Answer.error(429, "slow down"), r"limits the rate of calls \(429\): slow down"),
        (Answer("a long answer", cut=40), "broke off before the whole answer was there"),
        (Answer("x", cut=0), "broke off before the whole answer was there"),
        (Answer("a" * 50, cut=60, headers={"Content-Length": "60", "Connection": "close"}), "not JSON"),
        (Answer(drop=True), "broke off before the whole answer was there"),
        (Answer(raw=b""), "not JSON"),
        (Answer(raw=b"<html>busy</html>"), "not JSON: <html>busy</html>"),
        (Answer(raw=b'{"choices": [{"mess'), "not JSON"),
        (Answer(raw=b'{"choices": []}'), "no chat completion"),
        (Answer(raw=b"\xff\xfe{}"), "not JSON"),
        (Answer(raw=b"no gzip", headers={"Content-Encoding": "gzip"}), "broke off"),
        (Answer(raw=b'{"error": {"message": "upstream", "code": 502}}'), r"failed \(502\): upstream"),
    ],
)
def test_a_passing_fault_is_retried_and_a_lasting_one_named(llm: FakeLlm, bad: Answer, says: str) -> None:
    llm.script.extend([bad, bad, Answer("at last")])
    found = talk(settings_for(llm), "q")
    assert found.texts == ["at last"]
    assert (found.usage.calls, found.usage.retries, found.usage.failed) == (3, 2, 0)

    llm.respond = lambda asked: bad
    [error] = talk(settings_for(llm, max_attempts=2), "q").outcomes
    assert isinstance(error, EndpointUnavailableError)
    with pytest.raises(EndpointUnavailableError, match=says):
        raise error
    assert len(llm.asked) == 5


@pytest.mark.parametrize("slow", [Answer(hang=True), Answer("slow", drip_s=0.05)])
def test_an_endpoint_that_hangs_or_drips_is_given_up(llm: FakeLlm, slow: Answer) -> None:
    llm.script.extend([slow, Answer("here")])
    found = talk(settings_for(llm, timeout_s=0.3), "q")
    assert found.texts == ["here"]
    assert found.usage.retries == 1
    llm.script.append(slow)
    assert "did not answer within 0.3 s" in raised(settings_for(llm, timeout_s=0.3, max_attempts=1)).message


@pytest.mark.parametrize("header", ["7", formatdate(1007.0, usegmt=True)])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for_in_seconds_or_until_a_date(llm: FakeLlm, status: int, header: str) -> None:
    clock = FakeClock()
    llm.script.append(Answer.error(status, headers={"Retry-After": header}))
    assert talk(settings_for(llm), "q", clock=clock).texts == ["an answer"]
    [waited] = clock.slept
    assert 7.0 <= waited <= 7.5


def test_retry_after_of_one_call_holds_the_others(llm: FakeLlm) -> None:
    class Stopped(FakeClock):
        """Time passes when the test says so."""

        go_on = asyncio.Event()

        async def sleep(self, seconds: float) -> None:
            self.slept.append(seconds)
            await self.go_on.wait()
            self.time = max(self.time, 1000 + seconds)

    clock = Stopped()
    llm.script.append(Answer.error(429, headers={"Retry-After": "20"}))

    async def run() -> None:
        async with ChatClient(settings_for(llm, max_concurrency=5), clock=clock) as client:
            first = asyncio.create_task(client.ask(question("first")))
            while not clock.slept:
                await asyncio.sleep(0.005)
            others = [asyncio.create_task(client.ask(question("other"))) for _ in range(3)]
            while len(clock.slept) < 2:  # the first in line waits for the gate
                await asyncio.sleep(0.005)
            assert len(llm.asked) == 1
            clock.go_on.set()
            await asyncio.gather(first, *others)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert len(llm.asked) == 5
    assert all(20.0 <= wait <= 20.5 for wait in clock.slept)


def test_a_wait_that_is_too_long_ends_the_call_at_once(llm: FakeLlm) -> None:
    clock = FakeClock()
    llm.respond = lambda asked: Answer.error(429, "daily limit", headers={"Retry-After": "86400"})
    error = raised(settings_for(llm), clock)
    assert isinstance(error, EndpointUnavailableError)
    assert "asks to wait 86400 s" in error.message
    assert clock.slept == []
    assert len(llm.asked) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "message", "hint"),
    [
        (Answer.error(400, "bad temperature"), RequestRefusedError, "bad temperature", "this one"),
        (Answer.error(422, "bad"), RequestRefusedError, "(422)", "this one"),
        (Answer.error(401, "no"), EndpointRefusedError, "a call without a key (401)", "OPENAI_API_KEY"),
        (Answer.error(403, "no"), EndpointRefusedError, "a call without a key (403)", "OPENAI_API_KEY"),
        (Answer.error(402, "pay"), EndpointRefusedError, "no credit left (402): pay", "OPENAI_API_KEY"),
        (Answer.error(404, "no fake"), EndpointRefusedError, "no such model or path (404): no fake", "/v1"),
        (Answer(status=302, headers={"Location": "/"}), EndpointRefusedError, "redirects elsewhere", "base URL"),
        (Answer.error(400, "maximum context length is 9"), ContextTooLongError, "too long", "shorter examples"),
    ],
)
def test_a_refusal_is_not_repeated_and_names_its_remedy(
    llm: FakeLlm, answer: Answer, kind: type[RaylensError], message: str, hint: str
) -> None:
    llm.respond = lambda asked: answer
    found = talk(settings_for(llm), "q")
    [error] = found.outcomes
    assert type(error) is kind
    assert isinstance(error, RaylensError)
    assert message in error.message
    assert hint in error.hint
    assert not error.retryable
    assert len(llm.asked) == 1
    assert (found.usage.calls, found.usage.failed) == (1, 1)


def test_an_empty_answer_is_an_answer(llm: FakeLlm) -> None:
    llm.script.append(Answer(""))
    assert talk(settings_for(llm), "q").texts == [""]
    assert len(llm.asked) == 1


def test_every_script_survives_the_way_there_and_back(llm: FakeLlm) -> None:
    text = 'naïve 家 🙂 \u2028 \\ " \x00 \u200f عربى'
    llm.respond = lambda asked: asked.prompt
    assert talk(settings_for(llm), text).texts == [text]
    assert llm.asked[0].prompt == text
    # Half of a surrogate pair cannot be written as UTF-8.
    assert talk(settings_for(llm), "half \ud83d").texts == ["half ?"]


def test_logprobs_come_through_where_the_endpoint_gives_them(llm: FakeLlm) -> None:
    llm.respond = lambda asked: Answer("7", logprobs=[("7", -0.1, {"7": -0.1, "8": -2.5})])
    [reply, plain] = talk(settings_for(llm), question("q", top_logprobs=2), question("q")).replies
    assert reply.logprobs == (TokenLogprob("7", -0.1, {"7": -0.1, "8": -2.5}),)
    assert plain.logprobs is None
    llm.respond = lambda asked: Answer("7")  # ignores the wish
    [reply] = talk(settings_for(llm), question("q", top_logprobs=2)).replies
    assert (reply.text, reply.logprobs) == ("7", None)


def test_an_endpoint_that_rejects_logprobs_is_asked_without_from_then_on(llm: FakeLlm) -> None:
    def respond(asked: object) -> Answer:
        picky = llm.asked[-1].body.get("logprobs")
        return Answer.error(400, "logprobs are not supported by this model") if picky else Answer("7")

    llm.respond = respond
    settings = settings_for(llm, max_concurrency=1, max_attempts=1)
    found = talk(settings, *(question(f"q{i}", top_logprobs=2) for i in range(5)))
    assert [(one.text, one.logprobs) for one in found.replies] == [("7", None)] * 5
    assert len(llm.asked) == 6
    together = talk(settings_for(llm, max_attempts=1), *(question(f"q{i}", top_logprobs=2) for i in range(5)))
    assert together.texts == ["7"] * 5


def test_a_model_that_wants_another_name_for_the_length_gets_it(llm: FakeLlm) -> None:
    def respond(asked: object) -> Answer:
        if "max_tokens" in llm.asked[-1].body:
            return Answer.error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return Answer("ok")

    llm.respond = respond
    assert talk(settings_for(llm, max_concurrency=1), "a", "b").texts == ["ok", "ok"]
    assert [one.body.get("max_completion_tokens") for one in llm.asked] == [None, 500, 500]


def test_a_local_endpoint_is_reached_past_any_proxy(
    llm: FakeLlm, refusing_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{refusing_port}")
    assert talk(settings_for(llm), "q").texts == ["an answer"]


def test_a_remote_endpoint_is_reached_through_the_proxy_and_without_the_key(
    llm: FakeLlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{llm.port}")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdefghij")
    remote = EndpointSettings(base_url="http://llm.example.com/v1", model="m")
    assert talk(remote, "q").texts == ["an answer"]
    [asked] = llm.asked
    assert asked.target == "http://llm.example.com/v1/chat/completions"
    assert "authorization" not in asked.headers
    llm.script.append(Answer.error(401))
    assert "https://" in raised(remote).hint


def test_a_proxy_that_is_none_is_a_sentence_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "gopher://user:hunter2pw@proxy")
    with pytest.raises(InputError, match="proxy") as refused:
        talk(EndpointSettings(base_url="http://llm.example.com/v1", model="m"), "q")
    assert "hunter2pw" not in str(refused.value)


def test_a_redirect_takes_nothing_to_another_host(llm: FakeLlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdefghij")
    with FakeLlm() as elsewhere:
        for status in (301, 302, 307, 308):
            location = f"http://localhost:{elsewhere.port}/v1/chat/completions"
            llm.script.append(Answer(status=status, headers={"Location": location}))
            assert isinstance(raised(settings_for(llm)), EndpointRefusedError)
        assert elsewhere.asked == []
    assert len(llm.asked) == 4


def test_a_client_is_opened_first_and_then_closed(llm: FakeLlm) -> None:
    client = ChatClient(settings_for(llm))

    async def run() -> None:
        with pytest.raises(RuntimeError, match="open the client first"):
            await client.ask(question())
        async with client:
            assert (await client.ask(question())).text == "an answer"
        with pytest.raises(RuntimeError, match="open the client first"):
            await client.ask(question())

    asyncio.run(run())


def test_a_cancelled_question_gives_its_slot_back(llm: FakeLlm) -> None:
    llm.script.append(Answer(hang=True))

    async def run() -> None:
        async with ChatClient(settings_for(llm, max_concurrency=1)) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.ask(question()), 0.1)
            assert (await client.ask(question())).text == "an answer"

    asyncio.run(run())


def test_retries_are_logged_with_what_happened(llm: FakeLlm, caplog: pytest.LogCaptureFixture) -> None:
    llm.script.append(Answer.error(503))
    with caplog.at_level(logging.INFO, logger="raylens.llm"):
        talk(settings_for(llm), "q")
    [line] = [one.getMessage() for one in caplog.records if one.name.startswith("raylens.llm")]
    assert "failed (503); again in" in line


def test_the_body_is_plain_json_in_utf_8(llm: FakeLlm) -> None:
    talk(settings_for(llm), "家")
    [asked] = llm.asked
    assert asked.headers["content-type"] == "application/json"
    assert int(asked.headers["content-length"]) == len(json.dumps(asked.body, ensure_ascii=False).encode())
