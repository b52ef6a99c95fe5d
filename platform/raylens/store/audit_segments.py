"""A table that grows by a few rows at a time, in Parquet files that are never changed.

::

    <folder>/<name>.parquet       what one writer appended at once
    <folder>/<name>.json          its manifest row, written last: which segments it replaces

Writers need no lock: each segment has a name of its own. A row counts until a later one of the same key. Many small
segments are rolled into one, named by those it replaces, so that two who roll at once write the same; what is replaced
stays for readers that listed it before, until housekeeping finds it old. The pattern is that of
:mod:`raylens.store.label_cache`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from raylens.errors import DamagedFileError
from raylens.ids import digest
from raylens.store.disk import Stored
from raylens.store.files import Files
from raylens.store.parquet import TableFile, layout_of, write_table

ROLLED_AT: Final = 64
"""Segments at most: one more and they are rolled into one."""

_REMEDY: Final = "remove it and the .json beside it; what it held is made again."


class Segment(BaseModel):
    """The manifest row of a segment.

    Attributes:
        name: Of its files; names sort by time.
        rows: How many it has.
        replaces: Names of segments whose rows are all in it, or have later ones there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """A table in segments.

    Attributes:
        files: The workspace's.
        folder: Holds the table and nothing else.
        schema: Of its rows.
        key: Columns of which a row is the only one; the last row counts.
        time: Column that says which is the last.
    """

    files: Files
    folder: str
    schema: pa.Schema
    key: tuple[str, ...]
    time: str

    def append(self, rows: pa.Table) -> None:
        """Add rows: all of them or none, durable when this returns.

        Raises:
            DiskFullError: No space; nothing was added.
        """
        if rows.num_rows:
            self._commit(f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(4)}", rows, ())
            self._roll()

    def read(self) -> pa.Table:
        """The last row of each key, in order of keys.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        return self.latest([self._rows(one.name) for one in self._live()])

    def latest(self, tables: Sequence[pa.Table]) -> pa.Table:
        """The last row of each key among tables, in order of keys."""
        rows = pa.concat_tables([self.schema.empty_table(), *tables])
        rows = rows.sort_by([(name, "ascending") for name in (*self.key, self.time)])
        keys = list(zip(*(rows[name].to_pylist() for name in self.key), strict=True))
        last = [at for at, key in enumerate(keys) if keys[at + 1 : at + 2] != [key]]
        return rows.take(pa.array(last, pa.int64()))

    def paths(self) -> list[str]:
        """Its Parquet files, relative to the workspace; a key may have rows in several."""
        return [self._parquet(one.name) for one in self._live()]

    def superseded(self, before: float) -> Iterator[tuple[Stored, str]]:
        """Files that are no longer needed since a time (seconds since 1970), each with why; rows before their files."""
        every = {one.name: one for one in self._segments()}
        stored = {one.path: one for one in self.files.scan(self.folder, recursive=False)}
        gone = {
            name
            for one in every.values()
            for name in one.replaces
            if name in every and stored[self._json(one.name)].modified < before
        }
        for name in sorted(gone):
            yield stored[self._json(name)], "rolled into another"
        for name in sorted(gone & {path.rpartition("/")[2].removesuffix(".parquet") for path in stored}):
            yield stored[self._parquet(name)], "rolled into another"
        for path, one in stored.items():
            alone = path.endswith(".parquet") and path.removesuffix(".parquet") + ".json" not in stored
            if alone and not one.temporary and one.modified < before:
                yield one, "file without a row"

    def _commit(self, name: str, rows: pa.Table, replaces: tuple[str, ...]) -> None:
        write_table(self.files, self._parquet(name), rows.cast(self.schema), layout_of(self.schema))
        segment = Segment(name=name, rows=rows.num_rows, replaces=replaces)
        self.files.commit(self._json(name), segment.model_dump_json().encode())

    def _roll(self) -> None:
        live = self._live()
        if len(live) <= ROLLED_AT:
            return
        replaces = tuple(sorted(one.name for one in live))
        name = f"{replaces[-1][:22]}-{digest({'replaces': list(replaces)})[:8]}"
        # What was replaced before, and is there still, must not count again once the segment that says so is gone.
        old = {gone for one in live for gone in one.replaces} & {one.name for one in self._segments()}
        self._commit(name, self.latest([self._rows(one) for one in replaces]), (*replaces, *sorted(old)))

    def _live(self) -> list[Segment]:
        every = self._segments()
        replaced = {name for one in every for name in one.replaces}
        return [one for one in every if one.name not in replaced]

    def _segments(self) -> list[Segment]:
        found: list[Segment] = []
        for path in self.files.list(self.folder):
            if path.endswith(".json"):
                try:
                    found.append(Segment.model_validate_json(self.files.read_bytes(path)))
                except FileNotFoundError:
                    continue  # replaced and removed since it was listed
                except ValidationError as error:
                    raise DamagedFileError(f"{self.files.native(path)} is damaged.", hint=_REMEDY) from error
        return found

    def _rows(self, name: str) -> pa.Table:
        with TableFile(self.files, self._parquet(name), remedy=_REMEDY) as file:
            return file.read().cast(self.schema)

    def _parquet(self, name: str) -> str:
        return f"{self.folder}/{name}.parquet"

    def _json(self, name: str) -> str:
        return f"{self.folder}/{name}.json"
