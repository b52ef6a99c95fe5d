"""``raylens sql``: one door, four formats, and nothing raw on a terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylens.store.view_schemas import VIEWS

Raylens = Callable[..., Any]
STATS = "SELECT sae, feature, n_active, density FROM feature_stats WHERE n_active > 0 ORDER BY sae, feature"


def test_the_same_rows_in_every_format(raylens: Raylens, tiny_workspace: Path, tmp_path: Path) -> None:
    rows = raylens(tiny_workspace, "sql", STATS, "--format", "json").document
    assert [row["feature"] for row in rows] == [0, 1, 2, 0, 1, 2]
    comma = raylens(tiny_workspace, "sql", STATS, "-f", "csv")
    assert [int(row["n_active"]) for row in csv.DictReader(io.StringIO(comma.out))] == [row["n_active"] for row in rows]
    for name in ("rows.parquet", "rows.json", "rows.csv"):
        done = raylens(tiny_workspace, "sql", STATS, "--out", str(tmp_path / name))
        assert (done.code, done.out) == (0, "")
        assert f"wrote 6 rows to {tmp_path / name}." in done.err
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert (tmp_path / "rows.csv").read_text() == comma.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "rows.json", "rows.parquet"]
    table = raylens(tiny_workspace, "sql", STATS)
    assert table.out.splitlines()[0].split() == ["sae", "feature", "n_active", "density"]
    assert len(table.out.splitlines()) == 2 + len(rows)
    assert table.err == "6 rows.\n"


def test_parquet_goes_down_a_pipe_and_not_onto_a_terminal(tiny_workspace: Path, environment: dict[str, str]) -> None:
    words = ["--workspace", str(tiny_workspace), "sql", STATS, "--format", "parquet"]
    command = [str(Path(sys.executable).parent / "raylens"), *words]
    piped = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert pq.read_table(pa.BufferReader(piped.stdout)).num_rows == 6
    reading, writing = os.openpty()
    refused = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writing)
    os.close(reading)
    assert refused.returncode == 2
    assert refused.stderr == "error: Parquet is not for terminals. hint: name a file with --out, or pipe it.\n"


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_text_of_a_document_cannot_steer_a_terminal(
    tiny_workspace: Path, environment: dict[str, str], form: str
) -> None:
    query = "SELECT text FROM windows WHERE text LIKE '%banner%' ORDER BY window_id LIMIT 1"
    words = ["--workspace", str(tiny_workspace), "sql", query, "--format", form]
    reading, writing = os.openpty()
    command = [str(Path(sys.executable).parent / "raylens"), *words]
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, env=environment | {"COLUMNS": "300"}, check=False
    )
    os.close(writing)
    shown = b""
    while part := _read(reading):
        shown += part
    os.close(reading)
    assert done.returncode == 0
    text = shown.decode()
    assert "gnp.exe" in text
    assert not {"\x07", "\x9b", "\u202e"} & set(text)
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # how a terminal says that nobody writes any more
        return b""


def test_a_pipe_gets_csv_as_it_is(raylens: Raylens, tiny_workspace: Path) -> None:
    query = "SELECT text, token_ids, true AS yes, NULL AS nothing FROM windows ORDER BY window_id LIMIT 1"
    (row,) = csv.DictReader(io.StringIO(raylens(tiny_workspace, "sql", query, "-f", "csv").out))
    assert row["text"].startswith("def area ( self ) :\n\treturn")
    assert json.loads(row["token_ids"])[:2] == [0, 4]
    assert (row["yes"], row["nothing"]) == ("true", "")


def test_values_json_cannot_say_otherwise(raylens: Raylens, tiny_workspace: Path) -> None:
    query = "SELECT sum(n_active) AS total, 'nan'::DOUBLE AS nan, max(feature) > 3 AS yes FROM feature_stats"
    (row,) = raylens(tiny_workspace, "sql", query, "-f", "json").document
    assert row["total"] == sum(r["n_active"] for r in raylens(tiny_workspace, "sql", STATS, "-f", "json").document)
    assert row["nan"] is None
    assert row["yes"] is True
    (run, _) = raylens(tiny_workspace, "sql", "SELECT started_at, config FROM runs ORDER BY 1", "-f", "json").document
    assert run["started_at"].endswith("+00:00")
    assert json.loads(run["config"])["n_tokens"] == 1234


def test_too_many_rows_are_cut_and_said(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "sql", "SELECT feature FROM feature_stats", "--max-rows", "5", "-f", "json")
    assert len(done.document) == 5
    assert done.err == "only the first 5 rows; --max-rows allows more.\n"
    assert (
        "only" not in raylens(tiny_workspace, "sql", "SELECT feature FROM feature_stats LIMIT 5", "--max-rows", "5").err
    )


@pytest.mark.parametrize(
    "query",
    [
        "DROP VIEW windows",
        "SELECT 1; SELECT 2",
        "COPY runs TO '/tmp/x.csv'",
        "ATTACH '/tmp/x.db'",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELEC 1",
        "SELECT nothing FROM windows",
        "",
    ],
)
def test_anything_but_one_select_is_one_line_and_exit_code_2(
    raylens: Raylens, tiny_workspace: Path, query: str
) -> None:
    done = raylens(tiny_workspace, "sql", query)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_a_query_without_end_is_given_up(raylens: Raylens, tiny_workspace: Path) -> None:
    endless = (
        "SELECT count(*) FROM windows a, windows b, windows c, windows d, windows e, windows f WHERE a.text < f.text"
    )
    done = raylens(tiny_workspace, "sql", endless, "--timeout", "0.2")
    assert done.code == 2
    assert "longer than 0.2 s" in done.err


def test_views_are_listed_with_their_columns(raylens: Raylens, tiny_workspace: Path, tmp_path: Path) -> None:
    listed = {row["view"]: row["columns"] for row in raylens(tiny_workspace, "sql", "--views", "-f", "json").document}
    assert listed.keys() == VIEWS.keys()
    for name, columns in VIEWS.items():
        assert [part.split()[0] for part in listed[name].split(", ")] == columns.names
    assert "feature_stats" in raylens(tmp_path / "nowhere", "sql", "--views").out


def test_explain_shows_the_plan_in_lines(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "sql", "EXPLAIN SELECT text FROM windows ORDER BY text")
    assert done.code == 0
    assert len(done.out.splitlines()) > 3
    assert "↵" not in done.out


def test_a_query_comes_from_stdin_too(raylens: Raylens, tiny_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 42 AS answer"))
    assert raylens(tiny_workspace, "sql", "-", "-f", "json").document == [{"answer": 42}]
    assert "there is no query" in raylens(tiny_workspace, "sql").err


def test_a_file_that_cannot_be_written_is_said(raylens: Raylens, tiny_workspace: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "missing" / "x.csv", tmp_path):
        done = raylens(tiny_workspace, "sql", "SELECT 1", "--out", str(target), "-f", "csv")
        assert done.code == 2
        assert str(target) in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_full_device_is_said_and_stays_a_device(
    raylens: Raylens, tiny_workspace: Path, environment: dict[str, str]
) -> None:
    full = Path("/dev/full")
    for form in ("csv", "json", "parquet"):
        done = raylens(tiny_workspace, "sql", "SELECT 1", "--out", str(full), "-f", form)
        assert done.code == 1
        assert done.err == "error: there is no space for /dev/full. hint: free some, or name a file elsewhere.\n"
    assert full.is_char_device()
    command = [str(Path(sys.executable).parent / "raylens"), "--workspace", str(tiny_workspace), "runs", "--json"]
    with full.open("w") as device:
        done = subprocess.run(command, stdout=device, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: no space is left on a device. hint: free some and run it again.\n"


def test_columns_of_one_name_stay_apart(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "sql", "SELECT 1 AS a, 2 AS a")
    assert done.code == 0
    assert done.out.splitlines()[-1].split() == ["1", "2"]
    assert raylens(tiny_workspace, "sql", "SELECT 1 AS a, 2 AS a", "-f", "json").document == [{"a": 1, "a (2)": 2}]
