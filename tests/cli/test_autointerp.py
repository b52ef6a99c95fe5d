"""The one-command form read from its command line: every flag and default, presets, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylens.errors import InputError, UnknownNameError
from raylens.llm.settings import EndpointSettings, OfflineSettings
from raylens_app.cli.autointerp import COMMAND, in_full
from raylens_app.cli.autointerp.chat import chat_of, scorers_of, what_is_left
from raylens_app.cli.autointerp.command import without_token
from raylens_app.cli.autointerp.parser import Flag, flags, help_text, parse
from raylens_app.cli.autointerp.plan import default_name, plan, text_source
from raylens_app.cli.main import command_names, main

AWQ = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
STATED = {
    "model": "meta-llama/Meta-Llama-3-8B",
    "sparse_model": "EleutherAI/sae-llama-3-8b-32x",
    "hookpoints": (),
    "max_latents": None,
    "explainer_model": AWQ,
    "explainer_model_max_len": 5120,
    "explainer_provider": "offline",
    "explainer": "default",
    "scorers": ("fuzz", "detection"),
    "num_examples_per_scorer_prompt": 5,
    "dataset_repo": "EleutherAI/SmolLM2-135M-10B",
    "dataset_split": "train[:1%]",
    "dataset_name": "",
    "dataset_column": "text",
    "n_tokens": 10_000_000,
    "batch_size": 32,
    "cache_ctx_len": 256,
    "n_splits": 5,
    "min_examples": 200,
    "n_examples_train": 40,
    "n_examples_test": 50,
    "n_non_activating": 50,
    "example_ctx_len": 32,
    "center_examples": True,
    "non_activating_source": "random",
    "neighbours_type": "co-occurrence",
    "pipeline_num_proc": 120,
    "num_gpus": 8,
    "seed": 22,
    "verbose": True,
    "filter_bos": False,
    "log_probs": False,
    "load_in_8bit": False,
    "hf_token": None,
    "overwrite": (),
    "name": None,
}
"""A1.04: names and defaults."""
OTHER: dict[str, tuple[list[str], Any]] = {
    "hookpoints": (["layers.3", "layers.5"], ("layers.3", "layers.5")),
    "explainer_provider": (["openai"], "openai"),
    "explainer": (["cot"], "cot"),
    "scorers": (["detection", "recall", "fuzz", "simulation"], ("detection", "recall", "fuzz", "simulation")),
    "non_activating_source": (["FAISS"], "faiss"),
    "neighbours_type": (["decoder"], "decoder"),
    "num_examples_per_scorer_prompt": (["7"], 7),
    "overwrite": (["cache", "scores"], ("cache", "scores")),
}
"""Values to give where the kind of flag does not say one."""


def another(flag: Flag) -> tuple[list[str], Any]:
    """Words for a value that is not the default, and the value."""
    if flag.field in OTHER:
        return OTHER[flag.field]
    if flag.kind is bool:
        return [str(not flag.default)], not flag.default
    if flag.kind is int:
        return ["1_234"], 1234
    return ["something"], "something"


@pytest.mark.parametrize("name", STATED)
def test_a_flag_has_its_stated_name_and_default_and_takes_another(name: str) -> None:  # A1.04
    flag = next(one for one in flags() if one.field == name)
    assert flag.options[0] == f"--{name}"
    assert getattr(parse([]).config, name) == STATED[name]
    words, value = another(flag)
    assert value != STATED[name]
    for option in (f"--{name}", f"--{name.replace('_', '-')}"):
        parsed = parse([option, *words])
        assert getattr(parsed.config, name) == value
        assert parsed.given == {name}
        rest = {field: default for field, default in STATED.items() if field != name}
        assert {field: getattr(parsed.config, field) for field in rest} == rest, "a flag sets itself alone"
    if not flag.several:
        assert getattr(parse([f"--{name}={words[0]}"]).config, name) == value


def test_the_help_lists_every_flag_with_its_default() -> None:
    text = " ".join(help_text().split())
    for flag in flags():
        assert all(option in text for option in flag.options)
    for shown in ("default: 10000000", "default: fuzz detection", "default: train[:1%]", f"default: {AWQ}", "[]"):
        assert shown in text


def test_model_and_sae_may_be_positional_or_named() -> None:  # A1.03
    assert parse(["a/b", "c/d"]).config == parse(["--model", "a/b", "--sparse_model", "c/d"]).config
    assert parse(["a/b", "--sparse-model=c/d"]).config.sparse_model == "c/d"
    with pytest.raises(InputError, match="the model is named twice: a/b and --model x/y"):
        parse(["a/b", "c/d", "--model", "x/y"])


def test_booleans_and_lists_as_the_originals_write_them() -> None:
    config = parse(["--filter_bos", "--center_examples", "False", "--verbose", "false", "--hookpoints", "[]"]).config
    assert (config.filter_bos, config.center_examples, config.verbose, config.hookpoints) == (True, False, False, ())
    assert parse(["--max_latents", "None", "--hf_token", "none"]).config.max_latents is None
    assert parse(["--seed", "-1"]).config.seed == -1


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("dev", {"n_tokens": 50_000, "max_latents": 20, "scorers": ("detection",), "filter_bos": True}),
        ("production", {"n_tokens": 2_000_000, "max_latents": 200, "scorers": ("detection", "recall")}),
        (
            "research",
            {
                "n_tokens": 10_000_000,
                "max_latents": 1000,
                "scorers": ("detection", "recall", "fuzz", "simulation"),
            },
        ),
    ],
)
def test_a_preset_sets_its_flags_and_gives_way_to_given_ones(preset: str, expected: dict[str, Any]) -> None:  # A1.12
    config = parse(["--preset", preset]).config
    assert config.model_dump(include=set(expected)) == expected
    assert config == parse([]).config.model_copy(update={"preset": preset, **expected})
    config = parse(["--n_tokens", "70000", "--preset", preset, "--scorers", "embedding"]).config
    assert (config.n_tokens, config.scorers, config.max_latents) == (70_000, ("embedding",), expected["max_latents"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--explaine", "default"], "unknown flag '--explaine'.*--explainer"),
        (["--n_tokens", "many"], "--n_tokens takes a whole number, and 'many' is none"),
        (["--n_tokens", "0"], "--n_tokens is not valid: input should be greater than or equal to 1"),
        (["--n_tokens"], "--n_tokens: expected one argument"),
        (["--budget_usd", "nan"], "--budget_usd is not valid"),
        (["--filter_bos", "maybe"], "--filter_bos takes True or False"),
        (["--scorers"], "--scorers is not valid"),
        (["--scorers", "fuzzy"], "unknown value of --scorers 'fuzzy'.*fuzz"),
        (["--explainer_provider", "vllm"], "unknown value of --explainer_provider 'vllm'.*openai"),
        (["--preset", "huge"], "unknown value of --preset"),
        (["a/b", "c/d", "e"], "nothing is known to do with 'e'"),
        (["--overwrite", "everything"], "unknown value of --overwrite"),
        (["--example_ctx_len", "2"], "--example_ctx_len is not valid"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    words: list[str], says: str, raylens: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        parse(words)
    done = raylens(tmp_path / "none", COMMAND, *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


KNOWN = command_names()


@pytest.mark.parametrize(
    "words",
    [
        "raylens/pico raylens-pico-res --filter_bos",
        "--model raylens/pico",
        "--n-tokens 5",
        "--preset=dev",
        "gpt2 gpt2-small-res-jb",
        "--workspace w raylens/pico",
        "--workspace=w --verbose raylens/pico raylens-pico-res",
    ],
)
def test_a_model_in_place_of_a_command_means_the_one_command_form(words: str) -> None:  # A1.03
    full = in_full(words.split(), KNOWN)
    assert [word for word in full if word != COMMAND] == words.split()
    before = full[: full.index(COMMAND)]
    assert before == words.split()[: len(before)]
    assert all(word.startswith(("--workspace", "--verbose")) or word == "w" for word in before)


@pytest.mark.parametrize(
    "words",
    ["", "--help", "-h", "--version", "features --sort interesting", "--workspace w cache --model raylens/pico",
     "featurs", "featurs f_3_17", "catalog --model gpt2", "autointerp raylens/pico", "--workspace", "--unknown x",
     "--json", "--verbose"],
)  # fmt: skip
def test_a_command_stays_a_command(words: str) -> None:
    assert in_full(words.split(), KNOWN) == words.split()


def test_a_folder_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_full(["mymodel", "mysae"], KNOWN) == ["mymodel", "mysae"]
    (tmp_path / "mymodel").mkdir()
    assert in_full(["mymodel", "mysae"], KNOWN) == [COMMAND, "mymodel", "mysae"]


def test_python_m_raylens_is_both(tmp_path: Path, environment: dict[str, str]) -> None:  # A1.03
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raylens", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    short = run("raylens/pico", "raylens-pico-res", "--n_token", "5")
    assert short.returncode == 2
    assert "unknown flag '--n_token'" in short.stderr
    assert run("runs").stderr.count("error: ") == 1
    assert not list(tmp_path.glob("raylens-data"))


def test_help_is_listed_and_shown(raylens: Callable[..., Any], tmp_path: Path) -> None:
    assert COMMAND in raylens(tmp_path, "--help").out
    assert raylens(tmp_path, COMMAND, "--help").out == help_text()


def test_the_offline_explainer_is_the_default() -> None:  # A1.11
    chat = chat_of(parse([]))
    assert isinstance(chat, OfflineSettings)
    assert (chat.model, chat.max_model_len, chat.num_gpus, chat.quantization) == (AWQ, 5120, 8, None)
    eight = chat_of(parse(["--explainer_model", "some/model", "--load_in_8bit"]))
    assert isinstance(eight, OfflineSettings)
    assert eight.quantization == "bnb-8bit"
    four = chat_of(parse(["--explainer_model", "m", "--load_in_8bit", "--explainer_quantization", "bnb-4bit"]))
    assert isinstance(four, OfflineSettings)
    assert four.quantization == "bnb-4bit"
    awq = chat_of(parse(["--load_in_8bit"]))
    assert isinstance(awq, OfflineSettings)
    assert awq.quantization is None, "what is quantised already is not quantised again"


ENDPOINT = ["--explainer_provider", "openai", "--explainer_model", "m", "--base_url", "http://localhost:8000/v1"]


def test_an_endpoint_and_its_limits() -> None:  # A1.11
    prices = ["--prompt_price", "1", "--answer_price", "2"]
    limits = ["--budget_usd", "3", "--max_calls", "4", "--requests_per_minute", "5", "--max_concurrency", "6"]
    chat = chat_of(parse([*ENDPOINT, *prices, *limits, "--timeout", "7", "--explainer_model_max_len", "1000"]))
    assert isinstance(chat, EndpointSettings)
    assert (chat.base_url, chat.model, chat.max_model_len) == ("http://localhost:8000/v1", "m", 1000)
    assert (chat.budget_usd, chat.max_calls, chat.requests_per_minute, chat.max_concurrency) == (3, 4, 5, 6)
    assert chat.timeout_s == 7
    assert chat.prices
    assert chat.prices.cost_usd(1_000_000, 1_000_000) == 3
    left = what_is_left(chat, {"usd": 1.0, "lost_usd": 0.5, "calls": 3})
    assert isinstance(left, EndpointSettings)
    assert (left.budget_usd, left.max_calls) == (1.5, 1)
    router = chat_of(parse(["--explainer_provider", "openrouter", "--explainer_model", "m"]))
    assert isinstance(router, EndpointSettings)
    assert router.base_url == "https://openrouter.ai/api/v1"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--explainer", "lexical", "--scorers", "fuzz"], "the scorer fuzz asks a language model"),
        (["--explainer", "lexical", "--preset", "dev"], "the scorer detection asks a language model"),
        (["--base_url", "http://localhost/v1"], "--base_url is about an endpoint"),
        (["--budget_usd", "1"], "--budget_usd is about an endpoint"),
        (["--explainer_provider", "openai"], "needs to know which of its models"),
        (["--explainer_provider", "openrouter", "--explainer_model", "m", "--base_url", "http://x/v1"], "has its own"),
        ([*ENDPOINT, "--explainer_quantization", "bnb-8bit"], "about a model that runs here"),
        ([*ENDPOINT, "--budget_usd", "1"], "cannot be kept without the prices"),
        ([*ENDPOINT, "--prompt_price", "1"], "--prompt_price is half"),
        ([*ENDPOINT, "--base_url", "http://u:secret@x/v1"], "base_url is not valid"),
    ],
)
def test_flags_that_do_not_go_together(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        chat_of(parse(words))
    assert "secret" not in str(caught.value)


def test_lexical_needs_no_model() -> None:
    parsed = parse(["--explainer", "lexical"])
    assert chat_of(parsed) is None
    assert scorers_of(parsed) == ("rule", "embedding")
    assert chat_of(parse(["--explainer", "lexical", "--scorers", "embedding"])) is None
    judged = parse(["--explainer", "lexical", "--scorers", "detection", "rule", "--explainer_model", "m"])
    assert chat_of(judged) is not None
    assert scorers_of(judged) == ("detection", "rule")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "hf:EleutherAI/SmolLM2-135M-10B::train[:1%]"),
        (["--model", "raylens/pico"], "stdlib"),
        (["--model", "pico"], "stdlib"),
        (["--model", "raylens/pico", "--dataset_repo", "a/b"], "hf:a/b::train[:1%]"),
        (["--dataset_repo", "wikitext", "--dataset_name", "v1", "--dataset_split", "test"], "hf:wikitext:v1:test"),
        (["--dataset_repo", "stdlib:held_out"], "stdlib:held_out"),
        (["--dataset_repo", "texts/*.jsonl"], "texts/*.jsonl"),
        (["--dataset_repo", "mine.csv", "--dataset_column", "body"], "mine.csv"),
    ],
)
def test_data_sets_of_the_hub_and_local_files(words: list[str], text: str) -> None:  # A1.13
    assert text_source(parse(words)) == text


def test_pico_has_its_own_saes() -> None:
    assert parse(["raylens/pico"]).config.sparse_model == "raylens-pico-res"
    assert parse(["raylens/pico", "a/b"]).config.sparse_model == "a/b"


def test_a_split_is_of_the_hub_alone() -> None:
    with pytest.raises(InputError, match="--dataset_split is about a data set of the hub"):
        text_source(parse(["--dataset_repo", "mine.csv", "--dataset_split", "train"]))


def test_the_name_comes_from_model_and_sae() -> None:
    assert default_name("meta-llama/Meta-Llama-3-8B", "/data/my saes/") == "Meta-Llama-3-8B--my-saes"


def test_a_token_is_taken_off_the_command_line() -> None:
    words = ["-m", "raylens", "a/b", "--hf_token", "hf_secret", "--seed", "1"]
    assert without_token(words) == ["-m", "raylens", "a/b", "--seed", "1"]
    assert without_token(["x", "--hf-token=hf_secret", "y"]) == ["x", "y"]


def test_a_token_reaches_the_environment_and_nothing_else(tmp_path: Path, environment: dict[str, str]) -> None:
    """The process is begun again without the token among its words, where Ray and ps would read them."""
    spy = (
        "import os, sys, raylens_app.cli.autointerp.run as r\n"
        "def run(parsed, url):\n"
        "    print(os.environ['HF_TOKEN'], sys.orig_argv, open('/proc/self/cmdline').read() if os.path.exists('/proc') "
        "else '')\n"
        "    raise SystemExit(0)\n"
        "r.run = run\n"
        "from raylens_app.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    (tmp_path / "spy.py").write_text(spy)
    command = [sys.executable, "spy.py", "raylens/pico", "x/y", "--hf_token", "hf_secret0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    token, _, rest = done.stdout.partition(" ")
    assert token == "hf_secret0", done.stderr
    assert "x/y" in rest
    assert "hf_secret0" not in rest


def test_the_explainer_is_refused_before_any_work(raylens: Callable[..., Any], tmp_path: Path) -> None:
    """The original's command as it is, only ids replaced: without a hub and GPUs there is no 70B model to ask."""
    words = "--n_tokens 50000 --max_latents 20 --hookpoints layers.3 --scorers detection --filter_bos --name dev"
    results = ["--results_dir", str(tmp_path / "results")]
    done = raylens(tmp_path / "workspace", "raylens/pico", "raylens-pico-res", *words.split(), *results)
    assert done.code == 2
    assert "AWQ" in done.err
    assert "--explainer_model" in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("workspace*"))
    assert not list(tmp_path.glob("results*"))


