"""The reply cache: what it is keyed by, what it survives, and that a rerun costs nothing."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_llm import Answer, FakeLlm
from llm_clients import FakeClock, question, settings_for, talk
from raylens.chat import Message, Reply, Request, TokenLogprob
from raylens.errors import WorkspaceError
from raylens.llm.client import ChatClient
from raylens.llm.errors import BudgetReached, EndpointUnavailableError
from raylens.llm.replies import ReplyCache, request_key
from raylens.llm.settings import EndpointSettings
from raylens.store.files import Files

SETTINGS = EndpointSettings(base_url="http://localhost/v1", model="m")


@pytest.fixture
def cache(tmp_path: Path) -> ReplyCache:
    return ReplyCache(Files.open(tmp_path))


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_rerun_costs_nothing_and_sends_nothing(llm: FakeLlm, cache: ReplyCache, tmp_path: Path) -> None:
    prices = {"prompt_usd_per_million": 1, "completion_usd_per_million": 1}
    rows = [("naïve", -0.5, {"naïve": -0.5, "家": -math.inf})]
    llm.respond = lambda asked: Answer(f"naïve 家 {asked.prompt}", logprobs=rows)
    questions = [question(f"q{i}", top_logprobs=2) for i in range(6)]
    first = talk(settings_for(llm, prices=prices), *questions, cache=cache)
    again = talk(settings_for(llm, prices=prices, max_calls=0), *questions, cache=cache)
    assert len(llm.asked) == 6
    assert all(one.cost_usd and not one.from_cache for one in first.replies)
    assert again.replies == [replace(one, cost_usd=0.0, from_cache=True) for one in first.replies]
    assert (again.usage.cached, again.usage.calls, again.usage.usd) == (6, 0, 0.0)
    stored = files_in(tmp_path)
    assert len(stored) == 6
    assert all(one.parent.name == one.name[:2] and len(one.stem) == 64 for one in stored)


def test_the_key_is_a_known_hash_of_all_that_determines_the_answer() -> None:
    base = question("q")
    # Also a promise to caches on disk: this hash only changes with the format of the cache.
    canonical = (
        '{"base_url":"http://localhost/v1","model":"m","request":{"max_tokens":500,"messages":'
        '[{"content":"q","role":"user"}],"seed":null,"stop":[],"temperature":0.0,"top_logprobs":0}}'
    )
    assert request_key(SETTINGS, base) == hashlib.sha256(canonical.encode()).hexdigest()
    others = [
        question("r"), question("q", max_tokens=9), question("q", temperature=1.0), question("q", top_logprobs=1),
        question("q", seed=0), question("q", stop=("x",)), Request((Message("system", "q"),)),
        Request((Message("user", "q"), Message("user", "q"))),
    ]  # fmt: skip
    keys = {request_key(SETTINGS, one) for one in [base, *others]}
    keys |= {
        request_key(SETTINGS.model_copy(update=one), base) for one in ({"model": "n"}, {"base_url": "http://b/v1"})
    }
    assert len(keys) == len(others) + 3
    limits = SETTINGS.model_copy(update={"timeout_s": 1.0, "max_calls": 3, "max_concurrency": 1})
    assert request_key(limits, base) == request_key(SETTINGS, base)


_texts = st.text(max_size=20)
_logprob = st.floats(max_value=0, allow_nan=False)
_rows = st.lists(st.builds(TokenLogprob, _texts, _logprob, st.dictionaries(_texts, _logprob, max_size=3)), max_size=3)


@given(
    st.builds(
        Reply,
        text=_texts,
        logprobs=st.none() | _rows.map(tuple),
        prompt_tokens=st.integers(0, 10**6),
        completion_tokens=st.integers(0, 10**6),
        finish_reason=_texts,
    )
)  # fmt: skip
def test_what_is_put_comes_back(tmp_path_factory: pytest.TempPathFactory, reply: Reply) -> None:
    cache = ReplyCache(Files.open(tmp_path_factory.getbasetemp() / "replies"))
    cache.put("ab" * 32, reply)
    assert cache.get("ab" * 32) == replace(reply, cost_usd=0.0, from_cache=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-20],
        lambda data: data.replace(b"an answer", b"an answex"),
        lambda data: b"[1]",
        lambda data: b'{"content": null, "sha256": "x"}',
        lambda data: b"\xff\xfe\x00",
        lambda data: data.replace(b'"prompt_tokens": 1', b'"prompt_tokens": 2'),
    ],
)
def test_what_is_damaged_is_ignored_and_replaced(
    llm: FakeLlm, cache: ReplyCache, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    talk(settings_for(llm), "q", cache=cache)
    [file] = files_in(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert file.read_bytes() != whole
    assert not talk(settings_for(llm), "q", cache=cache).replies[0].from_cache
    assert len(llm.asked) == 2
    assert file.read_bytes() == whole
    assert talk(settings_for(llm), "q", cache=cache).replies[0].from_cache


def test_an_answer_under_the_wrong_name_is_not_taken(cache: ReplyCache, tmp_path: Path) -> None:
    cache.put("ab" * 32, Reply("for ab"))
    (tmp_path / cache.path("cd" * 32)).parent.mkdir()
    (tmp_path / cache.path("cd" * 32)).write_bytes((tmp_path / cache.path("ab" * 32)).read_bytes())
    assert cache.get("cd" * 32) is None


def test_equal_questions_at_the_same_time_are_sent_once(llm: FakeLlm, cache: ReplyCache) -> None:
    prices = {"prompt_usd_per_million": 1, "completion_usd_per_million": 1}
    llm.respond = lambda asked: Answer(asked.prompt, delay_s=0.05)
    found = talk(settings_for(llm, prices=prices), *["same"] * 8, "other", cache=cache)
    assert found.texts == ["same"] * 8 + ["other"]
    assert len(llm.asked) == 2
    assert sum(one.cost_usd or 0 for one in found.replies) == pytest.approx(found.usage.usd)
    assert [one.from_cache for one in found.replies] == [False] + [True] * 7 + [False]
    assert found.usage.cached == 7


def test_without_a_cache_every_question_is_sent(llm: FakeLlm) -> None:
    talk(settings_for(llm), "same", "same")
    assert len(llm.asked) == 2


def test_whoever_waits_for_the_same_answer_gets_the_same_error(llm: FakeLlm, cache: ReplyCache, tmp_path: Path) -> None:
    llm.respond = lambda asked: Answer.error(500)
    found = talk(settings_for(llm, max_attempts=2), *["same"] * 3, cache=cache)
    assert [type(one) for one in found.outcomes] == [EndpointUnavailableError] * 3
    assert len(llm.asked) == 2
    assert found.usage.failed == 1
    assert files_in(tmp_path) == []
    llm.respond = lambda asked: Answer("back")
    assert talk(settings_for(llm), "same", cache=cache).texts == ["back"]


def test_who_gives_up_takes_the_answer_from_nobody_else(llm: FakeLlm, cache: ReplyCache) -> None:
    llm.respond = lambda asked: Answer("here", delay_s=0.2)

    async def run() -> list[str]:
        async with ChatClient(settings_for(llm), cache=cache, clock=FakeClock()) as client:
            first = asyncio.create_task(client.ask(question()))
            second = asyncio.create_task(client.ask(question()))
            while not llm.asked:
                await asyncio.sleep(0.005)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            text = (await second).text
            # And where everyone gives up, a later question is asked anew.
            llm.respond = lambda asked: Answer(hang=True)
            third = asyncio.create_task(client.ask(question("third")))
            while len(llm.asked) < 2:
                await asyncio.sleep(0.005)
            third.cancel()
            llm.respond = lambda asked: Answer("new")
            await asyncio.sleep(0)
            return [text, (await client.ask(question("third"))).text]

    assert asyncio.run(run()) == ["here", "new"]
    assert len(llm.asked) == 3


def test_an_empty_answer_and_a_forgotten_one_are_asked_for_again(llm: FakeLlm, cache: ReplyCache) -> None:
    llm.script.extend([Answer(""), Answer("nonsense"), Answer("sense")])
    assert talk(settings_for(llm), "q", cache=cache).texts == [""]
    assert talk(settings_for(llm), "q", cache=cache).texts == ["nonsense"]

    async def forget() -> None:
        async with ChatClient(settings_for(llm), cache=cache) as client:
            await client.forget(question("q"))
            await client.forget(question("never asked"))

    asyncio.run(forget())
    assert talk(settings_for(llm), "q", cache=cache).texts == ["sense"]
    assert talk(settings_for(llm), "q", cache=cache).texts == ["sense"]
    assert len(llm.asked) == 3


def test_a_stopped_run_goes_on_from_its_cache(llm: FakeLlm, cache: ReplyCache) -> None:
    questions = [f"q{i}" for i in range(9)]
    stopped = talk(settings_for(llm, max_calls=4), *questions, cache=cache)
    assert sum(isinstance(one, BudgetReached) for one in stopped.outcomes) == 5
    resumed = talk(settings_for(llm, max_calls=5), *questions, cache=cache)
    assert len(resumed.texts) == 9
    assert (resumed.usage.cached, resumed.usage.calls, len(llm.asked)) == (4, 5, 9)


def test_an_answer_that_cannot_be_kept_is_an_error_and_no_hole(llm: FakeLlm, cache: ReplyCache, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (tmp_path / "replies").symlink_to(outside)
    [outcome] = talk(settings_for(llm), "q", cache=cache).outcomes
    assert isinstance(outcome, WorkspaceError)
    assert files_in(outside) == []
