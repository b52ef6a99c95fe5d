"""Which language model the options name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylens.errors import InputError
from raylens.llm.settings import EndpointSettings, OfflineSettings
from raylens.llm.spend import Usage
from raylens_app.cli.chat_options import chat_settings, spending

URL = "http://127.0.0.1:8000/v1"


def settings(model: str | None = "m", **given: Any) -> Any:
    return chat_settings(
        model, "--judge-model", provider=given.pop("provider", None), base_url=given.pop("base_url", None), **given
    )


def test_nobody_is_asked_unless_named() -> None:
    assert settings(None, max_concurrency=None) is None


def test_an_address_means_an_endpoint_and_a_folder_a_model_of_ones_own(tmp_path: Path) -> None:
    endpoint = settings(base_url=URL, max_concurrency=3, timeout_s=5.0, max_calls=0, budget_usd=None)
    assert isinstance(endpoint, EndpointSettings)
    assert (endpoint.provider, endpoint.max_concurrency, endpoint.timeout_s) == ("openai", 3, 5.0)
    assert endpoint.max_calls == 0, "which is a limit and not none"
    for quantization in ("bnb-8bit", "bnb-4bit"):
        own = settings(str(tmp_path), quantization=quantization)
        assert isinstance(own, OfflineSettings)
        assert own.quantization == quantization
    assert settings("raylens/pico").provider == "offline"
    assert settings(provider="openrouter").base_url.startswith("https://openrouter")


def test_one_price_is_enough_to_keep_a_budget() -> None:
    found = settings(base_url=URL, budget_usd=2.0, prompt_price=1.0)
    assert (found.prices.prompt_usd_per_million, found.prices.completion_usd_per_million) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": None, "timeout_s": 3.0}, "--timeout is about a language model"),
        ({"model": None, "base_url": URL}, "--base-url is about a language model"),
        ({}, "it is not said where m runs"),
        ({"provider": "offline", "base_url": URL}, "--base-url is for endpoints"),
        ({"provider": "offline", "requests_per_minute": 3.0}, "--requests-per-minute is for endpoints"),
        ({"base_url": URL, "quantization": "bnb-8bit"}, "--quantization is for offline models"),
        ({"base_url": URL, "budget_usd": 1.0}, "without the prices"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        settings(**given)
    assert says in caught.value.message


def test_spending_says_what_was_asked() -> None:
    assert spending(None) == ""
    assert (
        spending(Usage(calls=1200, cached=3, retries=2, usd=1.5)) == "1,200 calls, 3 from the cache, 2 retries, $1.50"
    )


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"timeout_s": -1.0}, "--timeout"),
        ({"requests_per_minute": 0.0}, "--requests-per-minute"),
        ({"prompt_price": -2.0}, "--prompt-price"),
        ({"budget_usd": -1.0, "answer_price": 1.0}, "--budget-usd"),
        ({"max_concurrency": 5000}, "--max-concurrency"),
    ],
)
def test_a_wrong_value_is_said_of_its_option(given: dict[str, float], flag: str) -> None:
    with pytest.raises(InputError, match=rf"^{flag} is not valid: ") as refused:
        chat_settings("m", "--judge-model", provider=None, base_url="http://127.0.0.1:1/v1", **given)
    assert refused.value.hint == f"--help says what {flag} takes."
    with pytest.raises(InputError, match=r"^--max-model-len is not valid: "):
        chat_settings("raylens/pico", "--judge-model", provider="offline", base_url=None, max_model_len=0)
