"""Every command that runs on Ray can be a job of a cluster: ``ray job submit -- python -m raylens … --address auto``.

That such jobs run, and how they end, is shown in tests/serve/test_job_submission.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import raylens_app
from raylens.net.ray_access import MODE, PATH, TOKEN
from raylens_app.cli.autointerp.flags import Autointerp
from raylens_app.cli.main import app, main

HEAD = "10.0.0.1:6379"
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
def test_a_token_for_ray_is_brought_before_ray_is_imported(
    kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the options themselves: a command's body, which imports Ray, comes later. Ray does not ask again."""
    for name in (MODE, TOKEN, PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if kept == "file":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("t")
    if kept == "variable":
        monkeypatch.setenv(TOKEN, "t")
    found = {name: option for name, command in commands() for option in command.params if "--address" in option.opts}
    assert found.keys() >= NEEDS_RAY
    for name, option in found.items():
        context = typer.Context(typer.main.get_command(app))
        os.environ.pop(MODE, None)
        option.process_value(context, None)
        assert MODE not in os.environ, name
        assert option.process_value(context, HEAD) == HEAD
        assert os.environ.get(MODE) == (None if kept is None else "token"), name


def test_the_one_command_form_brings_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr("raylens_app.cli.autointerp.run.run", lambda *_: seen.append(os.environ.get(MODE)) or {})
    monkeypatch.setattr("raylens_app.cli.autointerp.command._print", lambda _: None)
    monkeypatch.delenv(MODE)
    monkeypatch.setenv(TOKEN, "t")
    assert main(["raylens/pico", "raylens-pico-res/layer_3", "--address", HEAD]) == 0
    assert seen == ["token"]
