"""``raylens runs`` and ``raylens stop``: what ran, what is running, and how to end it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raylens_app.cli.output import Column, duration, note, print_json, print_table, print_text, printable
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from rich.text import Text

    from raylens.store.runs import RunRecord

_COLOURS: Final = {"running": "cyan", "succeeded": "green", "failed": "red", "stopped": "yellow", "lost": "red"}
_POLL_S: Final = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("runs", rich_help_panel="Housekeeping")(runs)
    app.command("stop", rich_help_panel="Housekeeping")(stop)


def runs(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(help="A run id, or how it begins: show this run in full.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many, the newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """List runs, the newest first, or show one in full.

    A run whose process is gone, or that has been silent for two minutes, is shown as lost where nothing says
    how it ended; the same command again goes on where it ended.
    """
    from raylens.store.runs import find_run

    workspace = state_of(context).open_workspace()
    if run is not None:
        record = find_run(workspace.files, run)
        if as_json:
            print_json(record.model_dump(mode="json"))
        else:
            _show(record)
        return
    records = list(reversed(workspace.runs()))
    if as_json:
        print_json([record.model_dump(mode="json") for record in records[:limit]])
        return
    if not records:
        note("no runs yet: raylens cache makes the first.")
        return
    rows = [
        {
            "run": record.run_id,
            "status": record.status,
            "started": f"{record.started_at.astimezone():%Y-%m-%d %H:%M}",
            "took": _duration(record),
            "cache": record.cache_id,
            "so_far": record.error if record.status == "failed" else _progress(record.progress),
        }
        for record in records[:limit]
    ]
    columns = [
        Column("run", style="bold"),
        Column("status", show=_status),
        Column("started"),
        Column("took", align="right"),
        Column("cache", style="dim"),
        Column("so_far", title=""),
    ]
    print_table(rows, columns)
    if len(records) > limit:
        note(f"{len(records) - limit} older runs; --limit {len(records)} shows all.")


def stop(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run id, or how it begins.")],
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
) -> None:
    """Ask a run to stop.

    It finishes the shard it is at, so nothing is lost; the same command again goes on from there.
    """
    from raylens.store.runs import find_run, request_stop

    files = state_of(context).open_workspace().files
    record = request_stop(files, run)
    if record.status != "running":
        note(f"{record.run_id} is not running: it is {record.status}.")
        return
    note(f"asked {record.run_id} to stop; it finishes what it is at.")
    while wait and record.status == "running":
        time.sleep(_POLL_S)
        record = find_run(files, record.run_id)
    if wait:
        note(f"{record.run_id} has ended: {record.status}.")


def _show(record: RunRecord) -> None:
    from rich.text import Text

    print_text(Text.assemble((printable(record.run_id), "bold"), "  ", _status(record.status)))
    facts: dict[str, object] = {
        "started": f"{record.started_at.astimezone():%Y-%m-%d %H:%M:%S}",
        "took": _duration(record),
        "host": f"{record.process.host}, pid {record.process.pid}",
        "cache": record.cache_id or "",
        "raylens": record.raylens,
        "error": record.error or "",
        "progress": _progress(record.progress),
    }
    print_table(
        [{"what": what, "value": value} for what, value in facts.items() if value],
        [Column("what", title="", style="dim"), Column("value", title="", wrap=True)],
    )
    for title, values in (("figures", record.figures), ("config", record.config)):
        if values:
            print_text()
            rows = [{"what": key, "value": _value(value)} for key, value in values.items() if value is not None]
            print_table(rows, [Column("what", title=title), Column("value", title="", wrap=True)])


def _status(status: object) -> Text:
    from rich.text import Text

    return Text(str(status), style=_COLOURS.get(str(status), ""))


def _duration(record: RunRecord) -> str:
    # A lost run worked until it was last heard of.
    last = record.finished_at or (record.heartbeat_at if record.status == "lost" else datetime.now(UTC))
    return duration((last - record.started_at).total_seconds())


def _progress(progress: Mapping[str, object]) -> str:
    """``tokens`` beside ``tokens_total`` or ``tokens_wanted`` as a share; what else there is, where it is not zero."""
    parts: list[str] = []
    for name, value in progress.items():
        if name.endswith(("_total", "_wanted")):
            continue
        total = progress.get(f"{name}_total", progress.get(f"{name}_wanted"))
        label = name.replace("_", " ")
        if isinstance(value, int | float) and isinstance(total, int | float) and total > 0:
            parts.append(f"{value:,.0f} of {total:,.0f} {label} ({min(1.0, value / total):.0%})")
        elif value != 0:
            parts.append(f"{label} {_value(value)}")
    return " · ".join(parts)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    return str(value)
