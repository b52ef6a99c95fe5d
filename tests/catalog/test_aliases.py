"""One name a model, and never the wrong one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.catalog import Aliases, Catalog, api_only
from raylens.catalog.aliases import ALONE, FAMILIES, is_folder
from raylens.errors import InputError

BUILT_IN = Aliases()
CANONICAL = [name for family in FAMILIES for name in family] + list(ALONE)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("gpt2-small", "openai-community/gpt2"),
        ("gpt2", "openai-community/gpt2"),
        ("llama-3-8b-it", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("llama3-8b-it", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("gemma-3-4b", "google/gemma-3-4b-pt"),
        ("google/gemma-3-270m-pt", "google/gemma-3-270m-pt"),  # no such repository: not silently another one
        ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("GOOGLE/Gemma-2-2B", "google/gemma-2-2b"),
        (" gemma-2-2b ", "google/gemma-2-2b"),
        ("pico", "raylens/pico"),
        ("someone/their-model", "someone/their-model"),
        ("someone/gemma-2-2b", "someone/gemma-2-2b"),
    ],
)
def test_known_names(name: str, model: str) -> None:
    assert Aliases().canonical(name) == model


@given(st.sampled_from(CANONICAL), st.data())
def test_canonical_names_stand_for_themselves_however_they_are_written(model: str, data: st.DataObject) -> None:
    flips = data.draw(st.lists(st.booleans(), min_size=len(model), max_size=len(model)))
    written = "".join(c.upper() if up else c.lower() for c, up in zip(model, flips, strict=True))
    assert BUILT_IN.canonical(written) == model


@given(st.text(max_size=40))
def test_canonical_is_idempotent(name: str) -> None:
    assert BUILT_IN.canonical(BUILT_IN.canonical(name)) == BUILT_IN.canonical(name)


def test_every_alias_leads_back() -> None:
    aliases = Aliases()
    for model in CANONICAL:
        assert {aliases.canonical(alias) for alias in aliases.of(model)} <= {model}


def test_base_and_instruct_are_two_models_of_one_family() -> None:  # A2.15
    aliases = Aliases()
    assert aliases.canonical("gemma-2-2b-it") != aliases.canonical("gemma-2-2b")
    assert aliases.family("gemma-2-2b-it") == ("google/gemma-2-2b",)
    assert "meta-llama/Meta-Llama-3-8B-Instruct" in aliases.family("meta-llama/Llama-3.1-8B")
    assert aliases.family("nobody/knows") == ()
    members = [name for family in FAMILIES for name in family]
    assert len(members) == len(set(members)), "a model belongs to one family"


def test_a_user_may_name_a_folder_and_override_what_is_built_in() -> None:
    aliases = Aliases({"/models/gemma/": "gemma-2-2b", "gpt2": "me/my-gpt2"})
    assert aliases.canonical("/models/gemma") == "google/gemma-2-2b"
    assert aliases.canonical("gpt2") == "me/my-gpt2"
    assert aliases.canonical("/models/Gemma") == "/models/Gemma", "folders keep their case"


def test_an_alias_names_one_model() -> None:
    with pytest.raises(InputError, match="names two models"):
        Aliases({"mine": "gemma-2-2b", "MINE": "gpt2"})


@pytest.mark.parametrize("name", ["/m/x", "./x", "../x", "~/x", "a/b/c", "C:\\m"])
def test_folders_are_told_from_hub_ids(name: str) -> None:
    assert is_folder(name)
    assert not is_folder("google/gemma-2-2b")


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("gpt-4o-mini", "OpenAI"),
        ("openai/gpt-5.1", "OpenAI"),
        ("gpt-3.5-turbo", "OpenAI"),
        ("o3-mini", "OpenAI"),
        ("text-davinci-003", "OpenAI"),
        ("claude-sonnet-4-5", "Anthropic"),
        ("anthropic/claude-3-opus", "Anthropic"),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "Anthropic"),
        ("GEMINI-2.5-pro", "Google"),
        ("models/gemini-1.5-flash", "Google"),
        ("grok-4", "xAI"),
    ],
)
def test_models_behind_an_api_are_known(name: str, maker: str) -> None:  # A0.06
    found = api_only(name)
    assert found is not None
    assert found.maker == maker
    assert "no SAE" in found.reason
    assert "ablation" in found.hint
    assert "counterfactuals" in found.hint


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "gpt2-xl",
        "openai-community/gpt2",
        "openai/gpt-oss-20b",
        "EleutherAI/gpt-neo-125m",
        "EleutherAI/gpt-j-6b",
        "EleutherAI/gpt-neox-20b",
        "google/gemma-2-2b",
        "cerebras/Cerebras-GPT-111M",
        "opt-125m",
        "olmo-2",
        "xai-org/grok-1",
        "raylens/pico",
    ],
)
def test_open_models_are_not_taken_for_them(name: str) -> None:
    assert api_only(name) is None


def test_no_model_of_the_catalogue_is_taken_for_one() -> None:
    assert [model for model in Catalog.load().models if api_only(model)] == []
