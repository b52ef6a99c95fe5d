"""Every command that runs on Ray can be a job of a cluster: ``ray job submit -- python -m raylens … --address auto``.

That such jobs run, and how they end, is shown in tests/serve/test_job_submission.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import raylens_app
from raylens_app.cli.autointerp.flags import Autointerp
from raylens_app.cli.main import app
from raylens_jobs.cluster import cluster

CLI = Path(raylens_app.__file__).parent / "cli"
NEEDS_RAY = {
    "raylens cache",
    "raylens merge",
    "raylens explain",
    "raylens score",
    "raylens record",
    "raylens train",
    "raylens demo",
    "raylens audit run",
    "raylens audit calibrate",
    "raylens audit find-trigger",
    "raylens organisms build",
    "raylens suites vary",
}


def commands(command: Any = None, name: str = "raylens") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        for word, inner in command.commands.items():
            yield from commands(inner, f"{name} {word}")
    else:
        yield name, command


def test_each_takes_an_address() -> None:
    takes = {name for name, command in commands() if any("--address" in option.opts for option in command.params)}
    assert takes >= NEEDS_RAY
    assert "address" in Autointerp.model_fields  # its options are those of the one-command form


def test_none_that_starts_ray_was_forgotten() -> None:
    """The selftest alone has a Ray of its own whatever it is told: what it makes lies in a temporary folder."""
    own = {path.name for path in CLI.rglob("*.py") if re.search(r"\bcluster\(None", path.read_text())}
    assert own == {"audit_selftest.py"}


@pytest.mark.parametrize("kept", [None, "file", "variable"])
def test_a_token_for_ray_is_asked_for_where_there_is_one(
    kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, Ray's core would end the process without a word."""
    seen: list[str | None] = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *_, **__: seen.append(__import__("os").environ.get("RAY_AUTH_MODE")))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if kept == "file":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("t")
    if kept == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    with cluster("10.0.0.1:6379"):
        assert seen == [None if kept is None else "token"]
