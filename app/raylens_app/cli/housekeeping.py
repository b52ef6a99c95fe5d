"""``raylens rm``, ``raylens gc`` and ``raylens du``: what a workspace takes, and giving it back."""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raylens.errors import InputError, UnknownNameError
from raylens.ids import SaeId
from raylens_app.cli.output import Column, data_size, note, print_json, print_table
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.store.workspace import Workspace

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("du", rich_help_panel="Housekeeping")(du)
    app.command("rm", rich_help_panel="Housekeeping")(rm)
    app.command("gc", rich_help_panel="Housekeeping")(gc)


def du(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show how much each cache, and each SAE in it, takes on disk."""
    from dataclasses import asdict

    from raylens.store.usage import du as measure

    workspace = state_of(context).open_workspace()
    usages = measure(workspace)
    total = sum(one.bytes for one in usages)
    if as_json:
        print_json({"workspace": workspace.url, "bytes": total, "usage": [asdict(usage) for usage in usages]})
        return
    columns = [
        Column("cache", style="bold"),
        Column("sae"),
        Column("kind"),
        Column("files", align="right", show=lambda files: f"{files:,}"),
        Column("size", align="right"),
    ]
    rows = [
        {
            "cache": f"{usage.cache_id} {usage.name or ''}".rstrip() if usage.cache_id else "",
            "sae": usage.sae,
            "kind": usage.kind,
            "files": usage.files,
            "size": data_size(usage.bytes),
        }
        for usage in usages
    ]
    rows.append({"cache": "total", "files": sum(usage.files for usage in usages), "size": data_size(total)})
    print_table(rows, columns)


def rm(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A cache (id, how it begins, or its name) or a run id.")],
    sae: Annotated[str | None, typer.Option(metavar="SAE", help="Remove only this SAE of the cache.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a cache, one SAE of a cache, or the record of a run.

    Removing a run's record leaves what the run wrote. A cache that a run is writing is refused.
    """
    from raylens.store import housekeeping, usage

    workspace = state_of(context).open_workspace()
    kind, found = _cache_or_run(workspace, name)
    if kind == "run" and sae is not None:
        raise InputError(f"{found} is a run, and runs hold no SAE.", hint="name a cache; raylens du lists them.")
    what = f"{sae} of cache {found}" if sae else f"{kind} {found}"
    if kind == "cache" and not sae:
        size = sum(one.bytes for one in usage.du(workspace) if one.cache_id == found)
        what = f"{what} ({data_size(size)})"
    _confirm(what, yes)
    if sae is not None:
        housekeeping.remove_sae(workspace, found, SaeId.parse(sae))
    elif kind == "cache":
        housekeeping.remove_cache(workspace, found)
    else:
        housekeeping.remove_run(workspace, found)
    note(f"removed {what}.")


def gc(
    context: typer.Context,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="Leave alone what is younger than this: 90s, 30m, 24h, 7d.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Remove what nothing refers to any more: superseded merges and unfinished files.

    Whoever began to read before a merge may go on for the time that --grace names.
    """
    from dataclasses import asdict

    from raylens.store.housekeeping import gc as collect

    workspace = state_of(context).open_workspace()
    collected = collect(workspace, grace_s=seconds_of(grace), dry_run=dry_run)
    if as_json:
        removals = [asdict(removal) for removal in collected.removals]
        print_json({"dry_run": dry_run, "bytes": collected.bytes, "removals": removals, "busy": list(collected.busy)})
        return
    files, sizes = Counter[str](), Counter[str]()
    for removal in collected.removals:
        files[removal.reason] += 1
        sizes[removal.reason] += removal.bytes
    if files:
        rows = [
            {"reason": reason, "files": count, "size": data_size(sizes[reason])}
            for reason, count in files.most_common()
        ]
        print_table(rows, ["reason", Column("files", align="right"), Column("size", align="right")])
    done = "would free" if dry_run else "freed"
    note(f"{done} {data_size(collected.bytes)} in {sum(files.values()):,} files.")
    for cache_id in collected.busy:
        note(f"cache {cache_id} was left alone: a run is writing it.")


def seconds_of(text: str) -> float:
    """Seconds that a duration such as ``90s``, ``30m``, ``24h`` or ``7d`` says.

    Raises:
        InputError: It is none.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if not match:
        raise InputError(f"{text!r} is not a length of time.", hint="write a number and a unit: 90s, 30m, 24h or 7d.")
    return float(match[1]) * _UNITS[match[2]]


def _cache_or_run(workspace: Workspace, name: str) -> tuple[str, str]:
    """``("cache", id)`` or ``("run", id)``: what ``name`` names."""
    from raylens.store.runs import find_run

    caches, runs = workspace.caches(), [record.run_id for record in workspace.runs()]
    try:
        return "cache", workspace.resolve_cache(name).cache_id
    except UnknownNameError:
        if any(cache_id.startswith(name) for cache_id in caches):
            raise
    if any(run_id.startswith(name) for run_id in runs):
        return "run", find_run(workspace.files, name).run_id
    names = [str(workspace.cache(cache_id).info().get("name") or "") for cache_id in caches]
    known = [*caches, *filter(None, names), *runs]
    raise UnknownNameError.among("cache or run", name, known, hint="raylens du lists caches, raylens runs lists runs.")


def _confirm(what: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{what} would be removed, and nobody is there to be asked.", hint="say so with --yes.")
    if not typer.confirm(f"remove {what}?", err=True):
        raise typer.Abort
