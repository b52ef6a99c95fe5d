"""The views ``spans`` and ``sae_feature_activations`` (A0.11): readable columns, over files, whoever is writing."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from raylens.api.reading import Peaks
from raylens.errors import DamagedFileError, QueryError
from raylens.store.sql import query
from raylens.store.trace_rows import extraction_kept, span_deleted, span_written
from raylens.store.traces import TraceStore
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from raylens.traces.span import Turn
from trace_samples import MODEL, SAE, START, a_span, an_extraction


def rows(workspace: Workspace, sql: str) -> list[dict]:
    return query(workspace, sql).table.to_pylist()


def test_a_row_a_span(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    said = (Turn(role="user", content="hi"), Turn(role="tool", content='{"x": 1}'))
    span = a_span("a", 3, input=said, parent_id="p", attributes={"temperature": 0.5}, provider="openai")
    store.write(
        [span_written(span), span_written(a_span("gone")), span_written(a_span("b", output="nul \0 here"))], "test"
    )
    store.write([span_deleted("gone"), span_written(a_span("b", status="error", model=None))], "test")
    assert rows(workspace, "SELECT * FROM spans ORDER BY started_at DESC") == [
        {
            "span_id": "a",
            "trace_id": "t",
            "parent_id": "p",
            "name": "",
            "kind": "llm",
            "model": "gpt-4",
            "provider": "openai",
            "started_at": START + timedelta(seconds=3),
            "ended_at": None,
            "status": "unset",
            "input": 'user: hi\ntool: {"x": 1}',
            "output": "a span.",
            "input_messages": '[{"role": "user", "content": "hi"}, {"role": "tool", "content": "{\\"x\\": 1}"}]',
            "output_messages": None,
            "attributes": '{"temperature": 0.5}',
        },
        {
            **dict.fromkeys(["parent_id", "model", "provider", "ended_at", "input_messages", "output_messages"]),
            "span_id": "b",
            "trace_id": "t",
            "name": "",
            "kind": "llm",
            "started_at": START,
            "status": "error",
            "input": "what is b?",
            "output": "a span.",
            "attributes": "{}",
        },
    ]
    sql = "SELECT attributes->>'temperature' AS t, input_messages->1->>'role' AS r FROM spans WHERE span_id = 'a'"
    assert rows(workspace, sql) == [{"t": "0.5", "r": "tool"}]


def test_null_characters_are_read_too(workspace: Workspace) -> None:
    TraceStore(workspace).write([span_written(a_span("a", input="nul \0 here"))], "test")
    assert rows(workspace, "SELECT input FROM spans") == [{"input": "nul \0 here"}]
    assert TraceStore(workspace).span("a").input == "nul \0 here"


def test_a_row_a_kept_feature(workspace: Workspace) -> None:  # A0.11
    store = TraceStore(workspace)
    store.write([span_written(a_span(name)) for name in "abc"], "test")
    first = an_extraction("a", n_dropped=7, peaks=Peaks(indices=(5,), activations=(0.92,), positions=(4,)))
    store.write([extraction_kept(first), extraction_kept(an_extraction("a", sae="other", layer=None))], "test")
    store.write([extraction_kept(an_extraction("b")), extraction_kept(an_extraction("c", peaks=Peaks()))], "test")
    assert rows(workspace, f"SELECT * FROM sae_feature_activations WHERE span_id = 'a' AND sae = '{SAE}'") == [
        {
            "span_id": "a",
            "model": MODEL,
            "sae": SAE,
            "layer": 3,
            "feature": 5,
            "activation": pytest.approx(0.92),
            "position": 4,
            "n_tokens": 12,
            "n_dropped": 7,
            "extracted_at": START,
        }
    ]
    count = "SELECT span_id, sae, count(*) AS n FROM sae_feature_activations GROUP BY ALL ORDER BY ALL"
    assert [tuple(row.values()) for row in rows(workspace, count)] == [("a", "other", 4), ("a", SAE, 1), ("b", SAE, 4)]
    joined = "SELECT DISTINCT feature, input FROM spans JOIN sae_feature_activations USING (span_id) WHERE feature = 5"
    assert rows(workspace, joined) == [{"feature": 5, "input": "what is a?"}]
    store.write([span_deleted("a"), span_written(a_span("a")), extraction_kept(an_extraction("b", 8))], "test")
    left = "SELECT span_id, max(activation) AS top FROM sae_feature_activations GROUP BY ALL"
    assert rows(workspace, left) == [{"span_id": "b", "top": 10.5}]


def test_a_query_reads_the_columns_that_it_asks_for(local_workspace: Workspace) -> None:
    TraceStore(local_workspace).write([span_written(a_span("a"))], "test")
    with connect(local_workspace) as connection:
        plan = "".join(text for _, text in connection.execute("EXPLAIN SELECT model FROM spans").fetchall())
    assert "model" in plan
    assert "output" not in plan


def test_no_other_view_is_kept_waiting_by_damage(local_workspace: Workspace) -> None:
    TraceStore(local_workspace).write([span_written(a_span("a"))], "test")
    Path(local_workspace.files.native("traces/segments/000000000001.parquet")).write_bytes(b"PAR1")
    assert rows(local_workspace, "SELECT run_id FROM runs") == []
    with pytest.raises(DamagedFileError, match=r"000000000001\.parquet.* hint: restore it from a backup"):
        query(local_workspace, "SELECT * FROM spans")
    with connect(local_workspace) as connection:
        assert connection.execute("SELECT count(*) FROM labels").fetchall() == [(0,)]


def test_the_log_itself_is_no_view(workspace: Workspace) -> None:
    TraceStore(workspace).write([span_written(a_span("a"))], "test")
    with pytest.raises(QueryError, match="there is no view 'log of traces'"):
        query(workspace, 'SELECT * FROM "log of traces"')


_WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from raylens.store import trace_rolling
from raylens.store.trace_rows import extraction_kept, span_deleted, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from trace_samples import a_span, an_extraction
trace_rolling.FAN = 3
store = TraceStore(Workspace.open(sys.argv[1]))
for number in range(12):
    names = [f"s{number}-{one}" for one in range(3)]
    events = [event for one in names for event in (span_written(a_span(one)), extraction_kept(an_extraction(one)))]
    store.write(events, "w")
    store.write([span_deleted(names[0])], "w")
"""


def test_sql_runs_while_somebody_writes(local_workspace: Workspace) -> None:
    """Whatever moment it falls on, it sees whole commits."""
    support = str(Path(__file__).parents[1] / "support")
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, local_workspace.url, support])
    sql = """
        SELECT (SELECT count(*) FROM spans) AS spans, (SELECT count(*) FROM sae_feature_activations) AS features,
               (SELECT count(*) FROM spans WHERE span_id LIKE '%-1') AS second
    """
    seen = 0
    while writer.poll() is None:
        (found,) = rows(local_workspace, sql)
        assert found["features"] == 4 * found["spans"]
        assert found["spans"] - 2 * found["second"] in {0, 1}, "the first of the last three may be there yet"
        assert found["second"] >= seen
        seen = found["second"]
    assert writer.returncode == 0
    assert rows(local_workspace, sql) == [{"spans": 24, "features": 96, "second": 12}]
