"""``raylens sql``: one SELECT over the views of the workspace, as a table, JSON, CSV or Parquet."""

from __future__ import annotations

import errno
import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import DiskFullError, InputError
from raylens_app.cli.output import Column, note, print_json, print_table, print_text, write_json
from raylens_app.cli.state import state_of
from raylens_app.cli.table_files import distinct, write_csv, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_SHOWN: Final = 1000
_ROWS_WRITTEN: Final = 1_000_000
_ITEMS_SHOWN: Final = 6
_EXPLAINED: Final = ["explain_key", "explain_value"]


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("sql", rich_help_panel="Look")(sql)


def sql(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(help="One SELECT, or EXPLAIN of one; - reads it from stdin.")] = None,
    form: Annotated[
        Format | None, typer.Option("--format", "-f", help="Default: what --out ends in, else a table.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write here and not to stdout.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which the query is given up.")] = 30.0,
    max_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Rows at most. Default: {_ROWS_SHOWN:,} in a table on stdout, else {_ROWS_WRITTEN:,}."
        ),
    ] = None,
    views: Annotated[bool, typer.Option("--views", help="List the views with their columns.")] = False,
) -> None:
    """Ask the workspace in SQL (DuckDB's dialect).

    Everything RayLens stores is a view: windows, activations, feature_stats, logits, runs and more;
    --views lists them. Only reading is possible.
    """
    form = form or _format_of(out)
    if views:
        _list_views(form, out)
        return
    if query is None:
        raise InputError("there is no query.", hint='write raylens sql "SELECT …"; raylens sql --views says of what.')
    if form is Format.PARQUET and out is None and sys.stdout.isatty():
        raise InputError("Parquet is not for terminals.", hint="name a file with --out, or pipe it.")
    from raylens.store.sql import query as ask

    limit = max_rows or (_ROWS_SHOWN if form is Format.TABLE and out is None else _ROWS_WRITTEN)
    text = sys.stdin.read() if query == "-" else query
    result = ask(state_of(context).open_workspace(), text, timeout_s=timeout, max_rows=limit)
    _write(result.table, form, out)
    if result.truncated:
        note(f"only the first {limit:,} rows; --max-rows allows more.")


def _format_of(out: Path | None) -> Format:
    """The format that a file's name ends in; a table where it says nothing."""
    ending = out.suffix.removeprefix(".").lower() if out else ""
    return Format(ending) if ending in set(Format) else Format.TABLE


def _list_views(form: Format, out: Path | None) -> None:
    import pyarrow as pa

    from raylens.store.view_schemas import VIEWS, duckdb_type

    rows = [
        {"view": name, "columns": ", ".join(f"{column.name} {_type(duckdb_type(column.type))}" for column in columns)}
        for name, columns in VIEWS.items()
    ]
    if form is Format.TABLE and out is None:
        print_table(rows, [Column("view", style="bold"), Column("columns", wrap=True)])
    else:
        _write(pa.Table.from_pylist(rows), form, out)


def _type(name: str) -> str:
    """A type's name in lower case, without the comma and space that stand between columns."""
    return name.lower().replace(", ", ",")


def _write(table: pa.Table, form: Format, out: Path | None) -> None:
    table = table.rename_columns(distinct(table.column_names))
    if out is not None:
        _write_file(table, form, out)
        note(f"wrote {table.num_rows:,} rows to {out}.")
    elif form is Format.TABLE:
        _print(table)
    elif form is Format.JSON:
        print_json(_rows(table))
    elif form is Format.CSV:
        # A program gets the text as it is; a terminal would obey it.
        write_csv(table, sys.stdout, safe=sys.stdout.isatty())
    else:
        sys.stdout.flush()
        write_parquet(table, sys.stdout.buffer)


def _write_file(table: pa.Table, form: Format, out: Path) -> None:
    """Write beside the file and rename, so that nobody reads half of it; a device or pipe is written to as it is."""
    whole = out.exists() and not out.is_file()
    target = out if whole else out.with_name(f".{out.name}.unfinished")
    try:
        with target.open("wb") as stream:
            if form is Format.PARQUET:
                write_parquet(table, stream)
            else:
                with io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="") as text:
                    if form is Format.JSON:
                        write_json(_rows(table), text)
                    else:  # a table for people has no file form of its own
                        write_csv(table, text, safe=False)
        if not whole:
            target.replace(out)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(f"there is no space for {out}.", hint="free some, or name a file elsewhere.") from error
        raise InputError(f"{out} cannot be written: {error.strerror or error}.", hint="name another file.") from error
    finally:
        if not whole:
            target.unlink(missing_ok=True)


def _print(table: pa.Table) -> None:
    import pyarrow.types as types

    if table.column_names == _EXPLAINED:
        for plan in table["explain_value"].to_pylist():
            for line in str(plan).splitlines():
                print_text(line)
        return
    columns = [
        Column(field.name, align="right" if _is_number(field.type, types) else "left", show=_cell)
        for field in table.schema
    ]
    print_table(_rows(table), columns)
    note(f"{table.num_rows:,} {'row' if table.num_rows == 1 else 'rows'}.")


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as plain values; Arrow alone would make a list of pairs of a map."""
    return table.to_pylist(maps_as_pydicts="lossy")


def _is_number(kind: pa.DataType, types: Any) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_cell(item) for item in value[:_ITEMS_SHOWN])
        return f"[{shown}, … {len(value)} in all]" if len(value) > _ITEMS_SHOWN else f"[{shown}]"
    if isinstance(value, dict):
        shown = ", ".join(f"{key}: {_cell(item)}" for key, item in list(value.items())[:_ITEMS_SHOWN])
        return f"{{{shown}, … {len(value)} in all}}" if len(value) > _ITEMS_SHOWN else f"{{{shown}}}"
    return str(value)
