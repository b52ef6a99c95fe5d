"""Import of an existing ``feature_cache.sqlite``: tables ``feature_cache`` and ``explanation_cache`` (A2.11).

Each has a row a feature (or an explanation) with its model, source, index and a JSON payload. The file is opened for
reading alone, its tables and columns are looked at first, and rows are streamed. A payload of null is remembered as
"no such feature".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from raylens.errors import InputError
from raylens.home import from_home
from raylens.labels.explanations import Page, ShapeError, page_payload, parse_json, read_explanation
from raylens.labels.exports import LINE_LIMIT, index_of
from raylens.labels.import_report import ImportReport, Progress
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId, is_part
from raylens.store.label_cache import LABEL_TABLES, LabelTable

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "model": ("model", "model_id", "modelid"),
    "source": ("source", "source_id", "sourceid", "layer"),
    "index": ("index", "feature_index", "featureindex", "idx", "feature"),
    "payload": ("payload", "payload_json", "json", "data"),
}
_TOLD_EVERY: Final = 2048


def import_sqlite(
    store: LabelStore,
    path: str | Path,
    *,
    source: NeuronpediaId | None = None,
    progress: Progress = lambda done, total, name: None,
    payload_limit: int = LINE_LIMIT,
) -> ImportReport:
    """Import both tables, or the one that is there.

    Args:
        store: Where to; what was read is committed as it comes, and at the end.
        path: The database.
        source: Take rows of this source alone; by default all.
        progress: Told how far it is, in rows.
        payload_limit: Bytes of a payload; a larger one is left out.

    Raises:
        InputError: It is no such database, or its writer has not closed it.
        DiskFullError: No space; what was committed stays.
    """
    file = from_home(path)
    report = ImportReport(files=1)
    with closing(_opened(file)) as database:
        try:
            tables = _tables(database, file)
            total = sum(database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in tables)
            done = 0
            for table, columns in tables.items():
                for number, row in enumerate(_rows(database, table, columns, payload_limit), 1):
                    _take(store, report, table, number, row, source)
                    done += 1
                    if done % _TOLD_EVERY == 0:
                        progress(done, total, table)
            progress(total, total, file.name)
        except sqlite3.Error as error:
            store.flush()
            raise InputError(
                f"{file} cannot be read as a database: {str(error).rstrip('.')}.",
                hint="copy it anew from where it was made; what was read before that is kept.",
            ) from error
    store.flush()
    return report


def _opened(file: Path) -> sqlite3.Connection:
    if not file.is_file():
        raise InputError(f"{file} does not exist.", hint="name a feature_cache.sqlite.")
    # Opened as immutable, so that not even a lock file is written beside it; what is only in a log would be missed.
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size:
        raise InputError(
            f"{file} has changes in {log.name} that are not in it yet.", hint="close the program that writes it."
        )
    database = sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro&immutable=1", uri=True)
    database.text_factory = lambda data: data.decode("utf-8", "replace")
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _tables(database: sqlite3.Connection, file: Path) -> dict[LabelTable, dict[str, str]]:
    """The tables that are there, and what their columns are called.

    Raises:
        InputError: Neither is, or one lacks a column.
    """
    # Plain tables alone: a view or a virtual table would run what its maker wrote.
    plain = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    there = {name for (name,) in database.execute(plain)}
    found: dict[LabelTable, dict[str, str]] = {}
    for table in LABEL_TABLES:
        if table not in there:
            continue
        names = {row[1].lower(): row[1] for row in database.execute(f'PRAGMA table_info("{table}")')}
        columns = {what: next((names[one] for one in ways if one in names), None) for what, ways in _COLUMNS.items()}
        if lacking := [what for what, name in columns.items() if name is None]:
            raise InputError(
                f"table {table} of {file} has no column for {' and '.join(lacking)}.",
                hint=f"it has {', '.join(names.values())}; model, source, index and payload are needed.",
            )
        found[table] = {what: name for what, name in columns.items() if name is not None}
    if not found:
        raise InputError(
            f"{file} has neither a table feature_cache nor explanation_cache.",
            hint=f"it has {', '.join(sorted(there)) or 'no tables'}.",
        )
    return found


def _rows(
    database: sqlite3.Connection, table: str, columns: Mapping[str, str], payload_limit: int
) -> Iterator[tuple[Any, Any, Any, Any, int]]:
    model, source, index, payload = (_named(columns[name]) for name in _COLUMNS)
    # A payload that is too large never leaves the database.
    small = f"CASE WHEN length(CAST({payload} AS BLOB)) <= {int(payload_limit)} THEN {payload} END"
    query = f"SELECT {model}, {source}, {index}, {small}, {payload} IS NULL FROM {_named(table)}"
    yield from database.execute(query)


def _take(
    store: LabelStore,
    report: ImportReport,
    table: LabelTable,
    number: int,
    row: tuple[Any, Any, Any, Any, int],
    only: NeuronpediaId | None,
) -> None:
    model, source, index, payload, is_null = row
    try:
        if not (isinstance(model, str) and isinstance(source, str) and is_part(model) and is_part(source)):
            raise ShapeError("does not say of which model and source it is")
        whose = NeuronpediaId(model, source)
        if only is not None and whose != only:
            report.left_out[str(whose)] += 1
            return
        feature = index_of(index)
        value = None if is_null else _value(payload)
        if value is None:
            new = store.put_missing(whose, feature, "sqlite", once=True, table=table)
            report.missing += new
            report.already += not new
        elif table == "feature_cache":
            _take_page(store, report, whose, feature, value)
        else:
            _take_words(store, report, whose, feature, value)
    except ShapeError as error:
        report.note_bad(table, number, str(error))


def _take_page(store: LabelStore, report: ImportReport, source: NeuronpediaId, index: int, value: Any) -> None:
    if not isinstance(value, dict):
        raise ShapeError("is no JSON object")
    said = (value.get("modelId", source.model), value.get("layer", source.source), str(value.get("index", index)))
    if said != (source.model, source.source, str(index)):
        raise ShapeError("is the page of another feature than its row says")
    listed = value.get("explanations") or []
    if not isinstance(listed, list):
        raise ShapeError("has no list of explanations")
    read = [read_explanation(one) for one in listed]
    found = tuple(one for one in read if one is not None)
    new, n_said = store.put_page(source, index, Page(page_payload(value), found), "sqlite", once=True)
    report.pages += new
    report.explanations += n_said
    report.already += (not new) + len(found) - n_said
    report.silent += len(read) - len(found)


def _take_words(store: LabelStore, report: ImportReport, source: NeuronpediaId, index: int, value: Any) -> None:
    if isinstance(value, dict) and "explanations" in value:
        value = value["explanations"]
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(one, dict) for one in listed):
        raise ShapeError("is no explanation, and no list of some")
    if not listed:
        new = store.put_missing(source, index, "sqlite", once=True, table="explanation_cache")
        report.missing += new
        report.already += not new
    for one in listed:
        read = read_explanation(one)
        if read is None:
            report.silent += 1
        elif store.put_explanation(source, index, read, "sqlite", once=True):
            report.explanations += 1
        else:
            report.already += 1


def _value(payload: Any) -> Any:
    if payload is None:
        raise ShapeError("has a payload that is larger than it may be")
    if not isinstance(payload, str | bytes):
        raise ShapeError("has a payload that is no text")
    return parse_json(payload)


def _named(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def is_sqlite(path: str | Path) -> bool:
    """Whether a file is, or is called, an SQLite database."""
    file = from_home(path)
    if file.is_file():
        with file.open("rb") as opened:
            return opened.read(16) == b"SQLite format 3\x00" or file.suffix in (".sqlite", ".sqlite3", ".db")
    return file.suffix in (".sqlite", ".sqlite3", ".db")