def test_a_flag_reaches_the_part_that_it_is_about(tmp_path: Path) -> None:
    words = (
        "raylens/pico raylens-pico-res --explainer lexical --hookpoints layers.3 resid_post.5 --n_tokens 9 "
        "--cache_ctx_len 64 --batch_size 3 --filter_bos --seed 5 --num_gpus 0 --min_examples 6 --n_examples_train 7 "
        "--n_examples_test 8 --n_non_activating 9 --example_ctx_len 16 --center_examples False "
        "--non_activating_source neighbours --neighbours_type decoder --max_latents 10 --feature_num 4 2 "
        "--num_examples_per_scorer_prompt 3 --log_probs --sampling top --n_quantiles 4 --dataset_column body "
        "--load_in_8bit --dtype float32 --explainer_model_max_len 999"
    )
    job = plan(parse([*words.split(), "--results_dir", str(tmp_path)]), str(tmp_path / "w"))
    cache, explain, score = job.cache, job.explain, job.score
    assert cache.saes == ("raylens-pico-res/layer_3", "raylens-pico-res/layer_5")
    assert [word for word, _ in job.saes] == ["layers.3", "resid_post.5"]
    assert (cache.model, cache.n_tokens, cache.ctx_len, cache.batch_size) == ("raylens/pico", 9, 64, 3)
    assert (cache.filter_bos, cache.seed, cache.num_gpus, cache.column) == (True, 5, 0, "body")
    assert (cache.quantization, cache.dtype, cache.texts) == ("bnb-8bit", "float32", ("stdlib",))
    for examples in (explain, score):
        assert (examples.min_examples, examples.n_examples_train, examples.n_examples_test) == (6, 7, 8)
        assert (examples.n_non_activating, examples.example_ctx_len, examples.center_examples) == (9, 16, False)
        assert (examples.non_activating_source, examples.neighbours_type) == ("neighbours", "decoder")
        assert (examples.sampling, examples.n_quantiles, examples.seed) == ("top", 4, 5)
    assert (explain.explainer, explain.features, explain.max_latents) == ("lexical", (4, 2), 10)
    assert explain.max_model_len == 999
    assert (score.num_examples_per_scorer_prompt, score.log_probs) == (3, True)
    assert not list(tmp_path.iterdir()), "planning writes nothing"


