"""The ``raylens audit`` group: other files of this folder add their commands to it."""

from __future__ import annotations

from typing import Annotated, Final

import typer

PANEL: Final = "Audit"

group = typer.Typer(no_args_is_help=True, help="Whether a fine-tune differs from its reference more than benign ones.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, how it begins, or session/run.")]
Session = Annotated[str | None, typer.Option("--session", metavar="NAME", help="Only this session.")]


def register(app: typer.Typer) -> None:
    """Add the group, with the commands of the files that hold them."""
    # Each adds its own commands to the group as it is imported.
    from raylens_app.cli import audit_bench, audit_calibrate, audit_run, audit_selftest, audit_triggers, audits  # noqa: F401

    app.add_typer(group, name="audit", rich_help_panel=PANEL)
