"""Ordering one range that does not fit in memory: DuckDB's external sort, fed and drained in batches.

Peaks are computed before (:class:`raylens.store.slices.Slice`), so what is left is one sort, which
DuckDB does within a memory limit by writing sorted runs to a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa

from raylens.errors import DiskFullError, OutOfMemoryError
from raylens.schema import ACTIVATIONS
from raylens.store.disk import as_disk_full
from raylens.store.slices import Slice

_SORTED: Final = "SELECT * FROM slices ORDER BY feature, peak DESC, window_id, position"
_BATCH_ROWS: Final = 122_880  # DuckDB's own row group


def sorted_batches(slices: Iterable[Slice], *, memory: str, spill: Path | None = None) -> Iterator[pa.Table]:
    """Rows of ``schema.ACTIVATIONS`` in file order, in batches.

    Args:
        slices: Of one range.
        memory: DuckDB's limit, for example ``256MB``.
        spill: Folder for sorted runs; about 20 bytes a row. The system's temporary folder by default.

    Raises:
        DiskFullError: ``spill`` is full.
        OutOfMemoryError: The limit is too small even for an external sort.
    """
    with tempfile.TemporaryDirectory(prefix="raylens-merge-", dir=spill) as folder:
        settings = {"memory_limit": memory, "temp_directory": folder, "threads": 1}
        with duckdb.connect(config=settings) as connection:
            connection.register("slices", pa.RecordBatchReader.from_batches(ACTIVATIONS, _batches(slices)))
            try:
                for batch in connection.sql(_SORTED).to_arrow_reader(_BATCH_ROWS):
                    yield pa.Table.from_batches([batch]).cast(ACTIVATIONS)
            except (duckdb.Error, OSError) as error:  # DuckDB's own, or as Arrow's reader passes it on
                raise _explained(error, Path(folder), memory) from error


def _batches(slices: Iterable[Slice]) -> Iterator[pa.RecordBatch]:
    for rows in slices:
        yield pa.record_batch(
            [
                np.repeat(rows.group_feature, rows.group_rows),
                np.repeat(rows.group_peak, rows.group_rows),
                rows.window_id,
                rows.position,
                rows.activation,
            ],
            schema=ACTIVATIONS,
        )


def _explained(error: Exception, spill: Path, memory: str) -> Exception:
    if full := as_disk_full(error, spill, writing="sorted runs"):
        return DiskFullError(full.message, hint="name a larger disk with TMPDIR, then run the same command again.")
    if "Out of Memory" in str(error):
        return OutOfMemoryError(
            f"sorting one range of features does not fit in {memory}.", hint="give the merge more memory."
        )
    return error