def test_an_unknown_hook_point_names_those_there_are(tmp_path: Path) -> None:
    words = ["raylens/pico", "raylens-pico-res", "--explainer", "lexical", "--hookpoints", "layers.16"]
    with pytest.raises(UnknownNameError, match=r"'layers.16'.*there are layer_1"):
        plan(parse(words), str(tmp_path))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--feature_num", "999999"], "999999"),
        (["--prompt_dir", "nowhere"], "nowhere is not a folder of prompts"),
        (["--name", "a/b"], "'a/b' cannot name a folder of results"),
        (["--cache_ctx_len", "5000"], "longer than the 1024"),
        (["--example_ctx_len", "300"], "an excerpt of 300 tokens does not fit in a window of 256"),
        (["--dataset_repo", "nowhere/*.txt"], "nowhere"),
        (["--non_activating_source", "neighbours", "--n_examples_train", "20000"], "--n_examples_train is not valid"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(words: list[str], says: str, tmp_path: Path) -> None:
    given = ["raylens/pico", "--explainer", "lexical", "--results_dir", str(tmp_path / "results")]
    with pytest.raises(InputError, match=re.escape(says)):
        plan(parse([*given, *words]), str(tmp_path / "workspace"))
    assert not list(tmp_path.iterdir())


def test_main_takes_the_short_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["raylens/pico", "raylens-pico-res", "--oops"]) == 2
    assert "unknown flag '--oops'" in capsys.readouterr().err
