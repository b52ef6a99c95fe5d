"""Requests as JSON, and what each kind of answer means."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_clients import question
from raylens.chat import Message, Reply, Request, TokenLogprob
from raylens.llm.protocol import Dialect, Failure, adapted, body_of, read_answer
from raylens.llm.settings import EndpointSettings, Prices

SETTINGS = EndpointSettings(base_url="http://localhost/v1", model="m")
PRICED = EndpointSettings(
    base_url="http://localhost/v1",
    model="m",
    prices=Prices(prompt_usd_per_million=1, completion_usd_per_million=10),
)


def read(answer: Any, *, status: int = 200, request: Request | None = None, settings: EndpointSettings = SETTINGS):
    return read_answer(status, json.dumps(answer).encode(), request or question(), settings)


def reply(answer: Any, **more: Any) -> Reply:
    found = read(answer, **more)
    assert isinstance(found, Reply)
    return found


def failure(answer: Any, **more: Any) -> Failure:
    found = read(answer, **more)
    assert isinstance(found, Failure)
    return found


def completion(content: Any = "yes", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, "finish_reason": "stop", **more}]}


def test_a_request_says_only_what_was_asked_for() -> None:
    request = Request((Message("system", "be brief"), Message("user", "was ist 家?")), max_tokens=7, temperature=0.5)
    assert body_of(request, SETTINGS, Dialect()) == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "was ist 家?"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "stream": False,
    }
    full = body_of(question(top_logprobs=5, seed=3, stop=("\n",)), SETTINGS, Dialect())
    assert (full["logprobs"], full["top_logprobs"], full["seed"], full["stop"]) == (True, 5, 3, ["\n"])
    plain = body_of(question(top_logprobs=5), SETTINGS, Dialect(logprobs=False, length="max_completion_tokens"))
    assert not {"logprobs", "top_logprobs", "max_tokens"} & set(plain)
    assert plain["max_completion_tokens"] == 500
    openrouter = EndpointSettings.of({"provider": "openrouter", "model": "m"})
    assert body_of(question(), openrouter, Dialect())["usage"] == {"include": True}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("yes", "yes"),
        ("", ""),
        (None, ""),
        ("naïve 家 🙂", "naïve 家 🙂"),
        ("\ud83d\ude42", "🙂"),
        ("half \ud83d of one", "half \ufffd of one"),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}], "ab"),
    ],
)
def test_text_is_read_whole(content: Any, text: str) -> None:
    found = reply(completion(content)).text
    assert found == text
    found.encode()  # and can be written


def test_the_header_of_the_answer_does_not_matter_for_its_encoding() -> None:
    found = read_answer(200, json.dumps(completion("žluťoučký"), ensure_ascii=False).encode(), question(), SETTINGS)
    assert isinstance(found, Reply)
    assert found.text == "žluťoučký"


def test_logprobs_are_rows_with_alternatives() -> None:
    rows = [
        {"token": "4", "logprob": -0.25,
         "top_logprobs": [{"token": "4", "logprob": -0.25}, {"token": "5", "logprob": -2}]},
        {"token": "\n", "logprob": -1,
         "top_logprobs": [{"token": "x", "logprob": -3}, {"token": "x", "logprob": -1.5}]},
        {"token": "!", "logprob": -9999.0, "top_logprobs": None},
    ]  # fmt: skip
    answer = completion("4\n!", logprobs={"content": rows})
    assert reply(answer, request=question(top_logprobs=2)).logprobs == (
        TokenLogprob("4", -0.25, {"4": -0.25, "5": -2.0}),
        TokenLogprob("\n", -1.0, {"x": -1.5}),
        TokenLogprob("!", -9999.0, {}),
    )
    assert reply(answer).logprobs is None  # nobody asked


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"content": None}, {"content": []}, [1], "x", {"content": [{"token": "a"}]}, {"content": ["a"]},
     {"content": [{"token": "a", "logprob": None}]}, {"content": [{"token": "a", "logprob": math.nan}]},
     {"content": [{"token": 3, "logprob": -1}]}, {"content": [{"token": "a", "logprob": 10**400}]},
     {"content": [{"token": "a", "logprob": -1, "top_logprobs": [{"token": "b"}]}]}],
)  # fmt: skip
def test_logprobs_that_are_ignored_or_broken_are_none(logprobs: Any) -> None:
    found = reply(completion("4", logprobs=logprobs), request=question(top_logprobs=2))
    assert (found.text, found.logprobs) == ("4", None)


def test_cost_is_by_the_prices_or_as_the_endpoint_says() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 20}
    assert reply(completion() | {"usage": usage}).cost_usd is None
    priced = reply(completion() | {"usage": usage}, settings=PRICED)
    assert (priced.prompt_tokens, priced.completion_tokens) == (1000, 20)
    assert priced.cost_usd == pytest.approx(0.0012)  # 1000 × 1e-6 + 20 × 1e-5
    assert reply(completion() | {"usage": usage | {"cost": 0.5}}, settings=PRICED).cost_usd == 0.5
    for cost in (-1, math.nan, math.inf, "free", True, 10**400):
        assert reply(completion() | {"usage": usage | {"cost": cost}}, settings=PRICED).cost_usd == priced.cost_usd
    for broken in (None, [], {}, {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": "many"}):
        assert reply(completion() | {"usage": broken}, settings=PRICED).cost_usd is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"error": {"code": "context_length_exceeded", "message": "too many"}}),
        (400, {"error": {"message": "This model's maximum context length is 4096 tokens. However, …"}}),
        (400, {"object": "error", "message": "This model's maximum context length is 2048 tokens.", "code": 400}),
        (400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: 500. This model's maximum "
                                    "context length is 128 tokens"}}),
        (400, {"error": "the request exceeds the available context size. try increasing it"}),
        (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048.",
               "error_type": "validation"}),
        (413, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
        (500, {"error": "The prompt (length 900) is longer than the maximum model length of 512."}),
        (200, {"error": "Trying to keep the first 111490 tokens when context the overflows."}),
        (400, {"error": {"message": "Provider returned error", "code": 400,
                         "metadata": {"raw": "The input token count (9) exceeds the maximum number of tokens"}}}),
    ],
)  # fmt: skip
def test_a_prompt_that_is_too_long_is_told_apart(status: int, error: Any) -> None:
    assert failure(error, status=status).kind == "too_long"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"error": {"message": "temperature must be at most 2"}}, "request"),
        (400, "nonsense", "request"),
        (401, {"error": {"message": "Incorrect API key provided: sk-ab***yz"}}, "key"),
        (403, {"error": {"message": "not allowed"}}, "key"),
        (403, {"error": {"message": "Your input was flagged", "metadata": {"flagged_input": "…"}}}, "request"),
        (402, {"error": {"message": "Insufficient credits"}}, "credit"),
        (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, "credit"),
        (429, {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}, "retry"),
        (404, {"error": {"message": "The model `m` does not exist"}}, "model"),
        (405, None, "model"),
        (307, None, "address"),
        (408, None, "retry"), (409, None, "retry"), (425, None, "retry"), (500, None, "retry"), (599, None, "retry"),
        (200, {"error": {"message": "upstream is down", "code": 502}}, "retry"),
        (200, {"error": {"message": "no key", "code": 401}}, "key"),
        (200, {"error": "model runner stopped"}, "retry"),
    ],
)  # fmt: skip
def test_every_refusal_has_its_kind(status: int, error: Any, kind: str) -> None:
    found = failure(error, status=status)
    assert found.kind == kind
    assert not found.may_be_billed


def test_what_is_said_about_a_key_is_not_repeated() -> None:
    assert failure({"error": {"message": "Incorrect API key provided: sk-ab***yz"}}, status=401).said == ""


@pytest.mark.parametrize(
    "answer",
    [None, 3, "text", [], {}, {"choices": None}, {"choices": []}, {"choices": {}}, {"choices": [None]},
     {"choices": [{}]}, {"choices": [{"message": None}]}, {"choices": [{"message": "x"}]},
     completion(3), completion([3]), completion([{"text": 3}]), completion("half", finish_reason="error")],
)  # fmt: skip
def test_json_that_is_no_completion_is_tried_again_and_may_have_cost_something(answer: Any) -> None:
    found = failure(answer)
    assert found.kind == "retry"
    assert found.may_be_billed


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_body_breaks_it(status: int, content: bytes) -> None:
    assert isinstance(read_answer(status, content, question(top_logprobs=1), PRICED), Reply | Failure)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "error", "code", "logprobs", "token", "logprob",
                         "top_logprobs", "usage", "cost", "prompt_tokens", "completion_tokens", "finish_reason",
                         "text", "metadata"]),
        inner, max_size=6,
    ),
    max_leaves=30,
)  # fmt: skip


@given(st.sampled_from([200, 400, 403, 429, 500]), _json)
def test_no_json_breaks_it(status: int, answer: Any) -> None:
    found = read(answer, status=status, request=question(top_logprobs=1), settings=PRICED)
    assert isinstance(found, Reply | Failure)
    json.dumps(found.text if isinstance(found, Reply) else found.said, ensure_ascii=False).encode()


def test_a_long_page_of_html_becomes_one_short_line() -> None:
    found = read_answer(502, b"<html>\n\r\n\x1b[31m" + b"x" * 100_000, question(), SETTINGS)
    assert isinstance(found, Failure)
    assert found.said.startswith("<html> [31mxxx")
    assert len(found.said) < 310


def test_a_dialect_is_learnt_from_a_refusal_and_only_once() -> None:
    asks = question(top_logprobs=3)
    no_logprobs = Failure("request", "refused", "This model does not support `logprobs`.")
    assert adapted(Dialect(), no_logprobs, asks) == Dialect(logprobs=False)
    assert adapted(Dialect(logprobs=False), no_logprobs, asks) is None
    assert adapted(Dialect(), no_logprobs, question()) is None
    other = Failure("request", "refused", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    assert adapted(Dialect(), other, asks) == Dialect(length="max_completion_tokens")
    assert adapted(Dialect(length="max_completion_tokens"), other, asks) is None
    assert adapted(Dialect(), Failure("retry", "failed", "logprobs"), asks) is None
