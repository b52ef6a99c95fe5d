"""``raylens mcp``: what is refused before anything is served."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylens.store.workspace import Workspace
from raylens_app.cli import main as cli

Raylens = Callable[..., Any]


def test_the_help_says_how_to_reach_it(raylens: Raylens, tmp_path: Path) -> None:
    done = raylens(tmp_path / "none", "mcp", "--help")
    assert done.code == 0
    for word in ("--transport", "--read-only", "--session", "RAYLENS_BASE_DIR", "RAYLENS_API_TOKEN"):
        assert word in done.out.replace("\n", " ")


def test_a_session_must_be_a_name(raylens: Raylens, own_workspace: Workspace) -> None:
    done = raylens(own_workspace.url, "mcp", "--session", "../elsewhere")
    assert done.code == 2
    assert "cannot name a session" in done.err


def test_a_base_directory_must_exist(  # A2.16
    raylens: Raylens, own_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLENS_BASE_DIR", "/no/such/folder")
    done = raylens(own_workspace.url, "mcp")
    assert done.code == 2
    assert "the base directory /no/such/folder is no folder" in done.err


def test_reading_needs_a_workspace(raylens: Raylens, tmp_path: Path) -> None:
    done = raylens(tmp_path / "none", "mcp", "--read-only")
    assert done.code == 2
    assert "there is no workspace" in done.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("token", "sentence"), [("abc123", "is shorter than 16"), ("with a space in it", "holds no key")]
)
def test_a_token_must_be_one(
    raylens: Raylens, own_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, token: str, sentence: str
) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", token)
    done = raylens(own_workspace.url, "mcp", "--transport", "http", "--port", "0")
    assert done.code == 2
    assert sentence in done.err
    assert token not in done.err


def test_a_port_must_be_free(raylens: Raylens, own_workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = raylens(own_workspace.url, "mcp", "--transport", "http", "--port", str(port))
    assert done.code == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in done.err
    elsewhere = raylens(own_workspace.url, "mcp", "--transport", "http", "--host", "203.0.113.7", "--port", "0")
    assert elsewhere.code == 2
    assert "of 203.0.113.7 cannot be used" in elsewhere.err


def test_without_the_package_it_says_what_to_install() -> None:
    assert cli._EXTRAS["mcp"] == "mcp"
