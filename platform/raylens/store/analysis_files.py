"""Feature analyses as folders of Parquet files: ``analysis.json`` and a file a table.

Any tool that reads Parquet opens them. A folder from elsewhere is data and nothing more: no pickles, sizes looked at
before anything is read, types as they have to be, page checksums verified.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from raylens.errors import InputError
from raylens.store import parquet
from raylens.store.analysis import TABLES, Analysis, AnalysisHeader
from raylens.store.analysis_checks import check
from raylens.store.disk import as_disk_full
from raylens.store.files import Files

HEADER: Final = "analysis.json"
HEADER_BYTES: Final = 1 << 20
FILE_BYTES: Final = 2 << 30
"""Of a file, and of what it unpacks to."""
MOST_ROWS: Final = 200_000_000


def save_parquet(analysis: Analysis, folder: Path) -> None:
    """Write a new folder: all of its files, or nothing.

    Raises:
        InputError: It is there already.
        DiskFullError: No space.
    """
    with new_folder(folder, "a feature analysis") as made:
        files = Files.open(made)
        for name, table in analysis.tables.items():
            parquet.write_table(files, f"{name}.parquet", table, parquet.layout_of(TABLES[name]))
        write_header(analysis.header, made)


def load_parquet(folder: Path) -> Analysis:
    """Read a folder, and check all that it says.

    Raises:
        InputError: It is no analysis; says which file, row and column.
    """
    header = read_header(folder)
    tables = {name: _table(path, name) for name in TABLES if (path := folder / f"{name}.parquet").exists()}
    analysis = Analysis(header, tables)
    check(analysis, lambda table: str(folder / f"{table}.parquet"))
    return analysis


def write_header(header: AnalysisHeader, folder: Path) -> None:
    """Write ``analysis.json``."""
    said = json.dumps(header.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / HEADER).write_text(said + "\n", encoding="utf-8")


def read_header(folder: Path) -> AnalysisHeader:
    """``analysis.json`` of a folder.

    Raises:
        InputError: It is missing, too large, or says something else.
    """
    path = folder / HEADER
    if not path.is_file():
        raise InputError(f"{folder} holds no {HEADER}.", hint="name a folder that raylens export features made.")
    bounded(path, HEADER_BYTES)
    try:
        header = AnalysisHeader.model_validate_json(path.read_bytes())
        header.sae_id  # noqa: B018 - parsed, so that its form is checked
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the top"
        raise InputError(
            f"{path} is no header of a feature analysis: {first['msg']}, at {where}.",
            hint="ask for the analysis anew; a newer RayLens may have made it.",
        ) from error
    except InputError as error:
        raise InputError(f"{path}, key sae: {error.message}", hint=error.hint) from error
    return header


def bounded(path: Path, most: int) -> None:
    """Refuse a file that is too large, before it is read.

    Raises:
        InputError: It is.
    """
    size = path.stat().st_size
    if size > most:
        raise InputError(
            f"{path} has {size:,} bytes, more than the {most:,} that are read.", hint="export fewer windows."
        )


@contextmanager
def new_folder(folder: Path, what: str) -> Iterator[Path]:
    """A folder to write into that takes its name on a clean exit, and is gone otherwise.

    Raises:
        InputError: There is one of that name.
        DiskFullError: No space.
    """
    made: Path | None = None
    try:
        if folder.exists():
            raise InputError(f"{folder} is there already.", hint="name a new folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield made
        made.chmod(0o755)  # temporary folders are their owner's alone
        made.rename(folder)
    except OSError as error:
        full = as_disk_full(error, folder.parent, writing=what)
        if full is not None:
            raise full from error
        raise InputError(f"{folder} cannot be written ({error.strerror}).", hint="name another folder.") from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _table(path: Path, name: str) -> pa.Table:
    bounded(path, FILE_BYTES)
    expected = TABLES[name]
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
            if file.metadata.num_rows > MOST_ROWS or sum(one.total_byte_size for one in groups) > 2 * FILE_BYTES:
                raise InputError(f"{path} unpacks to more than is read.", hint="export fewer windows.")
            _require_columns(path, file.schema_arrow, expected)
            return file.read(use_threads=False).cast(expected).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} is no Parquet file, or damaged: {why[:200]}.", hint="fetch it anew.") from error


def _require_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    if found.names != expected.names:
        odd: Any = sorted(set(found.names) ^ set(expected.names)) or found.names
        raise InputError(
            f"{path} has other columns than it should: {', '.join(odd)[:200]}.",
            hint=f"it should have {', '.join(expected.names)}.",
        )
    for one, other in zip(found, expected, strict=True):
        if not _alike(one.type, other.type):
            raise InputError(f"{path}: column {one.name} is {one.type}.", hint=f"it should be {other.type}.")


def _alike(found: pa.DataType, expected: pa.DataType) -> bool:
    """Equal, but for what Parquet does not keep: that lists are of one length."""
    if pa.types.is_list(found) and (pa.types.is_list(expected) or pa.types.is_fixed_size_list(expected)):
        return found.value_type == expected.value_type
    return found == expected
