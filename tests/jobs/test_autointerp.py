"""The one command over a real cache, a real Ray and a chat endpoint over HTTP: the original's own sample commands."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache_runs import OTHER_SAE, SAE, Made, lend_map
from fake_llm import FakeLlm
from raylens.ids import SaeId
from raylens.store.workspace import Workspace
from raylens_app.cli.autointerp.parser import parse
from raylens_app.cli.autointerp.plan import plan
from raylens_app.cli.autointerp.run import _forget_cache
from raylens_app.cli.main import main
from reading_judge import Judge

SAMPLES = {
    "ultra-fast-dev": "meta-llama/Llama-2-7b-hf /path/to/sae --n_tokens 50000 --max_latents 20 --hookpoints layers.16 "
    "--scorers detection --filter_bos --name ultra-fast-dev",
    "fast-production": "meta-llama/Llama-2-7b-hf /path/to/sae --n_tokens 2000000 --max_latents 200 --hookpoints "
    "layers.16 --scorers detection recall --filter_bos --name fast-production",
    "full-quality-research": "meta-llama/Llama-2-7b-hf /path/to/sae --n_tokens 10000000 --max_latents 1000 "
    "--hookpoints layers.16 --scorers detection recall fuzz simulation --filter_bos --name full-quality-research",
}
"""The three commands of the original's documentation, after ``python -m …``."""
IDS = {"meta-llama/Llama-2-7b-hf": "raylens/pico", "/path/to/sae": "raylens-pico-res", "layers.16": "layers.3"}
SMALLER = "--n_tokens 1000000 --max_latents 4 --min_examples 10 --n_examples_test 10 --n_non_activating 10"
KEY = "sk-" + "not-to-be-seen-anywhere" * 2
TOKEN = "hf_" + "notToBeSeenAnywhere" * 2


def with_our_ids(sample: str) -> list[str]:
    return [IDS.get(word, word) for word in shlex.split(sample)]


