"""SQL: one SELECT over the views, through the one door; what is refused is a sentence, and nobody waits for others."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from app_here import charts, page, points, run, said, titles
from raylens.store.sql import query
from raylens.store.view_schemas import VIEWS
from raylens.store.workspace import Workspace
from raylens_app.web.query import running
from raylens_app.web.query.examples import EXAMPLES, first_rows
from raylens_app.web.query.result import _csv, _parquet
from span_pages import press

SLOW = (
    "SELECT count(*) FROM generate_series(1, 100000) a(x), generate_series(1, 100000) b(y), "
    "generate_series(1, 100000) c(z) WHERE (x * y) % (z + 7) = 3"
)

EVERY = [*(sql for _, sql in EXAMPLES), *map(first_rows, VIEWS)]


def done(app: AppTest) -> AppTest:
    """After the query has ended, as its page looks by itself."""
    until = time.monotonic() + 30
    while any(word in one.value for one in app.info for word in ("Running for", "Other queries", "Stopping")):
        assert time.monotonic() < until
        time.sleep(0.1)
        run(app)
    return app


def asked(sql: str, **params: str) -> AppTest:
    return done(page("sql", sql=sql, **params))


def typed(sql: str) -> AppTest:
    """A new session in which somebody types a query and runs it."""
    app = page("sql")
    app.text_area(key="sql").set_value(sql)
    return done(press(app, "Run"))


def test_a_query_that_is_typed_runs_and_stands_in_the_address(browsed: Workspace) -> None:
    sql = "SELECT sae, count(*) AS features FROM feature_stats GROUP BY sae ORDER BY sae"
    app = typed(sql)
    table = app.dataframe[0].value
    assert list(table["sae"]) == ["raylens-pico-res/layer_3", "tiny-res/layer_3"]
    assert list(table["features"]) == [12, 12]
    assert "2 rows" in said(app)
    again = asked(sql)
    assert list(again.dataframe[0].value["features"]) == [12, 12], "a link runs it"


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT 1; SELECT 2", "it holds 2 statements"),
        ("COPY feature_stats TO '/tmp/x.csv'", "COPY is not allowed"),
        ("ATTACH 'x.db'", "ATTACH is not allowed"),
        ("SELECT * FROM read_csv('/etc/passwd')", "function 'read_csv' is not allowed"),
        ("SELECT * FROM '/etc/passwd'", "there is no view '/etc/passwd'"),
        ("SELECT nothing_of_the_kind FROM caches", "nothing_of_the_kind"),
        ("SELEC 1", "the query cannot be parsed"),
        ("SELECT * FROM <script>alert(1)</script>", "the query cannot be parsed"),
        ("SELECT 1/0 + CAST('x' AS INT)", "the query does not run"),
    ],
)
def test_what_is_refused_is_one_sentence_and_a_hint(browsed: Workspace, sql: str, words: str) -> None:
    app = typed(sql)
    (error,) = app.error
    assert words in error.value.replace("\\", "")
    assert "<script>" not in error.value
    assert not app.dataframe
    app.text_area(key="sql").set_value("SELECT 1 AS one")
    assert list(done(press(app, "Run")).dataframe[0].value["one"]) == [1], "and the page goes on"


def test_nothing_typed_is_said(browsed: Workspace) -> None:
    assert "there is no query." in said(typed("  "))


def test_a_query_that_takes_too_long_ends(browsed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TIMEOUT_S", 1.0)
    app = typed(SLOW)
    (error,) = app.error
    assert "longer than 1 s" in error.value


def test_a_long_query_holds_up_nobody(browsed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TIMEOUT_S", 6.0)
    slow = page("sql", sql=SLOW)
    assert any("Running for" in one.value for one in slow.info)
    assert next(one for one in slow.button if one.label == "Run").disabled, "one at a time in a session"
    began = time.monotonic()
    assert list(asked("SELECT 1 AS one").dataframe[0].value["one"]) == [1]
    assert page("features").title[0].value == "Features"
    assert time.monotonic() - began < 5.0
    assert any("Running for" in one.value for one in run(slow).info)
    assert done(slow).error
    assert not next(one for one in slow.button if one.label == "Run").disabled


def test_a_query_that_runs_is_stopped_and_the_next_one_runs(browsed: Workspace) -> None:
    app = page("sql", sql=SLOW)
    press(app, "Stop")
    (error,) = done(app).error
    assert "the query was stopped" in error.value
    assert not any(one.label == "Stop" for one in app.button)
    app.text_area(key="sql").set_value("SELECT 1 AS one")
    assert list(done(press(app, "Run")).dataframe[0].value["one"]) == [1]


def test_one_that_waits_for_its_turn_is_stopped_at_once(browsed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as pool, ExitStack() as ending:
        monkeypatch.setattr(running, "_POOL", pool)
        first = running.start(browsed, SLOW, 10)
        ending.callback(first.stop)
        app = page("sql", sql="SELECT 1 AS one")
        assert any("Other queries are running" in one.value for one in app.info)
        press(app, "Stop")
        (error,) = run(app).error
        assert "the query was stopped" in error.value
        assert not first.future.done()


def test_sessions_do_not_see_each_others_results(browsed: Workspace) -> None:
    one, other = typed("SELECT 1 AS one"), page("sql")
    assert not other.dataframe
    assert list(run(one).dataframe[0].value["one"]) == [1]


def test_rows_are_limited_and_it_says_so(browsed: Workspace) -> None:
    app = asked("SELECT n FROM generate_series(1, 5000) t(n)", most="100")
    assert len(app.dataframe[0].value) == 100
    assert "100 rows: the first ones, there are more" in said(app)


def test_a_result_too_large_to_keep_is_cut(browsed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_KEPT_BYTES", 20_000)
    app = asked(f"SELECT '{'x' * 1000}' AS text FROM generate_series(1, 1000)")
    assert 0 < len(app.dataframe[0].value) < 20
    assert "too large" in app.warning[0].value


def test_examples_and_views_are_listed_and_all_of_them_run(browsed: Workspace) -> None:
    app = page("sql")
    labels = [one.label for one in app.button]
    assert set(VIEWS) <= set(labels)
    assert {says for says, _ in EXAMPLES} <= set(labels)
    assert "feature integer" in said(app)
    for sql in EVERY:
        assert query(browsed, sql).table.column_names
    says, sql = EXAMPLES[1]
    app = press(app, says)
    assert app.text_area(key="sql").value == sql
    assert not app.dataframe, "it runs when it is told to"
    assert len(done(press(app, "Run")).dataframe[0].value) > 0
    app = press(app, "caches")
    assert "holds another query by now" in said(app)


def test_they_also_run_where_there_is_nothing(empty: Workspace) -> None:
    for sql in EVERY:
        assert query(empty, sql).table.num_rows == 0


@pytest.mark.parametrize(("kind", "mark"), [("bars", "bar"), ("line", "line"), ("points", "point")])
def test_rows_become_a_chart_with_title_and_axes(browsed: Workspace, kind: str, mark: str) -> None:
    sql = "SELECT feature, density FROM feature_stats ORDER BY ALL"
    app = asked(sql, drawn="chart", chart=kind, x="feature", y="density")
    (chart,) = charts(app)
    assert chart["mark"]["type"] == mark
    assert titles(chart) == {"density by feature", "feature", "density (share of tokens)"}
    assert "24 rows" in chart["title"]["subtitle"]
    assert points(app)["x"] == query(browsed, sql).table["feature"].to_pylist()


def test_any_name_of_a_column_can_be_drawn(browsed: Workspace) -> None:
    sql = 'SELECT density, sae AS "a.b[0]" FROM feature_stats ORDER BY ALL'
    app = asked(sql, drawn="chart", x="a.b[0]", y="density", by="a.b[0]")
    assert titles(charts(app)[0]) == {"a.b[0]", "density by a.b[0]", "density (share of tokens)"}
    assert set(points(app)["by"]) == {"tiny-res/layer_3", "raylens-pico-res/layer_3"}
    for kind, channel in (("points", "shape"), ("line", "strokeDash")):  # not by colours alone
        (chart,) = charts(asked(sql, drawn="chart", chart=kind, x="a.b[0]", y="density", by="a.b[0]"))
        assert chart["encoding"][channel]["field"] == "by"
    app = asked("SELECT 'text' AS only", drawn="chart")
    assert "No column of this result holds numbers." in said(app)


def test_what_no_chart_can_hold_is_left_out_of_it(browsed: Workspace) -> None:
    sql = "SELECT 'a' AS x, 'nan'::DOUBLE AS y UNION ALL SELECT 'b', 'inf'::DOUBLE UNION ALL SELECT NULL, 1"
    assert points(asked(sql, drawn="chart"))["y"] == [None, None, 1.0]


def test_all_types_are_shown_and_taken_home(browsed: Workspace) -> None:
    sql = (
        "SELECT 1 AS a, 2 AS a, sum(3::BIGINT) AS huge, 1.50::DECIMAL(9,2) AS dec, {'k': [1, 2]} AS nested, "
        "MAP {'x': 1} AS m, [1, NULL] AS l, NULL AS n, true AS yes, TIMESTAMPTZ '2026-01-05 09:00:00+00' AS at, "
        "INTERVAL 3 DAYS AS i, DATE '2026-01-05' AS day, chr(8238) || '<b>\"x\",y' AS text"
    )
    app = asked(sql)
    row: dict[str, Any] = app.dataframe[0].value.to_dict("records")[0]
    assert (row["a"], row["a (2)"], row["huge"], row["dec"], row["yes"]) == (1, 2, 3.0, 1.5, True)
    assert (row["nested"], row["m"]) == ('{"k": [1, 2]}', '{"x": 1}')
    found = query(browsed, "SELECT 1 AS one, '<b>\"x\",y' AS text, [1, 2] AS l").table
    assert _csv(found).decode() == 'one,text,l\n1,"<b>""x"",y","[1, 2]"\n'
    assert pq.read_table(io.BytesIO(_parquet(found))).equals(found)


def test_a_plan_is_shown_as_text(browsed: Workspace) -> None:
    app = asked("EXPLAIN SELECT count(*) FROM feature_stats")
    assert not app.dataframe
    assert "aggregate" in app.code[-1].value.lower()
