"""Every command that runs on Ray can be a job of a cluster: ``ray job submit -- python -m raylens … --address auto``.

That such jobs run, and how they end, is shown in tests/serve/test_job_submission.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import raylens_app
from raylens_app.cli.autointerp.flags import Autointerp
from raylens_app.cli.main import app

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
