"""Views show what manifests list, in every kind of workspace, and touch no file that a filter rules out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from raylens import schema
from raylens.errors import InputError
from raylens.ids import SaeId
from raylens.store.publish import write_feature_table
from raylens.store.runs import RunJournal
from raylens.store.view_schemas import VIEWS, duckdb_type
from raylens.store.views import connect
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")
OTHER_SAE = SaeId.parse("pico-res/layer_5")


def columns_of(connection: duckdb.DuckDBPyConnection, view: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind, *_ in connection.execute(f'DESCRIBE "{view}"').fetchall()]


def test_every_view_exists_over_an_empty_workspace(workspace: Workspace) -> None:
    with connect(workspace) as connection:
        for view, table in VIEWS.items():
            assert columns_of(connection, view) == [(field.name, duckdb_type(field.type)) for field in table]
            assert connection.execute(f'SELECT * FROM "{view}"').fetchall() == []


def test_the_columns_promised_are_there() -> None:
    promised = {
        "documents": "cache_id doc_id source domain path split",
        "windows": "cache_id window_id doc_id start token_ids token_offsets text",
        "activations": "cache_id sae feature window_id position activation",
        "feature_stats": "cache_id sae feature n_active density mean_activation max_activation",
        "runs": "run_id kind status started_at finished_at config",
    }
    for view, columns in promised.items():
        assert set(columns.split()) <= set(VIEWS[view].names)
    assert {"explanations", "scores", "labels", "notes", "audit_runs", "audit_prompts", "audit_effects"} <= VIEWS.keys()
    assert {"spans", "sae_feature_activations", "patches", "caches", "logits", "neighbours", "map"} <= VIEWS.keys()


def test_views_show_what_was_put_in(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace)
    corpus.merge()
    with connect(workspace) as connection:
        for view, table in VIEWS.items():  # the same types with rows as without
            assert columns_of(connection, view) == [(field.name, duckdb_type(field.type)) for field in table]
        rows = connection.execute("SELECT feature, peak, window_id, position, activation FROM activations").fetchall()
        assert rows == corpus.ordered
        assert connection.execute("SELECT DISTINCT cache_id, sae FROM activations").fetchall() == [
            (corpus.cache.cache_id, str(SAE))
        ]
        assert [row[0] for row in connection.execute("SELECT window_id FROM windows").fetchall()] == list(range(21))
        joined = connection.execute(
            "SELECT DISTINCT d.path FROM activations a JOIN windows w USING (cache_id, window_id) "
            "JOIN documents d USING (cache_id, doc_id) ORDER BY 1"
        ).fetchall()
        assert joined == [(f"lib/{doc}.py",) for doc in range(7)]
        (row,) = connection.execute("SELECT name, n_windows, n_documents, saes, info->>'model' FROM caches").fetchall()
        assert row == ("cache-0123", 21, 7, [str(SAE)], "raylens/pico")


def test_two_caches_of_one_sae_do_not_mix(workspace: Workspace, build: Callable[..., Any]) -> None:
    one = build(workspace, cache_id="a" * 16)
    other = build(workspace, cache_id="b" * 16, seed=5)
    one.merge()
    with connect(workspace) as connection:  # the second has shards, and nothing merged yet
        assert connection.execute("SELECT cache_id, generation IS NULL FROM caches ORDER BY 1").fetchall() == [
            ("a" * 16, False),
            ("b" * 16, True),
        ]
        assert connection.execute("SELECT DISTINCT cache_id FROM activations").fetchall() == [("a" * 16,)]
    other.merge()
    with connect(workspace, only=["activations"]) as connection:
        counts = connection.execute("SELECT cache_id, count(*) FROM activations GROUP BY 1 ORDER BY 1").fetchall()
        assert counts == [("a" * 16, len(one.ordered)), ("b" * 16, len(other.ordered))]
        with pytest.raises(duckdb.CatalogException):
            connection.execute("SELECT * FROM windows")


def test_a_filter_on_sae_leaves_only_its_files(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    corpus.merge()
    other = build(local_workspace, sae=OTHER_SAE, seed=1).merge()
    with connect(local_workspace) as connection:
        plan = "EXPLAIN SELECT count(*) FROM activations WHERE "
        assert explained(connection, plan + "true").count("READ_PARQUET") == 2
        assert explained(connection, plan + f"sae = '{SAE}' AND feature = 3").count("READ_PARQUET") == 1
        assert explained(connection, plan + "sae = 'no/such'").count("READ_PARQUET") == 0
        assert explained(connection, plan + "cache_id = 'no'").count("READ_PARQUET") == 0
        # The other SAE's files are not opened, but for the first, which every view over it needs for its columns.
        for entry in list(other.of("activations", OTHER_SAE))[1:]:
            Path(local_workspace.files.native(entry.path)).write_bytes(b"")
        count = connection.execute(f"SELECT count(*) FROM activations WHERE sae = '{SAE}' AND feature >= 0")
        assert count.fetchall() == [(len(corpus.ordered),)]


def explained(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    return "".join(text for _, text in connection.execute(sql).fetchall())


def test_files_that_no_manifest_lists_are_not_seen(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    manifest = corpus.merge()
    entry = next(manifest.of("activations"))
    data = local_workspace.files.read_bytes(entry.path)
    local_workspace.files.commit(entry.path.replace("0000", "0099"), data)
    with connect(local_workspace) as connection:
        assert connection.execute("SELECT count(*) FROM activations").fetchall() == [(len(corpus.ordered),)]


def test_tables_from_weights(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace)
    manifest = corpus.merge()
    points = pa.table([[0, 1], [0.5, -1.0], [2.0, 3.0]], names=schema.MAP.names).cast(schema.MAP)
    entry = write_feature_table(corpus.cache, SAE, "map", points, {"weights": "abc"})
    with corpus.cache.lock("test") as lock:
        corpus.cache.publish(manifest.model_copy(update={"entries": (*manifest.entries, entry)}), lock)
    with connect(workspace) as connection:
        assert connection.execute("SELECT sae, feature, x, y FROM map").fetchall() == [
            (str(SAE), 0, 0.5, 2.0),
            (str(SAE), 1, -1.0, 3.0),
        ]


def test_runs_are_rows_with_json(workspace: Workspace) -> None:
    with RunJournal.start(workspace.files, "cache", {"n_tokens": 5, "hf_token": "hf_" + "x" * 40}) as journal:
        journal.figures(tokens_per_second=12.5)
    with connect(workspace) as connection:
        rows = connection.execute(
            "SELECT run_id, kind, status, finished_at >= started_at, config->>'n_tokens', config, "
            "(figures->>'tokens_per_second')::DOUBLE, pid > 0 FROM runs"
        ).fetchall()
    assert rows == [(journal.run_id, "cache", "succeeded", True, "5", '{"n_tokens": 5}', 12.5, True)]


@pytest.mark.parametrize("name", ["it's", "year=2026", "sp ace;--", 'dou"ble', "ünï"])
def test_the_workspace_s_own_path_may_be_odd(tmp_path: Path, build: Callable[..., Any], name: str) -> None:
    workspace = Workspace.open(tmp_path / name, create=True)
    corpus = build(workspace)
    corpus.merge()
    with connect(workspace, locked=True, memory="500MB") as connection:
        assert connection.execute("SELECT count(*) FROM activations").fetchall() == [(len(corpus.ordered),)]
        assert connection.execute("SELECT * FROM documents LIMIT 0").fetchall() == []
        assert [name for name, _ in columns_of(connection, "documents")] == VIEWS["documents"].names


def test_an_amount_of_memory_that_is_none(local_workspace: Workspace) -> None:
    with pytest.raises(InputError, match="'lots' is not an amount of memory"):
        connect(local_workspace, memory="lots")
