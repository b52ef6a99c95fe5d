"""Options of the commands that read suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SuiteName = Annotated[
    str, typer.Argument(metavar="SUITE", help="A suite that ships, or a YAML file inside the base directory.")
]
BaseDir = Annotated[
    Path | None,
    typer.Option(
        "--base-dir",
        metavar="FOLDER",
        envvar="RAYLENS_BASE_DIR",
        help="Suite files have to lie inside of it. Default: the current folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
