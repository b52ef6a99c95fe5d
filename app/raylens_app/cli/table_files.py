"""A table as CSV and Parquet: what ``raylens sql`` writes, and what the app's SQL page has for download."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from raylens_app.cli.output import printable

if TYPE_CHECKING:
    import pyarrow as pa


def distinct(names: Sequence[str]) -> list[str]:
    """Column names, numbered where SQL gave two the same."""
    return [name if names.index(name) == at else f"{name} ({at + 1})" for at, name in enumerate(names)]


def write_parquet(table: pa.Table, stream: IO[bytes]) -> None:
    """Write a table as Parquet; its columns have distinct names."""
    import pyarrow.parquet as pq

    pq.write_table(table, stream, compression="zstd")


def write_csv(table: pa.Table, stream: IO[str], *, safe: bool) -> None:
    """Write a table as CSV, lists and structs as JSON.

    Args:
        table: What to write.
        stream: Where to.
        safe: For a terminal, which would obey control characters.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.column_names)
    for batch in table.to_batches(max_chunksize=4096):
        columns = (column.to_pylist(maps_as_pydicts="lossy") for column in batch.columns)
        for row in zip(*columns, strict=True):
            cells = [cell_of(value) for value in row]
            writer.writerow([printable(cell) if safe and isinstance(cell, str) else cell for cell in cells])


def cell_of(value: Any) -> Any:
    """Lists and structs as JSON, truth in lower case as SQL writes it; the rest as it is."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
