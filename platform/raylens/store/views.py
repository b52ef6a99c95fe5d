"""The views that SQL sees: each a union over the files of every cache's current generation.

Files are listed from manifests, never by globbing. One branch of a view is one (cache, SAE), whose
id is a constant column of it: a filter on ``sae`` or ``cache_id`` then removes whole branches
before any file is opened (a join on file names would not). Within a branch, row-group statistics
on ``feature`` and ``peak`` prune.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from raylens.errors import DamagedFileError, InputError
from raylens.store.audit_listing import view_files
from raylens.store.audit_organisms import KEY, organism_table
from raylens.store.audit_paths import ROWS
from raylens.store.commits import REMEDY
from raylens.store.edges import KEY as EDGE_KEY
from raylens.store.edges import edge_table
from raylens.store.findings import FOUND, FindingKind, findings_in
from raylens.store.label_cache import LABEL_TABLES, LabelTable, label_files
from raylens.store.labels import Labels, Words, as_explanations, tables
from raylens.store.manifest import Manifest
from raylens.store.patches import Patches, patch_table
from raylens.store.trace_log import FOLDER as TRACE_FOLDER
from raylens.store.trace_views import LOG, LOG_COLUMNS, QUERIES, TRACES, log_files
from raylens.store.view_schemas import (
    AUDITS,
    BY_CACHE,
    BY_SAE,
    CACHES,
    EDGES,
    ELSEWHERE,
    FINDINGS,
    ORGANISMS,
    PATCHES,
    PEOPLE,
    RUNS,
    VIEWS,
    duckdb_type,
)
from raylens.store.workspace import CacheStore, Workspace

_SETTINGS: Final = (
    # Nothing is ever downloaded: closed networks, and no code but DuckDB's own.
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    # Python variables are not tables.
    "python_enable_replacements = false",
    # Files are immutable, so what is known of one stays true.
    "parquet_metadata_cache = true",
    "validate_external_file_cache = 'NO_VALIDATION'",
    "TimeZone = 'UTC'",
)

_LATEST: Final[Mapping[FindingKind, Sequence[str]]] = {
    "explanations": ("cache_id", "sae", "feature", "explanation_id"),
    "scores": ("cache_id", "sae", "feature", "explanation_id", "scorer", "judge", "control", "metric"),
}
"""What makes two rows the same figure; the view has the one of the last run."""
_ONCE: Final = ("model", "source", "index", "digest")
"""What makes two labels from elsewhere one: a file that small ones were rolled into may stand beside them."""
_BESIDE_CACHES: Final = frozenset({*ELSEWHERE, *AUDITS, *ORGANISMS, *EDGES, *TRACES, LOG})
"""Tables in files that no manifest of a cache lists."""
_BY_PEOPLE: Final = "explanations by people"

_DAMAGE: Final = ("Invalid Input Error", "Invalid Error", "Internal Error", "IO Error: No files found")


def connect(
    workspace: Workspace, *, only: Collection[str] | None = None, memory: str | None = None, locked: bool = False
) -> duckdb.DuckDBPyConnection:
    """A new in-memory DuckDB with the views over ``workspace`` as it is now.

    Args:
        workspace: What to show.
        only: Names of the views to make; all by default. Fewer is faster.
        memory: DuckDB's memory limit, for example ``2GB``; nothing is spilled to disk then.
        locked: Make it fit for SQL from outside: it opens the views' own files and nothing else, and
            no setting can be changed. Statements must still be checked (:mod:`raylens.store.sql`).

    Damage of a file is found when a query reads it, as an error that :func:`damage_in` understands.

    Raises:
        DamagedFileError: A manifest cannot be read, or a file it lists is missing.
        InputError: ``memory`` is no amount of memory.
    """
    connection = duckdb.connect()
    for setting in _SETTINGS:
        connection.execute(f"SET {setting}")
    if memory is not None:
        try:
            connection.execute("SET memory_limit = ?", [memory])
        except duckdb.Error as error:
            raise InputError(f"{memory!r} is not an amount of memory.", hint="write 500MB or 2GB.") from error
        connection.execute("SET temp_directory = ''")
    else:
        # Not the current folder, DuckDB's default.
        connection.execute("SET temp_directory = ?", [str(Path(tempfile.gettempdir()) / "raylens-duckdb")])
    if not workspace.files.local:
        connection.register_filesystem(workspace.files.fs)
    wanted = set(VIEWS if only is None else only)
    manifests = _manifests(workspace) if wanted - {"runs", "patches", *PEOPLE, *_BESIDE_CACHES} else {}
    words = Labels(workspace).read() if wanted & {*PEOPLE, "explanations"} else Words()
    by_people = tables(words, PEOPLE)
    paths: list[str] = _make_view(connection, workspace, LOG, ()) if wanted & TRACES.keys() else []
    for name in sorted(wanted):
        if name in PEOPLE:
            _make_table(connection, name, by_people[name])
        elif name == "patches":
            _make_table(connection, name, patch_table(Patches(workspace).sessions().values(), PATCHES))
        elif name == "runs":
            _make_table(connection, name, _runs(workspace))
        elif name == "caches":
            _make_table(connection, name, _caches(workspace, manifests))
        elif name in TRACES:
            connection.execute(f"CREATE VIEW {_named(name)} AS {QUERIES[name]}")
        else:
            others = _labels(connection, words, manifests.values()) if name == "explanations" else ()
            paths += _make_view(connection, workspace, name, manifests.values(), others)
    if locked:
        connection.execute("SET allowed_paths = ?", [paths])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    return connection


def _manifests(workspace: Workspace) -> dict[str, Manifest | None]:
    return {cache_id: workspace.cache(cache_id).manifest() for cache_id in workspace.caches()}


def _make_view(
    connection: duckdb.DuckDBPyConnection,
    workspace: Workspace,
    name: str,
    manifests: Collection[Manifest | None],
    others: Collection[str] = (),
) -> list[str]:
    """Create one view, with the branches ``others`` beside those of files; returns the files it reads."""
    kinds: Mapping[str, FindingKind] = {kind: kind for kind in FINDINGS}
    kind = kinds.get(name)
    if name in _BESIDE_CACHES:
        branches = _beside_caches(workspace, name)
    else:
        branches = _branches(name, manifests) if kind is None else _found(workspace, kind)
    found = [(constants, [workspace.files.native(path) for path in paths]) for constants, paths in branches]
    try:
        try:
            _union(connection, name, [*(_branch(*one) for one in found), *others])
        except duckdb.Error as error:
            if damage_in(error) is None:
                raise
            _union(connection, name, [*(_sound_branch(connection, name, *one) for one in found), *others])
    except duckdb.Error as error:
        raise damage_in(error) or error from error
    return [path for _, paths in found for path in paths]


def _labels(
    connection: duckdb.DuckDBPyConnection, words: Words, manifests: Collection[Manifest | None]
) -> tuple[str, ...]:
    """Branches of the view ``explanations`` with what people say, from a table that SQL of users cannot name."""
    said = as_explanations(words, manifests, VIEWS["explanations"])
    if not said.num_rows:
        return ()
    _make_table(connection, _BY_PEOPLE, said)
    return (f"SELECT * FROM {_named(_BY_PEOPLE)}",)


def _union(connection: duckdb.DuckDBPyConnection, name: str, branches: Collection[str]) -> None:
    nulls = ", ".join(f"NULL::{duckdb_type(column.type)} AS {_named(column.name)}" for column in _columns(name))
    query = " UNION ALL ".join(branches) or f"SELECT {nulls} WHERE false"
    if name in _LATEST:
        # Passes overlap: of other features or scorers beside the same ones, or two that ran at once.
        same = ", ".join(_LATEST[name])
        newest = f"row_number() OVER (PARTITION BY {same} ORDER BY run_id DESC, {FOUND[name]} DESC NULLS LAST) = 1"
        query = f"SELECT * FROM ({query}) QUALIFY explanation_id IS NULL OR {newest}"
    if name in ELSEWHERE:
        same = ", ".join(map(_named, _ONCE))
        query = f"SELECT * FROM ({query}) QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY fetched_at) = 1"
    if name in ORGANISMS or name in EDGES:
        same = ", ".join(KEY if name in ORGANISMS else EDGE_KEY)
        last = f"row_number() OVER (PARTITION BY {same} ORDER BY recorded_at DESC) = 1"
        query = f"SELECT * FROM ({query}) QUALIFY {last}"
    connection.execute(f"CREATE VIEW {_named(name)} AS {query}")


def _columns(name: str) -> pa.Schema:
    return LOG_COLUMNS if name == LOG else VIEWS[name]


def _branch(constants: Mapping[str, str], paths: Collection[str], *options: str) -> str:
    listed = ", ".join(map(_quoted, paths))
    columns = ", ".join([*(f"{_quoted(value)} AS {column}" for column, value in constants.items()), "*"])
    # Both off: a folder of the workspace's own path may look like column=value.
    given = ", ".join(["hive_partitioning = false", "filename = false", *options])
    return f"SELECT {columns} FROM read_parquet([{listed}], {given})"


def _sound_branch(
    connection: duckdb.DuckDBPyConnection, name: str, constants: Mapping[str, str], paths: Collection[str]
) -> str:
    """A branch whose first file is damaged must not take the others with it: it fails when it is read.

    DuckDB opens the first file of a branch to learn its columns, unless it is told. Telling it always would
    cost it the number of rows, by which it orders joins.
    """
    branch = _branch(constants, paths)
    try:
        connection.execute(f"DESCRIBE {branch}")
    except duckdb.Error as error:
        if damage_in(error) is None:
            raise
        columns = ", ".join(
            f"{_quoted(c.name)}: {{name: {_quoted(c.name)}, type: {_quoted(duckdb_type(c.type))}, default_value: NULL}}"
            for c in _columns(name)
            if c.name not in constants
        )
        return _branch(constants, paths, f"schema = MAP {{{columns}}}")
    return branch


def damage_in(error: BaseException) -> DamagedFileError | None:
    """An error of DuckDB, or one that Arrow passes on from it, as damage of a stored file if it is about one.

    DuckDB finds files that are missing, truncated, or do not decompress. It does not look at the page
    checksums, which :class:`raylens.store.parquet.TableFile` does.
    """
    text = one_line(error)
    if ".parquet" not in text or not text.startswith(_DAMAGE):
        return None
    hint = "remove it, then run the same cache command again: it merges anew from what is stored."
    if f"/{TRACE_FOLDER}/segments/" in text:
        hint = REMEDY
    elif f"/{ROWS}/" in text:
        hint = "run that audit with --again, which makes its rows anew, or archive it."
    return DamagedFileError(f"a stored file is damaged: {text}.", hint=hint)


def one_line(error: BaseException) -> str:
    """The first paragraph of a DuckDB message in one line, without the excerpt of the query."""
    paragraph = str(error).strip().split("\n\n")[0]
    return " ".join(paragraph.split()).rstrip(".")


def _found(workspace: Workspace, name: FindingKind) -> Iterator[tuple[dict[str, str], list[str]]]:
    """For each cache and SAE: its constant columns and what explainers or scorers wrote."""
    by_sae: dict[tuple[str, str], list[str]] = {}
    for row in findings_in(workspace, name):
        if row.path:
            by_sae.setdefault((row.cache_id, row.sae), []).append(row.path)
    for (cache_id, sae), paths in sorted(by_sae.items()):
        yield {"cache_id": cache_id, "sae": sae}, sorted(paths)


def _beside_caches(workspace: Workspace, name: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Labels from elsewhere, finished audits, organisms, edges, the log of traces: all files of a table together."""
    table: LabelTable | None = next((one for one in LABEL_TABLES if one == name), None)
    if table is not None:
        paths = label_files(workspace.files, table)
    elif name in AUDITS:
        paths = view_files(workspace.files, name)
    elif name == LOG:
        paths = log_files(workspace.files)
    else:
        paths = (organism_table if name in ORGANISMS else edge_table)(workspace.files).paths()
    if paths:
        yield {}, paths


