"""Import of an existing SQLite cache, whole, broken and hostile."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from neuronpedia import SOURCE, explanation, page
from raylens.errors import InputError
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.labels.sqlite_cache import import_sqlite, is_sqlite
from raylens.store.workspace import Workspace


def contents(store: LabelStore) -> dict[int, list[str]]:
    known = store.look(SOURCE, store.explained(SOURCE).tolist())
    return {index: sorted(one.description for one in found.explanations) for index, found in known.items()}


def database(path: Path, tables: dict[str, tuple[str, list[tuple]]]) -> Path:
    connection = sqlite3.connect(path)
    for name, (columns, rows) in tables.items():
        connection.execute(f'CREATE TABLE "{name}" ({columns})')
        marks = ", ".join("?" * len(columns.split("PRIMARY")[0].rstrip(", ").split(",")))
        connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', rows)
    connection.commit()
    connection.close()
    return path


WHO = (SOURCE.model, SOURCE.source)


@pytest.mark.parametrize(
    "columns",
    [
        'model TEXT, source TEXT, "index" INTEGER, payload TEXT',
        "model_id TEXT, source_id TEXT, feature_index TEXT, payload_json BLOB",
        'model TEXT, source TEXT, "index" INTEGER, payload TEXT, PRIMARY KEY (model, source, "index")',
    ],
)
def test_an_existing_cache_is_imported_and_a_second_time_changes_nothing(
    workspace: Workspace, store: LabelStore, tmp_path: Path, columns: str
) -> None:  # A2.11
    pages: list[tuple] = [(*WHO, i, json.dumps(page(i, explanation(f"page {i}")))) for i in range(4)]
    pages.append((*WHO, 9, None))
    words = [
        (*WHO, 1, json.dumps(explanation("alone"))),
        (*WHO, 2, json.dumps([explanation("first"), explanation("second")])),
        (*WHO, 3, json.dumps({"explanations": [explanation("in an object")]})),
        (*WHO, 5, "[]"),
        (*WHO, 6, json.dumps(explanation("without a page"))),
    ]
    path = database(
        tmp_path / "feature_cache.sqlite", {"feature_cache": (columns, pages), "explanation_cache": (columns, words)}
    )
    stamp = path.stat().st_mtime_ns, path.read_bytes()
    told: list[tuple[int, int, str]] = []
    report = import_sqlite(store, path, progress=lambda *it: told.append(it))
    assert (report.pages, report.explanations, report.missing, report.n_bad) == (4, 9, 2, 0)
    assert told[-1][:2] == (10, 10)
    expected = {
        0: ["page 0"],
        1: ["alone", "page 1"],
        2: ["first", "page 2", "second"],
        3: ["in an object", "page 3"],
        6: ["without a page"],
    }
    assert contents(store) == expected
    assert store.look(SOURCE, [9])[9].status == "missing"
    assert store.look(SOURCE, [5])[5].status == "missing"
    second = import_sqlite(store, path)
    assert (second.pages, second.explanations, second.missing, second.already) == (0, 0, 0, 15)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == stamp
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["feature_cache.sqlite"], (
        "nothing beside it"
    )
    assert is_sqlite(path)


def test_rows_that_cannot_be_used_are_counted(store: LabelStore, tmp_path: Path) -> None:
    columns = "model, source, idx, payload"
    rows = [
        (*WHO, 1, json.dumps(page(1))),
        (*WHO, 2, "{not json"),
        (*WHO, 3, json.dumps(page(4))),
        (*WHO, -1, json.dumps(page(1))),
        ("../x", "y", 1, json.dumps(page(1))),
        (None, None, 1, json.dumps(page(1))),
        (*WHO, 5, 17),
        (*WHO, 6, b"\xff\xfe"),
        (*WHO, 7, json.dumps(page(7, filler="x" * 5000))),
        (*WHO, 8, json.dumps(page(8) | {"explanations": 3})),
        ("other", "1-x", 8, json.dumps({"a": 1})),
    ]
    path = database(tmp_path / "c.sqlite", {"feature_cache": (columns, rows)})
    report = import_sqlite(store, path, payload_limit=4000)
    assert (report.pages, report.n_bad) == (2, 9)
    assert report.bad["feature_cache"].lines == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    only = import_sqlite(store, path, source=NeuronpediaId("other", "1-x"))
    assert (only.already, only.n_bad) == (1, 2)
    assert only.left_out == {str(SOURCE): 8}


def test_what_is_no_such_database_is_refused(store: LabelStore, tmp_path: Path) -> None:
    def refused(path: Path, match: str) -> None:
        with pytest.raises(InputError, match=match):
            import_sqlite(store, path)

    refused(tmp_path / "missing.sqlite", "does not exist")
    (tmp_path / "text.sqlite").write_text("hello " * 1000)
    refused(tmp_path / "text.sqlite", "cannot be read as a database")
    refused(database(tmp_path / "a.sqlite", {"other": ("a", [])}), "neither a table feature_cache nor")
    refused(
        database(tmp_path / "b.sqlite", {"feature_cache": ("model, payload", [])}), "no column for source and index"
    )
    view = sqlite3.connect(tmp_path / "v.sqlite")
    view.execute("CREATE VIEW feature_cache AS SELECT 'm' AS model, 's' AS source, 1 AS \"index\", '{}' AS payload")
    view.close()
    refused(tmp_path / "v.sqlite", "neither a table")
    good = database(tmp_path / "w.sqlite", {"feature_cache": ("model, source, idx, payload", [(*WHO, 1, "{}")])})
    good.with_name("w.sqlite-wal").write_bytes(b"log")
    refused(good, "close the program")
    whole = database(
        tmp_path / "cut.sqlite",
        {"feature_cache": ("model, source, idx, payload", [(*WHO, i, "{}" + " " * 900) for i in range(500)])},
    )
    data = bytearray(whole.read_bytes())
    data[len(data) // 2 :] = b"\x55" * (len(data) - len(data) // 2)
    whole.write_bytes(data)
    refused(whole, "cannot be read as a database")
