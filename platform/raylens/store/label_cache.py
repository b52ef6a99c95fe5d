"""Labels that others gave to features, as they were fetched or imported: two tables in immutable files (A2.11).

``feature_cache`` has what Neuronpedia's page of a feature says, ``explanation_cache`` a row an explanation of it::

    label_cache/<model>-<source>-<8 hex>/source.json                      whose features these are
    label_cache/<…>/segments/<name>.feature_cache.parquet                 sorted by index; either may be missing
    label_cache/<…>/segments/<name>.explanation_cache.parquet
    label_cache/<…>/segments/<name>.json                                  manifest row of both, written last

A segment is what one writer commits at once, under a name of its own, so writers need no lock. What several
segments say of one feature is put together when it is read, in an order that does not depend on theirs
(:mod:`raylens.labels.label_store`). Small segments are rolled into one (:mod:`raylens.store.label_rolling`), whose
row names those it replaces.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raylens.errors import DamagedFileError
from raylens.ids import digest
from raylens.store.files import Files
from raylens.store.parquet import Layout, table_writer

LabelTable = Literal["feature_cache", "explanation_cache"]
LABEL_TABLES: Final[tuple[LabelTable, ...]] = ("feature_cache", "explanation_cache")

_SHARED: Final = (
    ("model", pa.string()),  # Neuronpedia's model id
    ("source", pa.string()),  # Neuronpedia's source id, which names the SAE
    ("index", pa.int32()),  # of the feature, from 0
    ("status", pa.string()),  # "ok", or "missing": whoever was asked has no such feature, or no explanation of it
    ("payload", pa.string()),  # JSON; null where missing
    ("digest", pa.int64()),  # first 8 bytes of the SHA-256 of index, status and payload: the same row twice is one
    ("origin", pa.string()),  # "remote", "export" or "sqlite"
    ("fetched_at", pa.timestamp("us", tz="UTC")),
)
SCHEMAS: Final[Mapping[LabelTable, pa.Schema]] = {
    "feature_cache": pa.schema(_SHARED),
    "explanation_cache": pa.schema(
        [
            *_SHARED,
            ("explanation_id", pa.string()),  # 16 hex of who says what: type, model and description
            ("type_name", pa.string()),
            ("description", pa.string()),
            ("score", pa.float64()),  # mean of the payload's scores; null without one
        ]
    ),
}
# A page is some 50 kB and looked up alone, an explanation 300 bytes and read with all others of its SAE.
LAYOUTS: Final[Mapping[LabelTable, Layout]] = {
    "feature_cache": Layout(SCHEMAS["feature_cache"], rising=frozenset({"index"}), seek=("index",), group_rows=32),
    "explanation_cache": Layout(
        SCHEMAS["explanation_cache"], rising=frozenset({"index"}), seek=("index",), group_rows=2048
    ),
}
FOLDER: Final = "label_cache"

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._]+")


class Segment(BaseModel):
    """The manifest row of one commit.

    Attributes:
        name: Of its files; names sort by time.
        rows: Of each table that it has a file of.
        bytes: Size of its files.
        replaces: Names of segments whose rows are all in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: dict[LabelTable, int] = Field(default_factory=dict)
    bytes: int = Field(ge=0)
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelFolder:
    """Where the labels of one source lie.

    Attributes:
        files: The workspace's.
        model: Neuronpedia's id of the model.
        source: Neuronpedia's id of the source.
    """

    files: Files
    model: str
    source: str

    @property
    def path(self) -> str:
        """Relative to the workspace."""
        words = _UNSAFE.sub("-", f"{self.model}-{self.source}").strip("-.")[:60]
        return f"{FOLDER}/{words}-{digest(f'{self.model}/{self.source}')[:8]}"

    def file(self, segment: str, table: LabelTable) -> str:
        """The Parquet file of one table of a segment."""
        return f"{self.path}/segments/{segment}.{table}.parquet"

    def row(self, segment: str) -> str:
        """The manifest row of a segment."""
        return f"{self.path}/segments/{segment}.json"

    def write(
        self, tables: Mapping[LabelTable, pa.Table], *, name: str | None = None, replaces: Sequence[str] = ()
    ) -> Segment | None:
        """Commit rows of both tables: all of them or none, durable when this returns; None where there are no rows.

        Args:
            tables: In the columns of ``SCHEMAS`` and any order of rows.
            name: Of the segment; by default a new one.
            replaces: Segments whose rows are all among these.

        Raises:
            DiskFullError: No space; nothing was committed.
        """
        name = name or f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(3)}"
        rows: dict[LabelTable, int] = {}
        size = 0
        for table, content in tables.items():
            if content.num_rows:
                order = np.argsort(content["index"].to_numpy(), kind="stable")
                with table_writer(self.files, self.file(name, table), LAYOUTS[table]) as writer:
                    writer.append(content.take(pa.array(order)).cast(SCHEMAS[table]))
                rows[table] = content.num_rows
                size += self.files.size(self.file(name, table))
        return self.commit(Segment(name=name, rows=rows, bytes=size, replaces=tuple(replaces))) if rows else None

    def commit(self, segment: Segment) -> Segment:
        """Make a segment, whose files are all there, exist."""
        if not self.files.exists(f"{self.path}/source.json"):
            self.files.commit_json(f"{self.path}/source.json", {"model": self.model, "source": self.source})
        self.files.commit(self.row(segment.name), segment.model_dump_json().encode())
        return segment

    def segments(self, known: Mapping[str, Segment] | None = None) -> dict[str, Segment]:
        """Every segment by name, replaced ones too, oldest first; rows in ``known`` are not read again.

        Raises:
            DamagedFileError: A row cannot be read.
        """
        found: dict[str, Segment] = {}
        for path in self.files.list(f"{self.path}/segments"):
            name = path.rpartition("/")[2].removesuffix(".json")
            if not path.endswith(".json"):
                continue
            if known and name in known:
                found[name] = known[name]
                continue
            try:
                found[name] = Segment.model_validate_json(self.files.read_bytes(path))
            except FileNotFoundError:
                continue  # removed since it was listed: another one replaces it
            except ValidationError as error:
                raise DamagedFileError(
                    f"{self.files.native(path)} is damaged.",
                    hint="remove it; what it named is fetched or imported again.",
                ) from error
        return found


def live(segments: Mapping[str, Segment]) -> dict[str, Segment]:
    """The segments that no other one replaces."""
    replaced = {name for one in segments.values() for name in one.replaces if name != one.name}
    return {name: one for name, one in segments.items() if name not in replaced}


def label_folders(files: Files) -> Iterator[LabelFolder]:
    """Every source that there are labels of, in order of folder names.

    Raises:
        DamagedFileError: A ``source.json`` cannot be read.
    """
    for name in files.folders(FOLDER):
        try:
            about = files.read_json(f"{FOLDER}/{name}/source.json")
        except FileNotFoundError:
            continue
        model, source = about.get("model"), about.get("source")
        if not isinstance(model, str) or not isinstance(source, str):
            raise DamagedFileError(
                f"{files.native(f'{FOLDER}/{name}/source.json')} is damaged: it names no model and source.",
                hint="remove that folder, and fetch or import its labels again.",
            )
        yield LabelFolder(files, model, source)


def label_files(files: Files, table: LabelTable) -> list[str]:
    """The files of one table over all sources, relative to the workspace: what a view of it is made over.

    A row may stand in several files, and what several origins say of one feature in several rows.
    """
    return [
        folder.file(one.name, table)
        for folder in label_folders(files)
        for one in live(folder.segments()).values()
        if table in one.rows
    ]
