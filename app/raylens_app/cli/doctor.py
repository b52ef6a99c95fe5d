"""``raylens doctor``: is the installation sound, and what would each missing piece unlock?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raylens_app.cli.output import Column, note, print_json, print_table
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from rich.text import Text

    from raylens_app.doctor import Check

_STYLES: Final = {"ok": "green", "missing": "yellow", "warning": "yellow", "broken": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the ``doctor`` command."""
    app.command(rich_help_panel="Housekeeping")(doctor)


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Check the installation, and say what each missing piece would unlock.

    Exits with 1 where something essential is broken; what is only missing is no failure.
    """
    from raylens_app.doctor import examine

    checks = examine(state_of(context).workspace)
    broken = [check for check in checks if check.state == "broken"]
    if as_json:
        print_json({"ok": not broken, "checks": [check.row() for check in checks]})
    else:
        show(checks)
        names = ", ".join(check.name for check in broken)
        note(f"essential and broken: {names}." if broken else "all that is essential works.")
    if broken:
        raise typer.Exit(1)


def show(checks: Sequence[Check]) -> None:
    """Print all checks, then what each missing piece would unlock."""
    columns = [
        Column("state", "", show=_state),
        Column("name", "what"),
        Column("detail", "found", wrap=True),
    ]
    print_table([check.row() for check in checks], columns)
    # One remedy may bring many packages: it is named once.
    lacking: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        if check.state != "ok":
            lacking.setdefault((check.unlocks, check.command), []).append(check.name)
    if lacking:
        remedies = [Column("what", wrap=True), Column("unlocks", wrap=True), Column("how", style="bold", wrap=True)]
        rows = [{"what": ", ".join(names), "unlocks": key[0], "how": key[1]} for key, names in lacking.items()]
        print_table(rows, remedies, title="What is missing would unlock")


def _state(value: object) -> Text:
    from rich.text import Text

    return Text(str(value), style=_STYLES[str(value)])
