"""``raylens labels``: status, warm, import and serve, beside what people say."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from neuronpedia import SOURCE, Remote, explanation, page
from raylens.catalog.lookup import built_in
from raylens.errors import InputError, RunError
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.store.workspace import Workspace
from raylens_app.cli import labels
from raylens_app.cli.state import State

GEMMA = "gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical"

app = typer.Typer()
labels.register(app)


@app.callback()
def _root() -> None:
    """More than one command."""


@dataclass(frozen=True)
class Done:
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def raylens(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*words: str) -> Done:
        capsys.readouterr()
        arguments = ["labels", *words]
        typer.main.get_command(app).main(args=arguments, standalone_mode=False, obj=State(workspace=workspace.url))
        captured = capsys.readouterr()
        return Done(captured.out, captured.err)

    return run


def test_without_a_command_it_lists_what_people_say(raylens: Callable[..., Done]) -> None:
    assert "nobody has said anything yet" in raylens().err
    assert raylens("--json").document == []
    assert "no labels from elsewhere" in raylens("status").err


def test_labels_are_warmed_shown_and_frozen(
    raylens: Callable[..., Done], workspace: Workspace, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:  # A2.12
    remote.pages = {index: page(index, explanation(f"t{index}")) for index in range(10)}
    monkeypatch.setenv("NEURONPEDIA_BASE_URL", f"http://127.0.0.1:{remote.server.port}")
    done = raylens("warm", GEMMA, "--features", "0-8,20", "--json").document
    assert done == {
        "source": str(SOURCE),
        "wanted": 10,
        "known": 0,
        "explained": 9,
        "unexplained": 0,
        "missing": 1,
        "unknown": 0,
        "why": {},
        "asked": 10,
    }
    again = raylens("warm", str(SOURCE), "--features", "0-9")
    assert "10 of 10 features explained" in again.out
    assert "9 were known, 1 asked for" in again.out
    assert "NEURONPEDIA_EXPLANATIONS_MODE=cache_only" in again.out
    status = raylens("status", "--json").document
    assert (status["mode"], status["has_key"]) == ("cache_only", False)
    [row] = status["sources"]
    assert (row["source"], row["explained"], row["pages"], row["missing"]) == (str(SOURCE), 10, 10, 1)
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "np-secret-0123456789")
    shown = raylens("status").out
    assert "cache_only" in shown
    assert str(SOURCE) in shown
    assert "NEURONPEDIA_API_KEY set" in shown
    assert "np-secret" not in shown
    n_asked = len(remote.asked)
    monkeypatch.setenv("NEURONPEDIA_EXPLANATIONS_MODE", "cache_only")
    with pytest.raises(InputError, match="nothing may be asked for"):
        raylens("warm", str(SOURCE), "--features", "50")
    assert len(remote.asked) == n_asked


def test_warming_says_what_is_still_unknown(
    raylens: Callable[..., Done], remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fake_llm import Answer

    remote.otherwise = Answer(status=429, raw=b"{}", headers={"Retry-After": "3600"})
    url = f"http://127.0.0.1:{remote.server.port}"
    done = raylens("warm", str(SOURCE), "--features", "0-5", "--base-url", url)
    assert "6 still unknown; the same command asks for them again" in done.out
    assert "limits the number of requests" in done.out
    assert "asks for no more labels" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((GEMMA,), "which features"),
        ((GEMMA, "--features", "1", "--all"), "which features"),
        ((GEMMA, "--features", "3-1"), "no run of features"),
        ((GEMMA, "--features", "a"), "no feature"),
        ((GEMMA, "--features", "1,,2"), "no feature"),
        ((GEMMA, "--features", "16384"), "no feature 16384"),
        ((str(SOURCE), "--features", "16384"), "no feature 16384"),
        (("some/unknown", "--all"), "how many features"),
        (("raylens-pico-res/layer_3", "--all"), "no label source is known"),
        (("nonsense", "--all"), "not an SAE id"),
        (("a/b/c", "--all"), "not a label source"),
    ],
)
def test_what_cannot_be_warmed_is_refused(raylens: Callable[..., Done], words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        raylens("warm", *words)


def test_all_of_an_sae_means_its_width() -> None:
    source, width = labels.source_of(built_in(), GEMMA)
    assert (source, width) == (SOURCE, 16384)
    assert labels.indices_of(None, width, every=True) == list(range(16384))
    assert labels.indices_of("5, 1-3,2", None, every=False) == [1, 2, 3, 5]


def test_files_are_imported_and_what_is_wrong_is_said(
    raylens: Callable[..., Done], workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "v1" / SOURCE.model / SOURCE.source / "explanations"
    folder.mkdir(parents=True)
    rows = [
        json.dumps({"modelId": SOURCE.model, "layer": SOURCE.source, "index": i, "description": f"t{i}"})
        for i in range(9)
    ]
    (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress("\n".join([*rows, "{"]).encode()))
    done = raylens("import", str(tmp_path))
    assert done.out.startswith("9 explanations, 0 pages, from 1 file\n")
    assert "1 line left out (10): is no JSON" in done.err
    assert raylens("import", str(tmp_path), "--json").document["already"] == 9
    with LabelStore(workspace.files) as store:
        assert store.explained(SOURCE).tolist() == list(range(9))
        assert store.counts(SOURCE).segments == 1
    whole = gzip.compress("\n".join(rows).encode())
    (folder / "batch-1.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(RunError, match="1 of 2 files are not whole"):
        raylens("import", str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        raylens("import", str(tmp_path / "nothing.sqlite"))
    with pytest.raises(InputError, match="does not exist"):
        raylens("import", str(tmp_path / "nothing"))
    other = raylens("import", str(folder / "batch-0.jsonl.gz"), "--source", "gemma-2-2b/3-other", "--json").document
    assert other["bad_lines"] == 10


def test_the_endpoint_is_served_until_it_is_stopped(workspace: Workspace, tmp_path: Path) -> None:
    with LabelStore(workspace.files) as store:
        store.put_missing(SOURCE, 2, "remote")
        store.put_page(SOURCE, 1, _page(1), "remote")
    program = (
        "import sys, typer; from raylens_app.cli import labels; from raylens_app.cli.state import State;"
        "app = typer.Typer(); labels.register(app); app.callback()(lambda: None);"
        f"typer.main.get_command(app).main(['labels', 'serve', '--port', '0'], obj=State({workspace.url!r}))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAYLENS")}
    command = [sys.executable, "-u", "-c", program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            assert line.startswith(f"serving {workspace.url} at http://127.0.0.1:"), (
                server.stderr and server.stderr.read()
            )
            url = line.split(" at ")[1].split(";")[0]
            found = httpx.get(f"{url}/feature/{SOURCE}/1", trust_env=False)
            assert found.json()["explanations"][0]["description"] == "one"
            assert httpx.get(f"{url}/feature/{SOURCE}/2", trust_env=False).status_code == 404
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)


def _page(index: int) -> Any:
    from raylens.labels.explanations import read_page

    return read_page(page(index, explanation("one")), SOURCE, index)


def test_a_source_that_no_catalogue_knows_is_taken_as_it_is() -> None:
    assert labels.source_of(built_in(), "mine/3-x") == (NeuronpediaId("mine", "3-x"), None)
