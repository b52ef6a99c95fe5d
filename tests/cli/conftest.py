"""Running the real console entry, with nothing of the developer's environment in the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raylens import schema
from raylens.ids import SaeId
from raylens.store.compact import merge_documents, merge_windows
from raylens.store.manifest import Kind
from raylens.store.merge import merge_ranges, merge_statistics, plan_merge
from raylens.store.publish import finish_merge, write_feature_table
from raylens.store.runs import RunJournal
from raylens.store.shards import write_shard
from raylens.store.windows import write_windows_shard
from raylens.store.workspace import CacheStore, Workspace
from raylens_app.cli.main import main

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a subprocess: no colour settings, a temporary folder of its own."""
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "LC_ALL"}}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return kept | {"TMPDIR": str(scratch), "TERM": "xterm-256color", "PYTHONUTF8": "1"}


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Cli:
    """``cli("features", "--json")`` runs the installed ``raylens`` command in an empty folder."""

    def run(*arguments: str, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "raylens"), *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | dict(extra or {}),
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@dataclass(frozen=True, slots=True)
class Done:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that stdout holds."""
        return json.loads(self.out)


@pytest.fixture
def raylens(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """``raylens(workspace, "features", "--json")`` runs ``main`` in this process: quicker than a process each."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # main sets its own; undone after the test
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(workspace: Path | str, *arguments: str) -> Done:
        capsys.readouterr()
        code = main(["--workspace", str(workspace), *arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


HOSTILE = "\x1b]0;owned\x07 \x1b[2J\x1b[31m \x9b5m \u202egnp.exe [bold]x[/bold]"
PHRASES = (
    "def area ( self ) :\n\treturn self . width * self . height\n",
    "import os\nimport sys\n\nprint ( sys . path )\n",
    "for item in items :\n\ttotal += item . price # naïve\n",
    f"banner = ' {HOSTILE} '\nreturn banner\n",
)
LAYER_1, LAYER_3 = SaeId("tiny-res", "layer_1"), SaeId("tiny-res", "layer_3")
LAYER_3_WIDE = SaeId("tiny-wide", "layer_3")
WIDTHS = {LAYER_1: 32, LAYER_3: 40, LAYER_3_WIDE: 64}
"""Features 0 to 3 fire on 'return', 'self', most tokens and BOS; the others are dead."""

Rows = tuple[int, int, float]
"""Window, position, activation."""


def tiny_windows(n_documents: int) -> tuple[pa.Table, pa.Table, list[list[str]]]:
    """Windows (BOS and at most 24 words), documents, and the words of each window, BOS as an empty one."""
    windows: list[dict[str, object]] = []
    documents: list[dict[str, object]] = []
    words: list[list[str]] = []
    for doc_id in range(n_documents):
        text = PHRASES[doc_id % len(PHRASES)] * (1 + doc_id % 3)
        tokens = re.findall(r" ?[^\s]+|\s", text)
        for start in range(0, len(tokens), 24):
            part = tokens[start : start + 24]
            offsets = [0, *np.cumsum([0, *map(len, part[:-1])]).tolist()]
            window = {"window_id": len(words), "doc_id": doc_id, "start": start, "text": "".join(part)}
            windows.append(window | {"token_offsets": offsets, "token_ids": [0, *(1 + len(word) for word in part)]})
            words.append(["", *part])
        path = f"pkg/module_{doc_id}.py"
        documents.append(
            {
                "doc_id": doc_id,
                "source": "stdlib",
                "domain": "pkg",
                "path": path,
                "split": "train",
                "n_tokens": len(tokens),
            }
        )
    return (
        pa.Table.from_pylist(windows, schema.WINDOWS),
        pa.Table.from_pylist(documents, schema.DOCUMENTS),
        words,
    )


def tiny_activations(words: list[list[str]]) -> dict[int, list[Rows]]:
    """Feature → its activations; obvious rules, so that tests can say what must be shown."""
    fires: dict[int, list[Rows]] = {0: [], 1: [], 2: [], 3: []}
    for window, tokens in enumerate(words):
        for position, token in enumerate(tokens):
            if position == 0:
                fires[3].append((window, position, 50.0))
                continue
            if token.strip() == "return":
                fires[0].append((window, position, 8.0 - window / 8))
            if token.strip() == "self":
                fires[1].append((window, position, 3.0 + position / 16))
            if len(token) > 1:
                fires[2].append((window, position, 0.5 + len(token) / 4))
    return fires


def make_cache(workspace: Workspace, cache_id: str, saes: Sequence[SaeId], *, name: str | None = None) -> CacheStore:
    """A merged cache of 24 documents with every table, made with the store's own writers."""
    cache = workspace.cache(cache_id)
    windows, documents, words = tiny_windows(24)
    n_text = sum(map(len, words)) - len(words)
    cache.write_info({"identity": {"made": "by a test"}, "model": "tiny", "name": name, "ctx_len": 25})
    with cache.lock("test") as lock:
        shard = write_windows_shard(cache, 0, windows, documents, n_special_tokens=len(words))
        entries = [merge_windows(cache, [shard], 0), merge_documents(cache, [shard])]
        merges = []
        for sae in saes:
            spec = {"layer": int(sae.name[-1]), "hook": f"resid_post.{sae.name[-1]}", "neuronpedia_id": "tiny/3-res"}
            cache.write_sae(sae, {"spec": spec})
            rows = sorted((w, p, f, a) for f, fires in tiny_activations(words).items() for w, p, a in fires)
            window, position, feature, activation = map(np.array, zip(*rows, strict=True))
            row = write_shard(
                cache,
                sae,
                "abc",
                d_sae=WIDTHS[sae],
                window_first=0,
                n_windows=len(words),
                n_text_tokens=n_text,
                n_special_tokens=len(words),
                feature=feature.astype(np.int32),
                window_id=window.astype(np.int32),
                position=position.astype(np.int16),
                activation=activation.astype(np.float32),
                special=position == 0,
            )
            plan = plan_merge(sae, [row])
            entries += [*merge_ranges(cache, plan, range(plan.n_ranges)), merge_statistics(cache, plan)]
            entries += [
                write_feature_table(cache, sae, kind, table, {"made": "by a test"})
                for kind, table in feature_tables(WIDTHS[sae]).items()
            ]
            merges.append(plan)
        finish_merge(cache, lock, windows=[shard], merges=merges, entries=entries)
    return cache


def feature_tables(d_sae: int) -> dict[Kind, pa.Table]:
    """Logits, neighbours and co-firing of each feature, made up."""
    logits = [
        {"feature": f, "sign": sign, "rank": rank, "token_id": rank, "token": f" {sign}\x1b{rank}", "logit": value}
        for f in range(d_sae)
        for sign, value in (("top", 2.0), ("bottom", -2.0))
        for rank in range(4)
    ]
    others = [(f, rank, (f + 1 + rank) % d_sae) for f in range(d_sae) for rank in range(3)]
    neighbours = [{"feature": f, "rank": r, "neighbour": o, "cosine": 0.9 - r / 10} for f, r, o in others]
    cofiring = [{"feature": f, "rank": r, "other": o, "n_both": 5, "jaccard": 0.5 - r / 10} for f, r, o in others]
    return {
        "logits": pa.Table.from_pylist(logits, schema.LOGITS),
        "neighbours": pa.Table.from_pylist(neighbours, schema.NEIGHBOURS),
        "cofiring": pa.Table.from_pylist(cofiring, schema.COFIRING),
    }


@pytest.fixture(scope="session")
def tiny_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one cache of two SAEs and two runs; tests only read it."""
    folder = tmp_path_factory.mktemp("tiny") / "workspace"
    workspace = Workspace.open(folder, create=True)
    make_cache(workspace, "0123456789abcdef", [LAYER_1, LAYER_3], name="tiny")
    config = {"model": "tiny", "n_tokens": 1234, "texts": ["stdlib"], "hub_token": "hf_not_to_be_seen_anywhere"}
    with RunJournal.start(workspace.files, "cache", config, run_id="cache-1", cache_id="0123456789abcdef") as journal:
        journal.progress(tokens=600, tokens_total=1200)
        journal.finish({"tokens_total": 1200, "seconds": 2.5})
    with RunJournal.start(workspace.files, "train", {"layer": 3}, run_id="train-1") as journal:
        journal.fail("it\x1b[31m broke")
    return folder


@pytest.fixture
def own_workspace(tmp_path: Path) -> Workspace:
    """A workspace of the test's own, empty."""
    return Workspace.open(tmp_path / "own", create=True)


@pytest.fixture(scope="session")
def tiny_cache() -> Callable[..., CacheStore]:
    """``tiny_cache(workspace, cache_id, name=None, saes=("tiny-res/layer_3",))`` makes a merged cache."""

    def make(
        workspace: Workspace, cache_id: str, *, name: str | None = None, saes: Sequence[str] = ("tiny-res/layer_3",)
    ) -> CacheStore:
        return make_cache(workspace, cache_id, [SaeId.parse(sae) for sae in saes], name=name)

    return make
