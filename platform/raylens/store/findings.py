"""Explanations and scores: what was found about features, in files that one task writes once.

A *pass* is one way of explaining or scoring the features of one SAE in one cache; its settings name its
folder, so that the same command finds what it has made before::

    caches/<cache>/findings/<kind>/<sae key>/<16 hex>/settings.json
    caches/<cache>/findings/<kind>/<sae key>/<16 hex>/<features>.parquet
    caches/<cache>/findings/<kind>/<sae key>/<16 hex>/<features>.json     manifest row, written last

A file without its row does not exist. Features are recorded one by one, with those of which nothing
could be said, so that a rerun asks about what is missing and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from raylens import schema
from raylens.errors import DamagedFileError
from raylens.ids import SaeId, digest
from raylens.store.files import Files
from raylens.store.parquet import TableFile, layout_of, table_writer
from raylens.store.workspace import CacheStore, Workspace

FindingKind = Literal["explanations", "scores"]
SCHEMAS: Final[Mapping[FindingKind, pa.Schema]] = {"explanations": schema.EXPLANATIONS, "scores": schema.SCORES}

_SAME: Final[Mapping[FindingKind, tuple[str, ...]]] = {
    "explanations": ("explanation_id",),
    "scores": ("explanation_id", "scorer", "judge", "control", "metric"),
}
FOUND: Final[Mapping[FindingKind, str]] = {"explanations": "explanation", "scores": "value"}
"""What was found: of equal figures of one run, that with the most of it counts, so that all readers choose alike."""
_FOLDER: Final = "findings"
_SETTINGS: Final = "settings.json"
_CHUNK_ROWS: Final = 4096
REMEDY: Final = "remove it and the .json beside it, then run the same command again."


class FindingsRow(BaseModel):
    """The manifest row of one file.

    Attributes:
        kind: What its rows are.
        cache_id: Of which cache.
        sae: Of whose features.
        path: The Parquet file, relative to the workspace; empty where its features gave no rows.
        features: Features it settles, those without rows included.
        rows: How many rows it has.
        bytes: Its size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FindingKind
    cache_id: str
    sae: str
    path: str
    features: tuple[int, ...]
    rows: int
    bytes: int


class Findings:
    """One pass over the features of one SAE in one cache.

    Args:
        cache: Which cache.
        sae: Whose features.
        kind: Explanations or scores.
        settings: What determines the result, JSON values; not what only decides how fast it comes.
    """

    def __init__(self, cache: CacheStore, sae: SaeId, kind: FindingKind, settings: Mapping[str, object]) -> None:
        self.cache, self.sae, self.settings = cache, sae, dict(settings)
        self.kind: FindingKind = kind
        self.pass_id = digest({"kind": kind, "sae": str(sae), "cache": cache.cache_id, **self.settings})[:16]
        self.folder = f"{_folder(cache, kind)}/{sae.key}/{self.pass_id}"

    def begin(self) -> None:
        """Note the settings, for people; harmless where they are noted already."""
        path = f"{self.folder}/{_SETTINGS}"
        if not self.cache.files.exists(path):
            self.cache.files.commit_json(path, {"sae": str(self.sae), **self.settings})

    def rows(self) -> list[FindingsRow]:
        """Manifest rows of what is there, in order of features."""
        return sorted(_rows(self.cache, self.folder), key=lambda row: row.features)

    def settled(self) -> frozenset[int]:
        """Features about which this pass has written."""
        return frozenset(feature for row in self.rows() for feature in row.features)

    def write(self, features: Sequence[int], table: pa.Table) -> FindingsRow:
        """Commit what was found about ``features``, and last the row that makes it exist.

        Rows come out in order of feature, whatever order they are in.
        """
        named = sorted(set(features))
        name = f"{named[0]:08d}-{digest({'features': named})[:8]}"
        path, size = f"{self.folder}/{name}.parquet", 0
        if table.num_rows:
            order = np.argsort(table["feature"].to_numpy(), kind="stable")
            with table_writer(self.cache.files, path, layout_of(SCHEMAS[self.kind])) as writer:
                writer.append(table.take(pa.array(order)).cast(SCHEMAS[self.kind]))
            size = self.cache.files.size(path)
        row = FindingsRow(
            kind=self.kind,
            cache_id=self.cache.cache_id,
            sae=str(self.sae),
            path=path if size else "",
            features=tuple(named),
            rows=table.num_rows,
            bytes=size,
        )
        self.cache.files.commit(f"{self.folder}/{name}.json", row.model_dump_json().encode())
        return row

    def discard(self) -> None:
        """Remove all that this pass has found, rows before the files they speak of; the same command finds it anew."""
        files = self.cache.files
        for one in list(files.scan(self.folder)):
            if one.path.endswith(".json"):
                files.discard(one.path)
        files.delete(self.folder, recursive=True)

    def read(self, columns: Sequence[str] | None = None, features: Collection[int] | None = None) -> pa.Table:
        """Everything found so far, in order of feature.

        Where two runs at once settled a feature, what the first file says of it counts.

        Args:
            columns: Which; ``feature`` among them. All by default.
            features: Of which; all by default. Files about others are not opened.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        columns = columns or SCHEMAS[self.kind].names
        wanted = None if features is None else set(features)
        tables = [SCHEMAS[self.kind].empty_table().select(columns)]
        seen: set[int] = set()
        for row in self.rows():
            again = seen.intersection(row.features)
            seen.update(row.features)
            if row.path and (wanted is None or not wanted.isdisjoint(row.features)):
                with TableFile(self.cache.files, row.path, remedy=REMEDY) as file:
                    table = file.read(columns=columns).select(columns)
                kept = ~np.isin(table["feature"].to_numpy(), list(again))
                if wanted is not None:
                    kept &= np.isin(table["feature"].to_numpy(), list(wanted))
                tables.append(table.filter(pa.array(kept)))
        found = pa.concat_tables(tables)
        return found.take(pa.array(np.argsort(found["feature"].to_numpy(), kind="stable")))

    def each(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of :meth:`read` as plain values, a few thousand at a time: as objects they are ten times as large."""
        for batch in self.read(columns).to_batches(max_chunksize=_CHUNK_ROWS):
            yield from batch.to_pylist()


