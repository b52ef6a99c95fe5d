"""The one door: what is refused, whatever its spelling, and what works behind it.

"SQL that writes, attaches, copies, reads any file or holds two statements is refused, whatever its
spelling": by the guard alone, and where its verdict is left out, by the locked connection alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylens.errors import DamagedFileError, QueryError
from raylens.ids import SaeId
from raylens.store.sql import QueryResult, query
from raylens.store.sql_functions import allowed_functions
from raylens.store.sql_guard import checked
from raylens.store.view_schemas import VIEWS
from raylens.store.views import connect
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")

REFUSED = {
    # several statements, or none
    "two": "SELECT 1; SELECT 2",
    "two, the second hidden": "SELECT 1; -- \n DROP VIEW windows",
    "second after a comment": "SELECT 1 /* ; */ ; /* ; */ SET threads = 1",
    "none": "",
    "only a comment": "-- SELECT 1",
    "only semicolons": ";;",
    # other statements
    "insert": "INSERT INTO runs SELECT * FROM runs",
    "update": "UPDATE runs SET kind = 'x'",
    "delete": "DELETE FROM runs",
    "create table": "CREATE TABLE t AS SELECT 1",
    "create or replace view": "CREATE OR REPLACE VIEW windows AS SELECT 1",
    "create macro": "CREATE MACRO f() AS TABLE SELECT * FROM read_text('/etc/passwd')",
    "temp table": "CREATE TEMP TABLE t (a INT)",
    "drop": "DROP VIEW windows",
    "alter": "ALTER TABLE runs ADD COLUMN x INT",
    "truncate": "TRUNCATE runs",
    "copy to": "COPY (SELECT 1) TO '/tmp/raylens-refused.csv'",
    "copy to, odd case": "cOpY runs tO '/tmp/raylens-refused.csv' (FORMAT csv)",
    "copy from": "COPY runs FROM '/etc/passwd'",
    "copy database": "COPY FROM DATABASE memory TO memory",
    "export": "EXPORT DATABASE '/tmp/raylens-refused'",
    "import": "IMPORT DATABASE '/tmp/raylens-refused'",
    "attach": "ATTACH '/tmp/raylens-refused.db' AS x",
    "attach if not exists": "ATTACH IF NOT EXISTS ':memory:' AS x",
    "detach": "DETACH memory",
    "use": "USE memory",
    "install": "INSTALL httpfs",
    "load": "LOAD httpfs",
    "pragma": "PRAGMA database_list",
    "pragma call": "PRAGMA table_info('runs')",
    "set": "SET enable_external_access = true",
    "reset": "RESET lock_configuration",
    "set variable": "SET VARIABLE x = 1",
    "call": "CALL pragma_version()",
    "prepare": "PREPARE p AS SELECT 1",
    "execute": "EXECUTE p",
    "begin": "BEGIN TRANSACTION",
    "checkpoint": "CHECKPOINT",
    "vacuum": "VACUUM",
    "secret": "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "comment on": "COMMENT ON VIEW windows IS 'x'",
    "merge into": "MERGE INTO runs USING caches ON true WHEN MATCHED THEN DELETE",
    # statements that DuckDB turns into a SELECT
    "describe": "DESCRIBE windows",
    "describe a file": "DESCRIBE SELECT * FROM '/etc/passwd'",
    "show tables": "SHOW TABLES",
    "show all": "SHOW ALL TABLES",
    "summarize": "SUMMARIZE windows",
    "summarize a file": "SUMMARIZE '/tmp/x.parquet'",
    "show in a subquery": "SELECT * FROM (SHOW TABLES)",
    "describe in a subquery": "SELECT * FROM (DESCRIBE windows)",
    "pivot": "PIVOT activations ON feature USING count(*)",
    "pivot in from": "SELECT * FROM activations PIVOT (count(*) FOR feature IN (1, 2))",
    "unpivot": "FROM feature_stats UNPIVOT (v FOR n IN (density, mean_activation))",
    "writing cte": "WITH x AS (INSERT INTO runs SELECT * FROM runs RETURNING *) SELECT * FROM x",
    "writing cte below": "SELECT (WITH x AS (DELETE FROM runs RETURNING *) SELECT count(*) FROM x)",
    # EXPLAIN of something else
    "explain copy": "EXPLAIN COPY (SELECT 1) TO '/tmp/raylens-refused.csv'",
    "explain analyze copy": "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/raylens-refused.csv'",
    "explain analyze insert": "EXPLAIN ANALYZE INSERT INTO runs SELECT * FROM runs",
    "explain a file": "EXPLAIN SELECT * FROM '/etc/passwd'",
    "explain two": "EXPLAIN SELECT 1; SELECT 2",
    "explain analyze attach": "EXPLAIN ANALYZE ATTACH '/tmp/raylens-refused.db'",
    "explain behind a comment": "EXPLAIN /**/ ANALYZE COPY (SELECT 1) TO '/tmp/raylens-refused.csv'",
    "explain options": "EXPLAIN (FORMAT json) SELECT * FROM '/etc/passwd'",
    "explain describe": "EXPLAIN DESCRIBE windows",
    # files as tables
    "file": "SELECT * FROM '/etc/passwd'",
    "file, from first": "FROM '/etc/passwd'",
    "file, double quotes": 'SELECT * FROM "/etc/passwd"',
    "file, table statement": "TABLE '/etc/passwd'",
    "file, csv": "SELECT * FROM 'data.csv'",
    "file, parquet glob": "SELECT * FROM '**/*.parquet'",
    "file, json": "SELECT * FROM 'x.json'",
    "file, url": "SELECT * FROM 'https://example.com/x.parquet'",
    "file, s3": "SELECT * FROM 's3://bucket/x.parquet'",
    "file, unicode": 'SELECT * FROM "／etc／passwd"',
    "file, unicode escape": "SELECT * FROM U&'\\002Fetc\\002Fpasswd'",
    "file, dollar quotes": "SELECT * FROM $$/etc/passwd$$",
    "file, alias of a view": "SELECT * FROM '/etc/passwd' AS windows",
    "file, in a join": "SELECT * FROM windows JOIN 'x.csv' USING (window_id)",
    "file, in a subquery": "SELECT (SELECT count(*) FROM 'x.csv')",
    "file, in exists": "SELECT 1 WHERE EXISTS (FROM 'x.csv')",
    "file, in a lateral": "SELECT * FROM windows w, LATERAL (SELECT * FROM 'x.csv' WHERE a = w.window_id)",
    "file, in a cte": "WITH x AS (SELECT * FROM 'x.csv') SELECT * FROM x",
    "file, in an order": "SELECT 1 ORDER BY (SELECT max(a) FROM 'x.csv')",
    "file, in a limit": "SELECT 1 LIMIT (SELECT count(*) FROM 'x.csv')",
    "file, in a window frame": "SELECT sum(1) OVER (ORDER BY (SELECT max(a) FROM 'x.csv'))",
    "file, in a filter": "SELECT count(*) FILTER (WHERE EXISTS (FROM 'x.csv'))",
    "file, in a lambda": "SELECT list_transform([1], lambda x: x + (SELECT count(*) FROM 'x.csv'))",
    "file, in a union": "SELECT 1 UNION ALL SELECT a FROM 'x.csv'",
    "file, in values": "VALUES ((SELECT count(*) FROM 'x.csv'))",
    "file, in replace": "SELECT * REPLACE ((SELECT 1 FROM 'x.csv') AS text) FROM windows",
    "file, in qualify": "SELECT 1 FROM windows QUALIFY row_number() OVER () = (SELECT 1 FROM 'x.csv')",
    "file, in a recursion": "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT * FROM 'x.csv') SELECT * FROM r",
    "file, in group by": "SELECT 1 FROM windows GROUP BY (SELECT 1 FROM 'x.csv')",
    "file, in a function's order": "SELECT string_agg('a', ',' ORDER BY (SELECT 1 FROM 'x.csv'))",
    "file, behind a cte's name": "WITH \"x.csv\" AS (SELECT 1) SELECT * FROM (SELECT * FROM \"x.csv\")",
    "file, cte out of scope": "SELECT * FROM (WITH \"x.csv\" AS (SELECT 1) FROM \"x.csv\") a, \"x.csv\" b",
    "file, in on": "SELECT * FROM windows a JOIN windows b ON EXISTS (FROM 'x.csv')",
    "file, in a sample": "SELECT * FROM 'x.csv' USING SAMPLE 1",
    # functions that read
    "read_text": "SELECT * FROM read_text('/etc/passwd')",
    "read_blob, case": "SELECT * FROM ReAd_BlOb('/etc/passwd')",
    "read_csv": "SELECT * FROM read_csv('/etc/passwd')",
    "read_csv_auto": "FROM read_csv_auto('/etc/passwd')",
    "read_json": "FROM read_json('/tmp/x.json')",
    "read_ndjson_objects": "FROM read_ndjson_objects('/tmp/x.json')",
    "read_parquet": "SELECT * FROM read_parquet(['/tmp/x.parquet'])",
    "parquet_scan": "FROM parquet_scan('/tmp/x.parquet')",
    "read_parquet, quoted": 'FROM "read_parquet"(\'/tmp/x.parquet\')',
    "read_duckdb": "FROM read_duckdb('/tmp/x.db')",
    "parquet_metadata": "FROM parquet_metadata('/tmp/x.parquet')",
    "parquet_schema": "FROM parquet_schema('/tmp/x.parquet')",
    "parquet_kv_metadata": "FROM parquet_kv_metadata('/tmp/x.parquet')",
    "parquet_file_metadata": "FROM parquet_file_metadata('/tmp/x.parquet')",
    "parquet_bloom_probe": "FROM parquet_bloom_probe('/tmp/x.parquet', 'a', 1)",
    "glob": "SELECT * FROM glob('/etc/*')",
    "sniff_csv": "FROM sniff_csv('/etc/passwd')",
    "query": "FROM query('SELECT * FROM ''/etc/passwd''')",
    "query_table": "FROM query_table('windows')",
    "query_table of a file": "FROM query_table(['/etc/passwd'])",
    "with a schema": "FROM main.read_text('/etc/passwd')",
    "with catalog and schema": "FROM system.main.read_text('/etc/passwd')",
    "comments within": "SELECT * FROM/**/read_text/**/(/**/'/etc/passwd'/**/)",
    "in a lateral": "SELECT * FROM windows w, LATERAL read_text(w.text)",
    "in a cte, materialized": "WITH x AS MATERIALIZED (FROM read_text('/etc/passwd')) FROM x",
    "histogram macro": "FROM histogram_values(windows, window_id)",
    "arrow_scan": "FROM arrow_scan(1, 2, 3)",
    "pandas_scan": "FROM pandas_scan(1)",
    "seq_scan": "FROM seq_scan('runs')",
    "test_all_types": "FROM test_all_types()",
    "repeat_row": "FROM repeat_row(1, num_rows = 5)",
    "summary": "FROM summary((SELECT 1))",
    "json_execute": "FROM json_execute_serialized_sql('{}')",
    # functions that show settings, the environment, secrets, the catalog, or that write
    "getenv": "SELECT getenv('HOME')",
    "getenv, case": "SELECT GetEnv('HOME')",
    "current_setting": "SELECT current_setting('allowed_paths')",
    "current_setting, schema": "SELECT main.current_setting('allowed_paths')",
    "current_setting, as method": "SELECT 'allowed_paths'.current_setting()",
    "current_setting, in a list comprehension": "SELECT [current_setting(x) FOR x IN ['allowed_paths']]",
    "getvariable": "SELECT getvariable('x')",
    "current_query": "SELECT current_query()",
    "duckdb_settings": "FROM duckdb_settings()",
    "duckdb_secrets": "FROM duckdb_secrets()",
    "which_secret": "FROM which_secret('s3://x', 's3')",
    "duckdb_tables": "FROM duckdb_tables",
    "duckdb_views()": "FROM duckdb_views()",
    "duckdb_functions": "FROM duckdb_functions()",
    "duckdb_logs": "FROM duckdb_logs",
    "duckdb_temporary_files": "FROM duckdb_temporary_files()",
    "sqlite_master": "SELECT * FROM sqlite_master",
    "information_schema": "SELECT * FROM information_schema.tables",
    "pg_catalog": "SELECT * FROM pg_catalog.pg_settings",
    "pg_settings": "SELECT * FROM pg_settings",
    "pragma function": "FROM pragma_database_list",
    "pragma_table_info": "FROM pragma_table_info('runs')",
    "nextval": "SELECT nextval('s')",
    "write_log": "SELECT write_log('x')",
    "enable_logging": "FROM enable_logging()",
    "sleep_ms": "SELECT sleep_ms(60000)",
    "pg_sleep": "SELECT pg_sleep(60)",
    "plan of a file": "SELECT json_serialize_plan('SELECT * FROM ''/etc/passwd''')",
    "json_serialize_sql": "SELECT json_serialize_sql('SELECT 1')",
    "version": "SELECT version()",
    "has_table_privilege": "SELECT has_table_privilege('runs', 'select')",
    "external resource": "FROM register_external_resource('x')",
    # one call makes any amount of data
    "repeat": "SELECT repeat('x', 2000000000)",
    "lpad": "SELECT lpad('x', 2000000000, 'y')",
    "format": "SELECT format('{:>2000000000}', 'x')",
    "list of a range": "SELECT range(2000000000)",
    # tables that are none of the views
    "python variable": "SELECT * FROM secret_frame",
    "python global": "SELECT * FROM REFUSED",
    "unknown": "SELECT * FROM no_such_view",
    "view with a schema": "SELECT * FROM main.windows",
    "view with a catalog": "SELECT * FROM memory.main.windows",
    "cte shadows the catalog": "SELECT * FROM (WITH duckdb_tables AS (SELECT 1) FROM duckdb_tables), duckdb_tables",
    "version of a table": "SELECT * FROM windows AT (VERSION => 1)",
    # values from outside the text
    "parameter": "SELECT ?",
    "numbered parameter": "SELECT $1",
    "named parameter": "SELECT * FROM windows WHERE window_id = $id",
    # size and shape
    "too long": "SELECT " + " + ".join(["1"] * 40_000),
    "too deep": "SELECT * FROM " + "(SELECT * FROM " * 1500 + "windows" + ")" * 1500,
    "brackets": "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "no SQL": "show me the densest features",
    "zero byte": "SELECT 1\0; SELECT 2",
}  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Any]) -> tuple[Workspace, Any]:
    workspace = Workspace.open(tmp_path_factory.mktemp("sql") / "workspace", create=True)
    corpus = build(workspace)
    corpus.merge()
    return workspace, corpus


@pytest.mark.parametrize("name", REFUSED)
def test_refused(stored: tuple[Workspace, Any], name: str) -> None:
    workspace, _ = stored
    secret_frame = [1]  # a variable that a replacement scan would find
    before = sorted(one.path for one in workspace.files.scan())
    with pytest.raises(QueryError):
        checked(REFUSED[name])
    with pytest.raises(QueryError) as caught:
        query(workspace, REFUSED[name])
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert sorted(one.path for one in workspace.files.scan()) == before
    assert not list(Path("/tmp").glob("raylens-refused*"))
    assert secret_frame == [1]


READERS = [
    "FROM '{}'", "FROM read_text('{}')", "FROM read_blob('{}')", "FROM read_csv('{}')", "FROM read_parquet('{}')",
    "FROM glob('{}')", "FROM sniff_csv('{}')", "FROM parquet_metadata('{}')", "FROM query('FROM ''{}''')",
    "ATTACH '{}'", "COPY runs FROM '{}'", "COPY (SELECT 1) TO '{}'", "EXPORT DATABASE '{}'", "LOAD '{}'",
]  # fmt: skip


@pytest.mark.parametrize("statement", READERS)
def test_the_second_wall_stands_alone(stored: tuple[Workspace, Any], statement: str, tmp_path: Path) -> None:
    """Without the guard, the locked connection opens no file but the views' own, not even in the workspace."""
    workspace, _ = stored
    secret = Path(workspace.files.native("token.txt"))
    secret.write_text("hf_secret")
    try:
        with connect(workspace, memory="500MB", locked=True) as connection:
            for path in ("/etc/passwd", str(secret), str(tmp_path / "new"), workspace.files.native("raylens.json")):
                with pytest.raises(duckdb.Error):
                    connection.execute(statement.format(path)).fetchall()
            for setting in ("enable_external_access = true", "allowed_paths = ['/etc/passwd']", "threads = 9"):
                with pytest.raises(duckdb.Error):
                    connection.execute(f"SET {setting}")
    finally:
        secret.unlink()
    assert not (tmp_path / "new").exists()


