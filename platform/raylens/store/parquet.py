"""How every table is written as Parquet, and how it is read back when the disk may have lied.

Encodings, measured on 2.5 M activations of a 1536-latent TopK-32 SAE (one core of a small server):

* **No dictionaries.** They are the default of every writer and the worst choice here: activations,
  windows and positions have too many distinct values (8.8 bytes per activation elsewhere).
* **Floats: BYTE_STREAM_SPLIT.** With a 10-bit mantissa two of the four byte planes are constant:
  1.6 bytes a value against 2.1 plain.
* **Integers that rise within a feature: DELTA_BINARY_PACKED.** A shard's windows 0.22 bytes against
  0.57 plain, positions 0.9 against 1.25. Not a merged file's windows: these come in runs of one
  value, then jump; zstd sees the runs in plain values (0.75 bytes) and not in packed deltas (1.3).
* **zstd**, level 1 in shards, which are written beside the encoder (50 ns a row in all, 2.9 bytes;
  faster levels save 4 ns and cost 0.6 bytes), level 3 in merged files; there activations gain 5 %
  from level 6 for 20 ns, and windows lose 10 % to every level above 1, whose matches are shorter.
* **Statistics** only of the columns that a reader seeks by: footers are parsed at every cold read.
* **Page checksums**, so that a flipped bit is an error that names its file, not a wrong number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raylens import schema
from raylens.errors import DamagedFileError
from raylens.store.files import Files

FOOTER_VERSION: Final = "2.6"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the columns of one table are laid out.

    Attributes:
        table: The Arrow schema.
        rising: Paths of integer columns whose neighbours are close: delta-packed.
        seek: Paths of columns whose minimum and maximum are kept for each row group.
        group_rows: Rows in a row group, where the writer does not say otherwise.
        level: zstd level.
        levels: zstd levels of single columns, where another one was measured to be better.
    """

    table: pa.Schema
    rising: frozenset[str] = frozenset()
    seek: tuple[str, ...] = ()
    group_rows: int = 65_536
    level: int = 3
    levels: Mapping[str, int] = field(default_factory=dict)

    def compression_levels(self) -> dict[str, int]:
        """The zstd level of each leaf column."""
        return {path: self.levels.get(path, self.level) for column in self.table for path, _ in _leaves(column)}

    def encodings(self) -> dict[str, str]:
        """Parquet encoding of each leaf column."""
        return {path: self._encoding(path, kind) for column in self.table for path, kind in _leaves(column)}

    def _encoding(self, path: str, kind: pa.DataType) -> str:
        if path in self.rising:
            return "DELTA_BINARY_PACKED"
        return "BYTE_STREAM_SPLIT" if pa.types.is_floating(kind) else "PLAIN"


DOCUMENTS: Final = Layout(schema.DOCUMENTS, rising=frozenset({"doc_id", "n_tokens"}), seek=("doc_id",), group_rows=2048)
WINDOWS: Final = Layout(
    schema.WINDOWS,
    rising=frozenset({"window_id", "doc_id", "start", "token_offsets.list.element"}),
    seek=("window_id", "doc_id"),
    # A reader wants 20 windows from all over the file, one a group: 2.6 ms, against 3.5 with groups of 128
    # for 3 % less space, and 1.8 with groups of 32 for 6 % more.
    group_rows=64,
)
SHARD: Final = Layout(
    schema.SHARD, rising=frozenset({"feature", "window_id", "position"}), seek=("feature", "window_id"), level=1
)
ACTIVATIONS: Final = Layout(
    schema.ACTIVATIONS,
    rising=frozenset({"feature", "position"}),
    seek=("feature", "peak"),
    levels={"window_id": 1, "activation": 6},
    # One feature's top windows are one group: 0.75 ms to decode, and 32 groups in a file of a million rows.
    group_rows=32_768,
)
FEATURE_STATS: Final = Layout(
    schema.FEATURE_STATS,
    rising=frozenset({"feature", "n_active", "n_windows", "histogram.list.element"}),
    seek=("feature", "density"),
    group_rows=1024,
)


def layout_of(table: pa.Schema) -> Layout:
    """The layout of any other table of :mod:`raylens.schema`: features rise, the rest does not."""
    rising = frozenset({"feature"} & set(table.names))
    return Layout(table, rising=rising, seek=tuple(rising))


