"""``raylens up`` and ``raylens ui``: services and app start and end together."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from followed import ENDS_S, followed
from live_services import TOKEN, free_port
from raylens.bundle.paths import list_saes, sae_path
from raylens.errors import InputError
from raylens.store.standing import end, read_standing
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from raylens_app.cli.up import sae_folders

STARTS_S = 240.0


@pytest.fixture
def colleagues(tmp_path: Path) -> Path:
    """A folder with an SAE of a colleague's, and something else."""
    folder = tmp_path / "saes"
    theirs = sae_path(list_saes()[1].id)
    assert theirs is not None
    shutil.copytree(theirs, folder / "theirs")
    (folder / "notes").mkdir()
    return folder


# A3.03: raylens ui --model --sae-dir.
def test_ui_serves_a_model_with_saes_of_a_folder_and_ends_with_them(tmp_path: Path, colleagues: Path) -> None:
    port, services = free_port(), free_port()
    words = ["--workspace", str(tmp_path / "ws"), "ui", "--model", "raylens/pico", "--sae-dir", str(colleagues)]
    words += ["--port", str(port), "--services-port", str(services)]
    environment = {**os.environ, "RAYLENS_API_TOKEN": TOKEN}
    workspace = Workspace.open(tmp_path / "ws", create=True)
    try:
        with followed([sys.executable, "-m", "raylens", *words], environment, "Ctrl-C ends it", STARTS_S) as running:
            assert running.process.poll() is None, running.said
            assert any(f"http://127.0.0.1:{port}/workbench" in line for line in running.said)
            assert httpx.get(f"http://127.0.0.1:{port}/workbench").status_code == 200
            headers = {"Authorization": f"Bearer {TOKEN}"}
            opened = httpx.post(f"http://127.0.0.1:{services}/load-model", headers=headers, json={}, timeout=60).json()
            assert opened.get("model") == "raylens/pico", opened
            assert [one["sae"].startswith("local/theirs") for one in opened["saes"]] == [True]
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(ENDS_S)
        assert read_standing(workspace.files) is None
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/")
    finally:
        if read_standing(workspace.files) is not None:  # the test has failed; services go on by themselves
            end(workspace.files, ENDS_S)


def test_what_sae_dir_may_be(colleagues: Path, tmp_path: Path) -> None:
    theirs = str(colleagues / "theirs")
    assert sae_folders(colleagues) == [theirs]
    assert sae_folders(colleagues / "theirs") == [theirs]
    with pytest.raises(InputError, match="holds no SAE"):
        sae_folders(colleagues / "notes")
    with pytest.raises(InputError, match="is no folder"):
        sae_folders(tmp_path / "gone")


@pytest.mark.parametrize("option", ["--port", "--services-port"])
def test_a_port_that_is_taken_is_said_before_anything_starts(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--port": str(free_port()), "--services-port": str(free_port()), option: str(port)}
        words = [word for pair in ports.items() for word in pair]
        assert main(["--workspace", str(tmp_path / "ws"), "up", *words]) == 2
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in said
    assert option in said
