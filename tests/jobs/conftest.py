"""A small real corpus, and the run that every disturbed one is compared with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asked import judge_of, sets_of
from cache_runs import OTHER_SAE, SAE, Made, lend_map, make
from fake_llm import FakeLlm
from raylens.bundle.stdlib import read_stdlib
from raylens.config import CacheConfig
from raylens.examples.excerpt import ExampleSets
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from reading_judge import Judge


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven held-out modules as .txt files: about 16 000 tokens of pico."""
    folder = tmp_path_factory.mktemp("corpus")
    wanted = {"graphlib.py", "heapq.py", "json/scanner.py", "json/tool.py", "queue.py", "sched.py", "timeit.py"}
    for file in read_stdlib():
        if file.path in wanted:
            (folder / (file.path.replace("/", "_") + ".txt")).write_text(file.text)
    return folder


def of(texts: Path, *saes: str) -> CacheConfig:
    """All of the corpus in shards of 16 windows, about nine of them; one worker, since starting one takes seconds."""
    return CacheConfig(
        saes=saes, texts=(str(texts),), n_tokens=1_000_000, shard_windows=16, batch_size=8, ctx_len=128, workers=1
    )


@pytest.fixture
def config(texts: Path) -> CacheConfig:
    """What disturbed runs run: one SAE."""
    return of(texts, SAE)


@pytest.fixture(scope="session")
def undisturbed(ray_cluster: None, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run that nothing happened to, with two SAEs and two workers: what every other must equal, row for row."""
    config = of(texts, OTHER_SAE, SAE).model_copy(update={"workers": 2})
    return make(tmp_path_factory.mktemp("undisturbed"), config)


@pytest.fixture
def folder(undisturbed: Made, tmp_path: Path) -> Path:
    """Where a disturbed run goes: a workspace that holds nothing yet but a map, which takes long."""
    lend_map(undisturbed, tmp_path / "workspace")
    return tmp_path / "workspace"


@pytest.fixture
def copy(undisturbed: Made, tmp_path: Path) -> Workspace:
    """The undisturbed cache, to write findings into."""
    shutil.copytree(undisturbed.workspace.files.native(""), tmp_path / "workspace")
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def raylens(copy: Workspace, capsys: pytest.CaptureFixture[str], ray_cluster: None) -> Callable[..., Any]:
    def run(*words: str) -> Any:
        capsys.readouterr()
        code = main(["--workspace", copy.url, *words, "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return run


@pytest.fixture(scope="session")
def sets(undisturbed: Made) -> dict[int, ExampleSets]:
    return sets_of(undisturbed)


@pytest.fixture
def judge(undisturbed: Made, sets: dict[int, ExampleSets]) -> Judge:
    return judge_of(undisturbed, sets)


@pytest.fixture
def llm(judge: Judge) -> Iterator[FakeLlm]:
    with FakeLlm(judge) as server:
        yield server