class TableWriter:
    """Writes one Parquet file in a layout; made by :func:`table_writer`."""

    def __init__(self, writer: pq.ParquetWriter, layout: Layout) -> None:
        self._writer = writer
        self._layout = layout
        self._pending: list[pa.Table] = []
        self._n_pending = 0
        self.n_rows = 0

    def group(self, table: pa.Table) -> None:
        """Write ``table`` as exactly one row group, an empty one too."""
        if table.schema != self._layout.table:
            table = table.cast(self._layout.table)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.n_rows += table.num_rows

    def append(self, table: pa.Table) -> None:
        """Add rows; they come out in row groups of the layout's size, however they went in."""
        size = self._layout.group_rows
        self._pending.append(table)
        self._n_pending += table.num_rows
        if self._n_pending < size:
            return
        rows = pa.concat_tables(self._pending)
        whole = self._n_pending - self._n_pending % size
        for first in range(0, whole, size):
            self.group(rows.slice(first, size).combine_chunks())
        self._pending = [rows.slice(whole)]
        self._n_pending -= whole

    def finish(self) -> None:
        """Write what :meth:`append` still holds."""
        if self._n_pending:
            self.group(pa.concat_tables(self._pending).combine_chunks())
        self._pending, self._n_pending = [], 0


@contextmanager
def table_writer(files: Files, rel: str, layout: Layout) -> Iterator[TableWriter]:
    """Write ``rel`` in ``layout``; it is committed on a clean exit, and on any other leaves nothing."""
    with files.staged(rel) as path, _opened(path, layout) as writer:
        table = TableWriter(writer, layout)
        yield table
        table.finish()


def table_bytes(groups: Iterable[pa.Table], layout: Layout, note: str) -> bytes:
    """Tables as the row groups of a Parquet file, with a note in its footer."""
    sink = pa.BufferOutputStream()
    with _opened(sink, layout) as writer:
        table = TableWriter(writer, layout)
        for group in groups:
            table.group(group)
        writer.add_key_value_metadata({"raylens": note})
    return sink.getvalue().to_pybytes()


def _opened(where: Path | pa.NativeFile, layout: Layout) -> pq.ParquetWriter:
    statistics: Any = list(layout.seek)  # pyarrow annotates a flag here, and documents and takes a list of columns too
    return pq.ParquetWriter(
        where,
        layout.table,
        version=FOOTER_VERSION,
        compression="zstd",
        compression_level=layout.compression_levels(),
        use_dictionary=False,
        column_encoding=layout.encodings(),
        write_statistics=statistics,
        write_page_checksum=True,
        store_schema=False,
    )


def write_table(files: Files, rel: str, table: pa.Table, layout: Layout | None = None) -> int:
    """Write a whole table; returns the file's size in bytes."""
    with table_writer(files, rel, layout or layout_of(table.schema)) as writer:
        writer.append(table)
    return files.size(rel)


class TableFile:
    """One Parquet file, opened for reading by row group; its footer is parsed once.

    Args:
        files: The workspace.
        rel: The file, relative to it.
        remedy: What the user does if the file turns out to be damaged.

    Raises:
        DamagedFileError: Here or at a read: it is missing, truncated, or fails a checksum.
    """

    def __init__(self, files: Files, rel: str, *, remedy: str) -> None:
        self._name = files.native(rel)
        self._remedy = remedy
        with self._checked():
            # Exact reads on a disk; on an object store the column chunks of a group come in one request.
            self._file = pq.ParquetFile(
                files.open_input(rel), page_checksum_verification=True, pre_buffer=not files.local
            )
        self.metadata = self._file.metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close(force=True)

    @property
    def n_groups(self) -> int:
        return self.metadata.num_row_groups

    def bounds(self, column: str) -> NDArray[np.float64]:
        """``[2, groups]``: smallest and largest value of a ``seek`` column in each row group, from the footer."""
        place = self.metadata.schema.names.index(column)
        found = [self.metadata.row_group(group).column(place).statistics for group in range(self.n_groups)]
        return np.array([[one.min for one in found], [one.max for one in found]], np.float64).reshape(2, len(found))

    def read(self, groups: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of some row groups, or of all, in one chunk a column."""
        wanted = range(self.n_groups) if groups is None else groups
        with self._checked():
            table = self._file.read_row_groups(
                list(wanted), columns=None if columns is None else list(columns), use_threads=False
            )
        return table.combine_chunks()

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one row group."""
        return self.read([group], columns)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise DamagedFileError(f"{self._name} is missing.", hint=self._remedy) from error
        except pa.ArrowException as error:
            raise self._damaged(error) from error
        except OSError as error:
            # Arrow reports bad pages as an OSError without a number; a real one is the disk's or the network's.
            if error.errno is not None:
                raise
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DamagedFileError:
        why = str(error).strip().splitlines() or [type(error).__name__]
        return DamagedFileError(f"{self._name} is damaged: {why[0].rstrip('.')}.", hint=self._remedy)


def _leaves(column: pa.Field, prefix: str = "") -> Iterator[tuple[str, pa.DataType]]:
    path = f"{prefix}{column.name}"
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        yield from _leaves(column.type.value_field.with_name("element"), f"{path}.list.")
    elif pa.types.is_map(column.type):
        yield from _leaves(column.type.key_field.with_name("key"), f"{path}.key_value.")
        yield from _leaves(column.type.item_field.with_name("value"), f"{path}.key_value.")
    else:
        yield path, column.type
