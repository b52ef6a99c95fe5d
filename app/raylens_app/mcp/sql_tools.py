"""The SQL door as a tool: one SELECT over the views, bounded in time, rows and bytes."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from raylens.store.sql import query
from raylens.store.view_schemas import VIEWS
from raylens_app.mcp.answers import Answer, Document, plural
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.tool import Arguments, reading

_MEMORY: Final = "1GB"


class Sql(Arguments):
    """Of ``sql``."""

    query: Annotated[str, Field(min_length=1, max_length=20_000, description="One SELECT, in DuckDB's dialect.")]
    max_rows: Annotated[int, Field(ge=1, le=1000, description="Rows at most.")] = 50
    timeout_s: Annotated[float, Field(gt=0, le=120, description="Seconds after which it is given up.")] = 20.0


def sql(desk: Desk, given: Sql) -> Answer:
    """Rows of a query, as lists in the order of ``columns``."""
    result = query(desk.workspace, given.query, timeout_s=given.timeout_s, memory=_MEMORY, max_rows=given.max_rows)
    table = result.table
    columns = [column.to_pylist(maps_as_pydicts="lossy") for column in table.columns]
    rows = [list(values) for values in zip(*columns, strict=True)]

    def rest(shown: int) -> str:
        if shown == len(rows) and not result.truncated:
            return ""
        why = f"only the first {given.max_rows} rows were asked for" if shown == len(rows) else "the rest does not fit"
        return f"{why}: aggregate, choose columns, or page with ORDER BY … LIMIT … OFFSET {shown}."

    said = f"{plural(len(rows), 'row')}{', and there are more' if result.truncated else ''}."
    return Document(said, {"columns": table.column_names}, "rows", rows, rest, digits=None)


TOOLS: Final = (
    reading(
        "sql",
        f"One SELECT over the workspace's views (DuckDB): {', '.join(VIEWS)}. audit_runs, audit_prompts and "
        "audit_effects hold audits. SELECT * FROM view LIMIT 1 shows its columns.",
        Sql,
        sql,
    ),
)
