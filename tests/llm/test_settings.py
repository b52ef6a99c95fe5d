"""What settings take, what they refuse, and that a key is never among them."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from raylens.errors import InputError
from raylens.llm.settings import EndpointSettings, Key, Prices

SECRET = "sk-test-0123456789abcdefghij"


def settings(**more: object) -> EndpointSettings:
    return EndpointSettings.of({"model": "m", **more})


def test_each_provider_has_its_address_and_its_variable() -> None:  # A1.11
    assert settings(provider="openrouter").base_url == "https://openrouter.ai/api/v1"
    assert settings(provider="openrouter").key_variable == "OPENROUTER_API_KEY"
    assert settings().base_url == "https://api.openai.com/v1"
    assert settings().key_variable == "OPENAI_API_KEY"
    assert settings(base_url=None).base_url == settings(base_url="").base_url == "https://api.openai.com/v1"
    assert EndpointSettings(model="m").max_concurrency == 32


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:11434/v1/", "http://localhost:11434/v1"),
        ("https://llm.example.com/v1/chat/completions", "https://llm.example.com/v1"),
    ],
)
def test_an_address_is_kept_without_its_tail(given: str, kept: str) -> None:
    assert settings(base_url=given).base_url == kept


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://host/v1", "https://", "https://u:hunter2pw@host/v1", "https://host/v1?key=hunter2pw",
     "https://host:port/v1", "https://host:0/v1", "https://host/v 1", "https://host/v1#hunter2pw", "http://[::1/v1"],
)  # fmt: skip
def test_an_address_that_is_none_or_holds_a_secret_is_refused_unquoted(url: str) -> None:
    with pytest.raises(InputError, match="base_url is not valid") as refused:
        settings(base_url=url)
    assert "hunter2pw" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:1234/v1", True),
        ("http://127.0.0.1/v1", True),
        ("http://[::1]:80/v1", True),
        ("http://10.1.2.3:8000/v1", True),
        ("http://192.168.0.7/v1", True),
        ("http://vllm:8000/v1", True),
        ("http://node7.local/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://8.8.8.8/v1", False),
        ("https://localhost.example.com/v1", False),
        ("https://local/v1", True),
        ("https://127.0.0.1.example.com/v1", False),
    ],
)
def test_what_is_local_shows_in_the_name(url: str, local: bool) -> None:
    assert settings(base_url=url).is_local is local


def test_a_budget_without_prices_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(InputError, match="cannot be kept without the prices"):
        settings(budget_usd=1.0)
    with pytest.raises(InputError):
        EndpointSettings(model="m", budget_usd=1.0, base_url="http://localhost/v1")
    prices = {"prompt_usd_per_million": 1, "completion_usd_per_million": 2}
    assert settings(budget_usd=1.0, prices=prices).budget_usd == 1.0


@pytest.mark.parametrize(
    "values",
    [{"timeout_s": 0}, {"max_attempts": 0}, {"max_concurrency": 0}, {"requests_per_minute": 0}, {"model": ""},
     {"budget_usd": -1}, {"budget_usd": float("nan")}, {"max_calls": -1}, {"provider": "offline"}, {"temperature": 1}],
)  # fmt: skip
def test_values_out_of_range_and_unknown_names_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match="is not valid"):
        settings(**values)


@pytest.mark.parametrize("name", ["api_key", "key", "openai_api_key", "authorization", "token"])
def test_a_key_among_the_settings_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(InputError, match="OPENROUTER_API_KEY") as refused:
        settings(provider="openrouter", **{name: SECRET})
    with pytest.raises(InputError):
        EndpointSettings.model_validate({"model": "m", name: SECRET})
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value)


def test_no_refusal_repeats_text_that_was_given() -> None:
    for values in ({"unknown": SECRET}, {"timeout_s": SECRET}, {"provider": SECRET}):
        with pytest.raises(InputError) as refused:
            settings(**values)
        assert SECRET not in str(refused.value)
        with pytest.raises(ValidationError) as invalid:
            EndpointSettings.model_validate({"model": "m", **values})
        assert SECRET not in str(invalid.value)


def test_settings_come_back_from_json_and_pickle() -> None:
    prices = Prices(prompt_usd_per_million=0.5, completion_usd_per_million=1.5)
    before = EndpointSettings(base_url="http://localhost/v1", model="m", prices=prices, budget_usd=3, max_calls=7)
    assert EndpointSettings.model_validate_json(before.model_dump_json()) == before
    assert pickle.loads(pickle.dumps(before)) == before
    assert prices.cost_usd(2_000_000, 100_000) == pytest.approx(1.15)


def test_a_key_comes_from_the_environment_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        Key.from_environment(settings())
    assert not Key.from_environment(settings(base_url="http://localhost:8000/v1"))

    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    for url in ("https://llm.example.com/v1", "http://localhost:8000/v1", "http://10.0.0.1/v1"):
        assert Key.from_environment(settings(base_url=url)).headers() == {"Authorization": f"Bearer {SECRET}"}
    # Anyone on the way could read it.
    assert Key.from_environment(settings(base_url="http://llm.example.com/v1")).headers() == {}
    with pytest.raises(InputError, match="OPENROUTER_API_KEY is not set"):
        Key.from_environment(settings(provider="openrouter"))


@pytest.mark.parametrize("text", ["Bearer sk-hunter2pw", "sk-hunter2pw\nsk-2", "sk-hunter2pw–x", "sk\x00hunter2pw"])
def test_what_cannot_be_a_key_is_refused_unquoted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "\x00" in text:
        monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": text})
    else:
        monkeypatch.setenv("OPENAI_API_KEY", text)
    with pytest.raises(InputError, match="OPENAI_API_KEY holds no key") as refused:
        Key.from_environment(settings())
    assert "hunter2pw" not in str(refused.value)


def test_a_key_shows_and_pickles_nothing() -> None:
    key = Key(SECRET)
    assert SECRET not in f"{key} {key!r}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    assert key.hidden(f"you sent {SECRET}!") == "you sent ***!"
    assert Key("EMPTY").hidden("an EMPTY line") == "an EMPTY line"