def findings_in(workspace: Workspace, kind: FindingKind) -> Iterator[FindingsRow]:
    """Manifest rows of every pass of a kind, over all caches."""
    for cache_id in workspace.caches():
        cache = workspace.cache(cache_id)
        yield from _rows(cache, _folder(cache, kind))


def passes(cache: CacheStore, sae: SaeId, kind: FindingKind) -> list[Findings]:
    """The passes over one SAE of a cache, the one begun last coming last."""
    found: list[tuple[float, Findings]] = []
    for one in cache.files.scan(f"{_folder(cache, kind)}/{sae.key}"):
        if one.path.endswith(f"/{_SETTINGS}") and not one.temporary:
            settings = cache.files.read_json(one.path)
            settings.pop("sae")
            found.append((one.modified, Findings(cache, sae, kind, settings)))
    return [pass_ for _, pass_ in sorted(found, key=lambda pair: pair[0])]


def findings_of(cache: CacheStore, sae: SaeId, kind: FindingKind, feature: int) -> list[dict[str, Any]]:
    """Rows about one feature, of every pass; only the files that settle it are opened.

    Of equal figures (the same scorer, judge, metric and control of one explanation) that of the last run counts.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    found: list[dict[str, Any]] = []
    for row in _rows(cache, f"{_folder(cache, kind)}/{sae.key}"):
        if row.path and feature in row.features:
            with TableFile(cache.files, row.path, remedy=REMEDY) as file:
                found += [one for one in file.read().to_pylist() if one["feature"] == feature]
    return latest_of(kind, found)


def latest_of(kind: FindingKind, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows about one feature, those that count: of equal figures the last run's, and of these :data:`FOUND`."""
    same, what = _SAME[kind], FOUND[kind]

    def turn(row: dict[str, Any]) -> tuple[Any, ...]:
        return (row["run_id"] or "", row[what] is not None, *([row[what]] if row[what] is not None else []))

    newest = {tuple(row[name] for name in same): row for row in sorted(found, key=turn)}
    return [row for row in found if row["explanation_id"] is None or row is newest[tuple(row[name] for name in same)]]


def batches(cache: CacheStore, sae: SaeId, kind: FindingKind) -> dict[str, str | None]:
    """Files of every pass over one SAE, by ``<pass>/<name>``; None where its features gave no rows.

    One listing and nothing opened: a file is whole once its row is there.
    """
    folder = f"{_folder(cache, kind)}/{sae.key}"
    paths = {one.path for one in cache.files.scan(folder) if not one.temporary}
    rows = sorted(path for path in paths if path.endswith(".json") and not path.endswith(f"/{_SETTINGS}"))
    files = {path: f"{path.removesuffix('.json')}.parquet" for path in rows}
    return {
        path.removeprefix(f"{folder}/").removesuffix(".json"): file if file in paths else None
        for path, file in files.items()
    }


def stamped(cache: CacheStore, sae: SaeId, kind: FindingKind) -> dict[str, float]:
    """Files with rows of every pass over one SAE, each with when its manifest row was written, seconds since 1970.

    One listing and nothing opened. A pass that was discarded and run anew has files of the same names.
    """
    there = {one.path: one.modified for one in cache.files.scan(f"{_folder(cache, kind)}/{sae.key}")}
    rows = {path: f"{path.removesuffix('.parquet')}.json" for path in there if path.endswith(".parquet")}
    return {path: there[row] for path, row in rows.items() if row in there}


def findings_folders(cache: CacheStore, sae: SaeId) -> list[str]:
    """Where everything found about one SAE of a cache lies."""
    return [f"{_folder(cache, kind)}/{sae.key}" for kind in SCHEMAS]


def _folder(cache: CacheStore, kind: FindingKind) -> str:
    return f"{cache.folder}/{_FOLDER}/{kind}"


def _rows(cache: CacheStore, folder: str) -> Iterator[FindingsRow]:
    for one in cache.files.scan(folder):
        if one.temporary or not one.path.endswith(".json") or one.path.endswith(f"/{_SETTINGS}"):
            continue
        row = manifest_row(cache.files, one.path)
        if row is not None:
            yield row


def manifest_row(files: Files, path: str) -> FindingsRow | None:
    """The manifest row of one file; None where it was removed meanwhile.

    Raises:
        DamagedFileError: It cannot be read.
    """
    try:
        return FindingsRow.model_validate_json(files.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DamagedFileError(
            f"{files.native(path)} is damaged.", hint="remove it, then run the same command again."
        ) from error
