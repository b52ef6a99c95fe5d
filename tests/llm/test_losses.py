"""Token losses over HTTP: which rows are the text's, which endpoints give none, and the same limits as for chats."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_llm import Answer, Asked, FakeLlm
from llm_clients import FakeClock, question, settings_for
from raylens.chat import Reply
from raylens.llm.client import ChatClient
from raylens.llm.echo import nats, read_losses, token_places
from raylens.llm.errors import BudgetReached, ContextTooLongError, EndpointRefusedError, RequestRefusedError
from raylens.llm.protocol import Failure
from raylens.llm.replies import ReplyCache, losses_key, request_key
from raylens.llm.settings import EndpointSettings
from raylens.llm.spend import Usage
from raylens.store.files import Files

SETTINGS = EndpointSettings(base_url="http://localhost/v1", model="m")


def body(tokens: Sequence[str], logprobs: Sequence[float | None] | None = None, **more: Any) -> bytes:
    """An answer as vLLM sends it; by default the n-th token has log-probability -n."""
    values = logprobs if logprobs is not None else [None, *(-float(n) for n in range(1, len(tokens)))]
    rows = {"tokens": list(tokens), "token_logprobs": list(values), "text_offset": [-1] * len(tokens)}
    choice = {"index": 0, "text": "".join(tokens), "logprobs": rows, "finish_reason": "length", **more}
    usage = {"prompt_tokens": len(tokens) - 1, "completion_tokens": 1}
    return json.dumps({"object": "text_completion", "choices": [choice], "usage": usage}).encode()


def echo(asked: Asked) -> Answer:
    """A server whose tokens are words with the space before them, each as improbable as it is long."""
    tokens = re.findall(r" ?[^ \n]+|\n| ", asked.body["prompt"])
    return Answer(raw=body([*tokens, " more"], [None, *(-float(len(one)) for one in tokens[1:]), -9.0]))


def read(content: bytes, context: str, text: str, status: int = 200) -> Reply | Failure:
    return read_losses(status, content, context, text, SETTINGS)


@pytest.mark.parametrize(
    ("context", "text", "tokens", "losses"),
    [
        # vLLM 0.16: the first token of all has null, and one more is generated.
        ("The step", " of boiling", ["The", " step", " of", " boil", "ing", " is"], [2, 3, 4]),
        ("about\n", "x = 1", ["<|begin_of_text|>", "about", "\n", "x", " =", " ", "1", "\n"], [3, 4, 5, 6]),
        ("a b\n", " c", ["<s>", "▁a", "▁b", "<0x0A>", "▁c", "▁d"], [4]),
        ("a b", " c", ["a", "b", "c", "d"], [2]),  # vLLM 0.4 with Llama 2: spaces are lost
        ("a", " b c", ["Ġa", "Ġb", "Ġc", "Ġd"], [1, 2]),
        ("ab", "cd", ["a", "bc", "d", "e"], [2]),  # across the border: not the text's alone
        ("a", "日本x", ["a", "日", "\ufffd", "\ufffd", "\ufffd", "x", "!"], [1, 2, 3, 4, 5]),
        ("日", "x", ["bytes:\\xe6", "bytes:\\x97", "bytes:\\xa5", "x", "!"], [3]),
        ("a", " 日", ["a", " \ufffd", "\ufffd", "!"], [1, 2]),
        ("a", "b\ufffdc", ["a", "b", "\ufffd", "c", "!"], [1, 2, 3]),
        ("", "a b", ["a", " b", "!"], [math.nan, 1]),
        ("a", "b", ["a", "b"], [1]),  # nothing was generated
    ],
)
def test_the_losses_are_of_the_texts_own_tokens(
    context: str, text: str, tokens: list[str], losses: list[float]
) -> None:
    found = read(body(tokens), context, text)
    assert isinstance(found, Reply)
    np.testing.assert_array_equal(nats(found), np.array(losses, np.float64))
    assert found.prompt_tokens == len(tokens) - 1
    assert found.text == ""
    assert {row.token for row in found.logprobs or ()} == {""}  # a corpus is not copied into a cache


_CUT = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\ufffd▁Ġ<"), min_size=1, max_size=4),
    min_size=2,
    max_size=9,
)


@given(tokens=_CUT, special=st.integers(0, 2), border=st.integers(0, 8), generated=st.booleans())
def test_any_tokens_are_found_where_they_are(tokens: list[str], special: int, border: int, generated: bool) -> None:
    prompt = "".join(tokens)
    starts = [sum(map(len, tokens[:n])) for n in range(len(tokens))]
    sent = ["<s>"] * special + tokens + [" more"] * generated
    assert token_places(sent, prompt) == [-1] * special + starts + [len(prompt)] * generated
    cut = starts[min(border, len(starts) - 1)]
    found = read(body(sent), prompt[:cut], prompt[cut:])
    assert isinstance(found, Reply)
    assert len(found.logprobs or ()) == sum(start >= cut for start in starts)


NO_LOSSES = {
    "llama.cpp refuses": (400, b'{"error": {"code": 400, "message": "Only no echo is supported"}}'),
    "OpenAI refuses": (
        400,
        b'{"error": {"message": "Setting \'echo\' and \'logprobs\' at the same time is not allowed"}}',
    ),
    "a field is unknown": (422, b'{"detail": "logprobs: extra fields not permitted"}'),
    "no such path": (404, b'{"error": "404 page not found"}'),
    "a chat model": (404, b'{"error": {"message": "This is a chat model and not supported in v1/completions"}}'),
    "echo is passed over": (200, body([" more"], [-0.5])),
    "llama.cpp passes over it": (
        200,
        b'{"choices": [{"text": " x", "logprobs": {"content": [{"token": " x", "logprob": -0.1}]}}]}',
    ),
    "no log-probabilities": (200, b'{"choices": [{"text": "a b c d", "logprobs": null}]}'),
    "only nulls": (200, body(["a", " b", " c", " d"], [None, None, None, -0.5])),
    "rows and tokens differ": (200, body(["a", " b", " c", " d"], [None, -1.0])),
}


@pytest.mark.parametrize("case", NO_LOSSES)
def test_an_endpoint_without_losses_is_one_sentence_and_no_figure(case: str, llm: FakeLlm) -> None:
    status, content = NO_LOSSES[case]
    found = read(content, "a", " b c", status)
    assert isinstance(found, Failure)
    assert found.kind == "losses"
    llm.respond = lambda asked: Answer(status=status, raw=content)
    with pytest.raises(EndpointRefusedError, match="gives no log-probabilities of the text it is sent") as caught:
        losses_of(settings_for(llm), ("a", " b c"))
    assert "provider offline" in caught.value.hint
    assert len(llm.asked) == 1


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (200, body(["another", " text", " altogether", " this"]), "request"),
        (200, body(["a", " b"]), "request"),  # cut short
        (400, b'{"message": "This model\'s maximum context length is 8 tokens"}', "too_long"),
        (401, b'{"error": "no key"}', "key"),
        (500, b'{"error": "echo"}', "retry"),
        (200, b"<html>", "retry"),
        (200, b'{"choices": []}', "retry"),
    ],
)
def test_other_failures_are_told_apart_as_for_chats(status: int, content: bytes, kind: str) -> None:
    found = read(content, "a", " b c", status)
    assert isinstance(found, Failure)
    assert found.kind == kind


@given(st.binary() | st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["choices", "logprobs", "tokens", "token_logprobs", "usage"]), inner, max_size=4),
).map(lambda value: json.dumps({"choices": [value]}).encode()), st.sampled_from([200, 400, 404, 500]))  # fmt: skip
def test_whatever_is_sent_becomes_a_reply_or_a_failure(content: bytes, status: int) -> None:
    assert isinstance(read(content, "a", " b", status), Reply | Failure)


def losses_of(
    settings: EndpointSettings, *pairs: tuple[str, str], cache: ReplyCache | None = None
) -> tuple[list[Any], Usage]:
    async def run() -> tuple[list[Any], Usage]:
        async with ChatClient(settings, cache=cache, clock=FakeClock()) as client:
            found = await asyncio.gather(*(client.losses(*pair) for pair in pairs), return_exceptions=True)
            for one in found:
                if isinstance(one, EndpointRefusedError):
                    raise one
            return [one if isinstance(one, BaseException) else one.tolist() for one in found], client.usage

    return asyncio.run(run())


def test_what_is_sent_is_an_echo_with_logprobs(llm: FakeLlm) -> None:
    llm.respond = echo
    found, usage = losses_of(settings_for(llm), ("about animals:\n", "a black cat"), ("about animals:\n", ""))
    assert found == [[1, 6, 4], []]
    assert [one.target for one in llm.asked] == ["/v1/completions"]
    assert llm.asked[0].body == {
        "model": "fake", "prompt": "about animals:\na black cat", "max_tokens": 1, "temperature": 0.0,
        "logprobs": 1, "echo": True, "stream": False,
    }  # fmt: skip
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (1, 6, 1)
    losses_of(settings_for(llm, provider="openrouter"), ("a", " b"))
    assert llm.asked[1].body["usage"] == {"include": True}


def test_losses_have_the_limits_retries_and_cache_of_chats(llm: FakeLlm, tmp_path: Path) -> None:
    llm.script.extend([Answer.error(429), Answer.error(500), Answer(drop=True)])
    llm.respond = echo
    prices = {"prompt_usd_per_million": 1, "completion_usd_per_million": 1}
    cache = ReplyCache(Files.open(tmp_path))
    pairs = [("a b\n", f"c{i % 4} d") for i in range(8)]
    first, usage = losses_of(settings_for(llm, max_concurrency=2, prices=prices), *pairs, cache=cache)
    assert first == [[2, 2]] * 8
    assert len(llm.asked) == 4 + 3  # the same pair is asked about once
    assert llm.high_water <= 2
    assert (usage.calls, usage.retries, usage.cached, usage.failed) == (7, 3, 4, 0)
    assert usage.usd == pytest.approx(4 * 6e-6)
    again, usage = losses_of(settings_for(llm, max_calls=0), *pairs, cache=cache)
    assert again == first
    assert (usage.calls, usage.cached, len(llm.asked)) == (0, 8, 7)
    assert not any(
        b"d" in json.loads(path.read_text())["content"]["reply"]["text"].encode() for path in tmp_path.rglob("*.json")
    )
    (refused,), _ = losses_of(settings_for(llm, prices=prices, budget_usd=1e-9), ("new", " text"), cache=cache)
    assert isinstance(refused, BudgetReached)


def test_one_text_that_cannot_be_read_is_no_reason_to_stop(llm: FakeLlm) -> None:
    llm.script.extend(
        [Answer(raw=body(["what", " ever"])), Answer.error(400, "the prompt is too long: context length")]
    )
    llm.respond = echo
    found, usage = losses_of(settings_for(llm, max_concurrency=1), ("a", " b c"), ("a", " b" * 99), ("a", " b c"))
    assert isinstance(found[0], RequestRefusedError)
    assert isinstance(found[1], ContextTooLongError)
    assert found[2] == [2, 2]
    assert usage.failed == 2


def test_a_loss_has_a_key_of_its_own() -> None:
    keys = {losses_key(SETTINGS, "a", "b"), losses_key(SETTINGS, "ab", ""), losses_key(SETTINGS, "", "ab")}
    keys |= {losses_key({"provider": "offline"}, "a", "b"), request_key(SETTINGS, question("ab"))}
    assert len(keys) == 5