ALLOWED = {
    "count": "SELECT count(*) FROM activations",
    "odd case, comments, semicolon": "/* a */ sElEcT count(*) fRoM Activations -- b\n;",
    "from first": "FROM windows SELECT window_id, text[:10] ORDER BY window_id LIMIT 3",
    "table": "TABLE caches",
    "values": "VALUES (1, 'a'), (2, 'b')",
    "cte": "WITH top AS (SELECT * FROM feature_stats ORDER BY density DESC LIMIT 5) SELECT avg(density) FROM top",
    "cte shadows a view": "WITH runs AS (SELECT 1 AS x) SELECT x FROM runs",
    "recursion": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT sum(n) FROM r",
    "join": (
        "SELECT d.path, max(a.activation) FROM activations a JOIN windows w USING (cache_id, window_id) "
        "JOIN documents d USING (cache_id, doc_id) WHERE a.feature = 5 GROUP BY ALL ORDER BY ALL"
    ),
    "window function": (
        "SELECT feature, rank() OVER (ORDER BY density DESC) AS r FROM feature_stats "
        "QUALIFY rank() OVER (ORDER BY density DESC) < 4"
    ),
    "unnest": "SELECT unnest(token_ids) AS token, count(*) FROM windows GROUP BY 1 ORDER BY 2 DESC, 1",
    "lateral": "SELECT w.window_id, t.i FROM windows w, LATERAL (SELECT unnest(token_offsets) AS i) t",
    "histogram": "SELECT feature, list_sum(histogram), histogram[1:3] FROM feature_stats ORDER BY 1",
    "range": "SELECT i FROM range(5) t(i)",
    "series": "SELECT * FROM generate_series(1, 3)",
    "json": "SELECT info->>'model', json_extract_string(info, '$.name') FROM caches",
    "json_each": "SELECT key FROM caches, json_each(info)",
    "case, cast, between": (
        "SELECT CASE WHEN density BETWEEN 0 AND 0.1 THEN 'rare' ELSE 'dense' END, density::INT FROM feature_stats"
    ),
    "quantile": "SELECT quantile_cont(activation, [0.5, 0.9]), approx_count_distinct(window_id) FROM activations",
    "strings": "SELECT upper(text), regexp_matches(text, 'w[12]'), string_split(text, ' ')[1] FROM windows",
    "dates": "SELECT date_trunc('day', created_at), now() > created_at, current_date FROM caches",
    "set operations": "SELECT feature FROM feature_stats EXCEPT SELECT feature FROM activations",
    "correlated": "SELECT feature, (SELECT count(*) FROM activations a WHERE a.feature = f.feature) FROM logits f",
    "sample": "SELECT * FROM activations USING SAMPLE 3 ROWS",
    "columns": "SELECT COLUMNS('n_.*') FROM feature_stats",
    "star": "SELECT * EXCLUDE (histogram) REPLACE (density * 100 AS density) FROM feature_stats",
    "lambda": "SELECT list_transform(token_ids, lambda x: x + 1), [x FOR x IN token_ids IF x > 2] FROM windows",
    "dollar quotes": "SELECT $$it's; -- fine$$",
    "semicolon in a string": "SELECT ';', 'COPY x TO y', 'read_text(''/etc/passwd'')'",
    "quoted identifier": 'SELECT "text" AS "read_text(x)" FROM "windows"',
    "explain": "EXPLAIN SELECT * FROM activations WHERE feature = 3",
    "explain analyze": "explain  analyze select count(*) from activations where feature = 3",
    "empty views": "SELECT * FROM explanations, scores, audit_effects",
    "runs": "SELECT run_id, kind, status, started_at, finished_at, config FROM runs",
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(stored: tuple[Workspace, Any], name: str) -> None:
    workspace, _ = stored
    found = query(workspace, ALLOWED[name])
    assert found.table.num_columns > 0
    assert not found.truncated


def test_answers_are_right(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace)
    corpus.merge()
    found = query(workspace, "SELECT feature, peak, window_id, position, activation FROM activations")
    assert list(zip(*found.table.to_pydict().values(), strict=True)) == corpus.ordered
    found = query(workspace, "SELECT text FROM windows WHERE window_id = 4")
    assert found.table["text"][0].as_py().startswith("w1 ")


def test_every_view_can_be_asked(stored: tuple[Workspace, Any]) -> None:
    workspace, _ = stored
    for view, table in VIEWS.items():
        assert query(workspace, f"SELECT * FROM {view}").table.column_names == table.names


def test_only_the_views_asked_for_are_opened(stored: tuple[Workspace, Any]) -> None:
    assert checked("SELECT * FROM Windows, (SELECT 1 FROM runs)").views == {"windows", "runs"}
    assert checked("WITH x AS (SELECT * FROM logits) SELECT * FROM x").views == {"logits"}


@given(n=st.integers(0, 6000), max_rows=st.integers(0, 5000))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_at_most_so_many_rows_and_it_says_when_there_were_more(
    stored: tuple[Workspace, Any], n: int, max_rows: int
) -> None:
    found = query(stored[0], f"SELECT i FROM range({n}) t(i)", max_rows=max_rows)
    assert found.table["i"].to_pylist() == list(range(min(n, max_rows)))
    assert found.truncated == (n > max_rows)


def test_more_rows_than_fit_are_never_made(stored: tuple[Workspace, Any]) -> None:
    found = query(stored[0], "SELECT i, i::VARCHAR FROM range(1000000000000) t(i)", max_rows=10, memory="200MB")
    assert isinstance(found, QueryResult)
    assert found.table.num_rows == 10
    assert found.truncated


def test_a_query_that_takes_too_long_is_interrupted(stored: tuple[Workspace, Any]) -> None:
    endless = "SELECT count(*) FROM range(10000000000) a(i), range(1000) b(j) WHERE hash(i) % 7 = hash(j) % 5"
    for sql in (endless, f"EXPLAIN ANALYZE {endless}"):
        with pytest.raises(QueryError, match=r"longer than 0\.2 s"):
            query(stored[0], sql, timeout_s=0.2)


def test_a_query_is_stopped_when_somebody_asks(stored: tuple[Workspace, Any]) -> None:
    endless = "SELECT count(*) FROM range(10000000000) a(i), range(1000) b(j) WHERE hash(i) % 7 = hash(j) % 5"
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    with pytest.raises(QueryError, match="the query was stopped"):
        query(stored[0], endless, timeout_s=60, stop=stop)
    assert query(stored[0], "SELECT 1 AS one", stop=threading.Event()).table["one"].to_pylist() == [1]


def test_a_query_that_takes_too_much_memory_is_ended(stored: tuple[Workspace, Any]) -> None:
    with pytest.raises(QueryError, match="needs more than 50MB"):
        query(stored[0], "SELECT i FROM range(20000000) t(i) ORDER BY hash(i)", memory="50MB")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT nope FROM windows", "nope"),
        ("SELECT text + 1 FROM windows", "VARCHAR"),
        ("SELECT 1 / 'x'", "x"),
        ("SELECT sum(text) FROM windows", "sum"),
        ("SELEC 1", "SELEC"),
        ("SELECT error('x')", "error"),
    ],
)
def test_a_mistake_is_one_sentence_with_a_hint(stored: tuple[Workspace, Any], sql: str, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        query(stored[0], sql)
    assert says in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_damaged_file_is_no_mistake_of_the_query(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    manifest = build(local_workspace).merge()
    path = next(manifest.of("feature_stats")).path
    local_workspace.files.commit(path, local_workspace.files.read_bytes(path)[:-9])
    with pytest.raises(DamagedFileError, match=r"feature_stats\.parquet"):
        query(local_workspace, "SELECT max(density) FROM feature_stats")


def test_no_allowed_function_is_named_like_one_that_reaches_outside() -> None:
    telling = (
        "read", "file", "glob", "env", "setting", "secret", "sql", "query", "duckdb", "pragma", "load", "attach",
        "write", "copy", "http", "log_", "scan", "variable", "sleep", "connection", "external", "plan",
    )  # fmt: skip
    harmless = {
        "parse_filename",  # takes a string apart
        "formatreadablesize",  # "read" as in "readable"
        "formatreadabledecimalsize",
    }
    found = {name for name in allowed_functions() if any(word in name for word in telling)}
    assert found - harmless == set()
