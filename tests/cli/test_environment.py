"""What the environment says is heeded: the hub's token and cache, GPUs, the workspace, the base directory (A3.12)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from raylens.bundle.paths import model_path
from raylens.errors import InputError
from raylens.store.base_dir import inside_base
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "hf_" + "s" * 34
RAYLENS = str(Path(sys.executable).parent / "raylens")


class Noting(ThreadingHTTPServer):
    """Whom it was asked by."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.asked: list[str] = []


class Hub(BaseHTTPRequestHandler):
    """Notes who asks, and lets nobody in."""

    def do_GET(self) -> None:
        cast(Noting, self.server).asked.append(self.headers.get("Authorization", ""))
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    with Noting() as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", http.asked
        http.shutdown()


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: these variables are read when libraries are imported."""
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "OMP_NUM_THREADS"}}
    return subprocess.run(
        words, capture_output=True, text=True, cwd=folder, env=kept | variables, stdin=subprocess.DEVNULL, check=False
    )


STEER = ("steer", "def area(radius):", "--sae", "raylens-pico-res/layer_3", "-f", "f_3_17", "-n", "0", "--json")


def test_the_hubs_token_and_cache(hub: tuple[str, list[str]], tmp_path: Path) -> None:  # A3.12
    url, asked = hub
    pico = model_path("raylens/pico")
    assert pico is not None
    home = tmp_path / "hub-home"
    kept = home / "hub" / "models--org--pico"
    shutil.copytree(pico, kept / "snapshots" / COMMIT)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(COMMIT)
    common = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_TOKEN": SECRET}

    words = (RAYLENS, *STEER, "--model", "org/pico", "--override-guard")
    found = run(tmp_path, *words, **common, HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["next"]
    assert asked == []

    refused = run(tmp_path, RAYLENS, *STEER, "--model", "org/gated", **common)
    assert refused.returncode == 2
    assert "org/gated is gated" in refused.stderr
    assert "HF_TOKEN" in refused.stderr
    assert asked
    assert set(asked) == {f"Bearer {SECRET}"}
    assert SECRET not in refused.stderr + refused.stdout
    assert not (home / "hub" / "models--org--gated" / "snapshots").exists()


def test_gpus_that_may_be_seen(tmp_path: Path) -> None:  # A3.12
    """None may: ``cuda`` is refused in one sentence, whatever the machine has (``auto`` is the CPU: see above)."""
    named = run(tmp_path, RAYLENS, *STEER, "--device", "cuda", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
    assert named.returncode == 2
    assert named.stderr.splitlines()[-1].startswith("error: ")
    assert "cuda" in named.stderr


@pytest.mark.gpu
def test_a_gpu_that_may_not_be_seen_is_not_taken(tmp_path: Path) -> None:  # A3.12
    code = "from raylens.engine.load import choose_device; print(choose_device('auto').type)"
    for visible, device in (("", "cpu"), ("0", "cuda")):
        found = run(tmp_path, sys.executable, "-c", code, CUDA_VISIBLE_DEVICES=visible)
        assert found.stdout.strip() == device, found.stderr


def test_the_data_directory(tmp_path: Path) -> None:  # A3.12
    there = tmp_path / "elsewhere"
    workspace = Workspace.open(there, create=True)
    with RunJournal.start(workspace.files, "train", {"layer": 3}, run_id="train-1") as journal:
        journal.finish({})
    found = run(tmp_path, RAYLENS, "runs", "--json", RAYLENS_WORKSPACE=str(there))
    assert [one["run_id"] for one in json.loads(found.stdout)] == ["train-1"]
    missing = run(tmp_path, RAYLENS, "runs", RAYLENS_WORKSPACE=str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert f"there is no workspace at {tmp_path / 'none'}" in missing.stderr
    assert {one.name for one in tmp_path.iterdir()} == {"elsewhere"}


def test_the_base_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # A3.12
    (tmp_path / "base" / "models").mkdir(parents=True)
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path / "base"))
    assert inside_base("models", "model") == tmp_path / "base" / "models"
    for outside in (str(tmp_path / "other"), "../other"):
        with pytest.raises(InputError, match="base directory"):
            inside_base(outside, "model")