def _branches(name: str, manifests: Collection[Manifest | None]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """For each cache, and SAE where the table is about one: its constant columns and files with rows."""
    for manifest in manifests:
        if manifest is None:
            continue
        entries = [entry for entry in manifest.entries if entry.kind == name and entry.rows]
        if name in BY_CACHE and entries:
            yield {"cache_id": manifest.cache_id}, [entry.path for entry in entries]
        elif name in BY_SAE:
            for sae in sorted({entry.sae for entry in entries if entry.sae}):
                own = [entry.path for entry in entries if entry.sae == sae]
                yield {"cache_id": manifest.cache_id, "sae": sae}, own


def _make_table(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("_rows", table)
    connection.execute(f"CREATE TABLE {_named(name)} AS SELECT * FROM _rows")
    connection.unregister("_rows")


def _runs(workspace: Workspace) -> pa.Table:
    rows = [
        {
            **record.model_dump(include=set(RUNS.names)),
            "host": record.process.host,
            "pid": record.process.pid,
            "config": json.dumps(record.config),
            "progress": json.dumps(record.progress),
            "figures": json.dumps(record.figures),
        }
        for record in workspace.runs()
    ]
    return pa.Table.from_pylist(rows, RUNS)


def _caches(workspace: Workspace, manifests: dict[str, Manifest | None]) -> pa.Table:
    rows = []
    for cache_id, manifest in manifests.items():
        info = CacheStore(workspace.files, cache_id).info()
        row = {"cache_id": cache_id, "name": info.get("name"), "info": json.dumps(info), "saes": []}
        if manifest is not None:
            row |= {
                "generation": manifest.generation,
                "created_at": manifest.created_at,
                "saes": [str(sae) for sae in manifest.saes],
                **{name: manifest.totals.get(name) for name in CACHES.names if name.startswith("n_")},
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, CACHES)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _named(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
