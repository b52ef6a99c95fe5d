"""What the hub answers becomes one sentence with a remedy: checked against a real HTTP server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, get_token

from raylens.engine import hub
from raylens.errors import HubUnreachableError, InputError, UnknownNameError

ANSWERS = {
    "org/gated": (403, "GatedRepo"),
    "org/missing": (404, "RepoNotFound"),
    "org/private": (401, ""),
    "org/forbidden": (403, ""),
    "org/no-branch": (404, "RevisionNotFound"),
}


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        repo = "/".join(self.path.split("/")[3:5])
        status, code = ANSWERS[repo]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield
        http.shutdown()


@pytest.mark.parametrize(
    ("repo", "kind", "says"),
    [
        ("org/gated", InputError, "HF_TOKEN"),
        ("org/missing", UnknownNameError, "check the spelling"),
        ("org/private", InputError, "HF_TOKEN"),
        ("org/forbidden", InputError, "HF_TOKEN"),
        ("org/no-branch", UnknownNameError, "revision"),
    ],
)
def test_refusals_name_their_remedy(server: None, repo: str, kind: type[Exception], says: str) -> None:
    # A0.21, A0.23
    with pytest.raises(kind) as caught:
        hub.fetch(repo, ["config.json"])
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with pytest.raises(HubUnreachableError, match="cannot be reached") as caught:
            hub.fetch("google/gemma-2-2b", ["config.json"])
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.retryable


def test_telemetry_is_off_and_either_token_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # A0.21, A0.22
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("RAYLENS_SAE_MODEL_KEY", "hf_from_raylens")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    hub.prepare()
    assert get_token() == "hf_from_raylens"
    assert constants.HF_HUB_DISABLE_TELEMETRY
    monkeypatch.setenv("HF_TOKEN", "hf_own")
    hub.prepare()
    assert get_token() == "hf_own"