@dataclass
class Bench:
    """A workspace whose map is lent, an endpoint, and what runs commands against both."""

    folder: Path
    judge: Judge
    llm: FakeLlm
    words: list[str]

    def run(self, *words: str, after: tuple[str, ...] = ()) -> int:
        """Words, then those that make it small and point it here, then ``after``: what comes last holds."""
        return main(["--workspace", str(self.folder / "workspace"), *words, *self.words, *after])

    def tree(self, name: str) -> dict[str, Path]:
        base = self.folder / "results" / name
        return {path.relative_to(base).as_posix(): path for path in sorted(base.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def bench(undisturbed: Made, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("autointerp")
    judge = Judge(mode="coin")
    with FakeLlm(judge) as llm, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        endpoint = ["--explainer_provider", "openai", "--explainer_model", "fake", "--base_url", llm.base_url]
        given = ["--dataset_repo", str(texts), "--results_dir", str(folder / "results"), *endpoint]
        words = with_our_ids(SAMPLES["ultra-fast-dev"])
        planned = plan(parse([*words, *given, *SMALLER.split()]), str(folder / "workspace"))
        lend_map(undisturbed, folder / "workspace", planned.plan.cache_id)
        yield Bench(folder, judge, llm, [*given, *SMALLER.split()])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_commands_as_written(name: str, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:  # A1.03
    words = with_our_ids(SAMPLES[name])
    scorers = parse(words).config.scorers
    assert len(scorers) == {"ultra-fast-dev": 1, "fast-production": 2, "full-quality-research": 4}[name]
    assert bench.run(*words, "--hf_token", TOKEN) == 0, capsys.readouterr().err
    assert bench.judge.refused == []
    tree = bench.tree(name)  # A1.10
    explained = {path for path in tree if path.startswith("explanations/")}
    assert explained
    assert explained <= {f"explanations/layers.3_latent{latent}.json" for latent in range(4)}
    scored = {path.removeprefix("explanations/") for path in explained}
    assert set(tree) == {
        "run_config.json",
        "latents/windows.parquet",
        *(f"latents/layers.3/{latent}_{latent}.parquet" for latent in range(4)),
        *explained,
        *(f"scores/{scorer}/{file}" for scorer in scorers for file in scored),
    }
    config = json.loads(tree["run_config.json"].read_text())
    assert config["scorers"] == list(scorers)
    assert (config["filter_bos"], config["explainer"], config["explainer_model"]) == (True, "default", "fake")
    assert config["made"]["layers.3"]["sae"] == "raylens-pico-res/layer_3"
    for path in explained:
        said = json.loads(tree[path].read_text())
        assert said["status"] == "ok"
        assert said["explanation"]
        assert said["model"] == "fake"
        for scorer in set(scorers) - {"simulation"}:
            score = json.loads(tree[path.replace("explanations", f"scores/{scorer}")].read_text())
            assert {"f1", "precision", "recall"} <= set(score["metrics"]), "A1.10"
            assert (score["judge"], score["explanation_id"]) == ("fake", said["explanation_id"])


def test_no_secret_is_kept(bench: Bench) -> None:
    assert bench.tree("full-quality-research"), "the sample commands ran before"
    for path in bench.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert KEY.encode() not in content, path
            assert TOKEN.encode() not in content, path


def test_a_rerun_asks_nothing_and_overwrite_makes_anew(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:  # A1.10
    name = "ultra-fast-dev"
    words = with_our_ids(SAMPLES[name])
    before = {path: (file.stat().st_ino, file.read_bytes()) for path, file in bench.tree(name).items()}
    asked = len(bench.llm.asked)

    def changed() -> set[str]:
        now = {path: (file.stat().st_ino, file.read_bytes()) for path, file in bench.tree(name).items()}
        return {path for path in now.keys() | before.keys() if now.get(path) != before.get(path)} - {"run_config.json"}

    assert bench.run(*words) == 0
    assert changed() == set()
    assert bench.run(*words, "--overwrite", "scores") == 0
    assert changed() == {path for path in before if path.startswith("scores/")}
    assert len(bench.llm.asked) == asked, "answers that were paid for are kept"
    capsys.readouterr()
    assert bench.run(*words, "--n_examples_train", "20") == 2
    assert "holds results with n_examples_train 40, and this run has 20" in capsys.readouterr().err


def test_a_model_whose_answers_cannot_be_read_is_no_success(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    words = with_our_ids(SAMPLES["ultra-fast-dev"].replace("--name ultra-fast-dev", "--name unreadable"))
    before, bench.llm.respond = bench.llm.respond, lambda _: "I cannot say."
    capsys.readouterr()
    try:
        assert bench.run(*words, after=("--n_examples_train", "7")) == 1
    finally:
        bench.llm.respond = before
    said = capsys.readouterr().err
    assert "went unexplained: no answer of http" in said
    (run,) = [run for run in Workspace.open(bench.folder / "workspace").runs() if run.status == "failed"]
    assert run.kind == "explain"


def test_lexical_asks_nobody_and_quiet_is_quiet(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:  # A1.04
    asked = len(bench.llm.asked)
    capsys.readouterr()
    words = "raylens/pico raylens-pico-res --hookpoints layers.3 --filter_bos --name rules --json --n_splits 1"
    rules = ["--explainer", "lexical", "--scorers", "rule", "embedding", "--verbose", "False"]
    code = bench.run(*words.split(), *rules)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.err == ""
    done: dict[str, Any] = json.loads(captured.out)
    (one,) = done["saes"]
    assert one["statuses"]["ok"] >= 1
    assert {row["scorer"] for row in one["card"]["figures"]} == {"rule", "embedding"}
    assert len(bench.llm.asked) == asked
    assert "latents/layers.3/0_3.parquet" in bench.tree("rules")
    before = {path: json.loads(file.read_text()) for path, file in bench.tree("rules").items() if "_latent" in path}
    assert next(value for path, value in before.items() if path.startswith("explanations/"))["rule"]["clauses"]
    assert bench.run(*words.split(), "--overwrite", "explanations", after=tuple(rules)) == 0
    for path, value in before.items():
        again = json.loads(bench.tree("rules")[path].read_text())
        assert again["run_id"] != value["run_id"], "made anew, with the scores that follow from it"
        assert {**again, "run_id": 0, "created_at": 0} == {**value, "run_id": 0, "created_at": 0}


def test_overwriting_a_cache_forgets_its_saes(undisturbed: Made, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.workspace.files.native(""), tmp_path / "workspace")
    workspace = Workspace.open(tmp_path / "workspace")
    cache = workspace.cache(undisturbed.cache_id)
    chosen = SaeId.parse(SAE)
    planned: Any = SimpleNamespace(cache_id=cache.cache_id, saes=((None, SimpleNamespace(id=chosen)),))
    _forget_cache(workspace, planned)
    manifest = cache.manifest()
    assert manifest
    assert [str(sae) for sae in manifest.saes] == [OTHER_SAE], "other SAEs of the cache stay"
    assert not list(workspace.files.scan(cache.shard_folder(chosen)))
    _forget_cache(workspace, planned)
    _forget_cache(workspace, SimpleNamespace(cache_id="0" * 16, saes=planned.saes))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--base_url", "http://127.0.0.1:9/v1", "--explainer_model", "gone"], "127.0.0.1:9"),
        (["--max_calls", "0", "--explainer_model", "unasked"], "the limit of 0 calls is reached"),
    ],
)
def test_a_model_that_does_not_answer_ends_the_run(
    bench: Bench, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    code = bench.run(*with_our_ids(SAMPLES["ultra-fast-dev"])[:-1], "failing-" + words[-1], after=tuple(words))
    err = capsys.readouterr().err
    assert code == 1
    assert says in err.splitlines()[-1]
    assert "latents/windows.parquet" in bench.tree("failing-" + words[-1])
