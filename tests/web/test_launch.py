"""``raylens app``: it binds this machine, sends nothing anywhere, says its address, and leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from app_process import app_process
from raylens.errors import InputError
from raylens.store.workspace import Workspace
from raylens_app.web.launch import address, serve, server_options
from raylens_app.web.settings import AppSettings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_app_answers_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    Workspace.open(tmp_path, create=True)
    with app_process(tmp_path) as app:
        assert httpx.get(f"{app.url}/_stcore/health", trust_env=False).text == "ok"
        own = psutil.Process(app.process.pid)
        listening = [one.laddr.ip for one in own.net_connections() if one.status == psutil.CONN_LISTEN]
        assert set(listening) == {"127.0.0.1"}
        children = own.children(recursive=True)
        assert app.end(number) == 0
        assert [one for one in children if one.is_running()] == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(app.url, trust_env=False)
    assert "the app has ended" in "".join(app.said)
    assert "Traceback" not in "".join(app.said)


def test_a_missing_workspace_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    with app_process(tmp_path / "none") as app:
        assert httpx.get(app.url, trust_env=False).status_code == 200


def test_bound_elsewhere_it_asks_for_the_token_and_says_so(tmp_path: Path) -> None:
    made = {"RAYLENS_API_TOKEN": "", "RAYLENS_API_TOKEN_FILE": str(tmp_path / "token")}
    with app_process(tmp_path, "--host", "0.0.0.0", **made) as app:
        text = "".join(app.said)
        assert "each browser session has to name the API token first" in text
        assert (tmp_path / "token").read_text().strip() in text
        assert "put TLS in front" in text


def test_a_port_that_is_taken_is_an_error_of_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "raylens", "--workspace", str(tmp_path), "app", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
        with pytest.raises(InputError, match="cannot listen"):
            serve(AppSettings(str(tmp_path)), "192.0.2.1", port, (), print)


def test_nothing_is_sent_and_nothing_is_given_away() -> None:  # A0.22
    options = server_options("127.0.0.1", 8501, ["box"])
    assert options["browser.gatherUsageStats"] is False
    assert options["client.showErrorDetails"] == "none"
    assert options["server.corsAllowedOrigins"] == ["http://box:8501"]
    assert options["server.enableXsrfProtection"] is True
    assert options["server.headless"] is True


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::1", "http://[::1]:1")],
)
def test_addresses_can_be_opened(host: str, url: str) -> None:
    assert address(host, 1) == url
