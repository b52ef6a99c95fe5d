"""Explanations and scores: written once a batch of features, found again by settings, seen by SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

import raylens.store.findings as findings_module
from raylens import schema
from raylens.errors import DamagedFileError
from raylens.ids import SaeId
from raylens.store.findings import Findings, findings_in
from raylens.store.findings import passes as passes_of
from raylens.store.housekeeping import remove_sae
from raylens.store.usage import du
from raylens.store.views import connect
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")


def explained(*features: int, text: str = "a word") -> pa.Table:
    rows = [
        {
            "feature": feature,
            "explanation_id": f"e{feature}",
            "run_id": "explain-1",
            "explainer": "lexical",
            "explanation": f"{text} {feature}",
            "status": "ok",
            "n_examples": 40,
            "trimmed": False,
            "created_at": datetime(2026, 11, 21, tzinfo=UTC),
        }
        for feature in features
    ]
    return pa.Table.from_pylist(rows, schema=schema.EXPLANATIONS)


def passes(workspace: Workspace, build: Callable[..., Any], **settings: object) -> Findings:
    corpus = build(workspace)
    corpus.merge()
    return Findings(corpus.cache, SAE, "explanations", {"explainer": "lexical", **settings})


def test_what_was_written_is_found_by_the_same_settings(workspace: Workspace, build: Callable[..., Any]) -> None:
    found = passes(workspace, build, seed=1)
    found.begin()
    assert found.settled() == frozenset()
    assert found.read().num_rows == 0
    found.write([9, 3, 4], explained(9, 3))  # of 4 nothing could be said
    found.write([1], explained())
    assert found.settled() == {1, 3, 4, 9}
    assert found.read()["feature"].to_pylist() == [3, 9]
    again = Findings(found.cache, SAE, "explanations", {"explainer": "lexical", "seed": 1})
    assert again.settled() == found.settled()
    other = Findings(found.cache, SAE, "explanations", {"explainer": "lexical", "seed": 2})
    assert other.settled() == frozenset()
    assert [row.features for row in findings_in(workspace, "explanations")] == [(1,), (3, 4, 9)]
    assert [one.pass_id for one in passes_of(found.cache, SAE, "explanations")] == [found.pass_id]
    other.begin()
    assert {one.pass_id for one in passes_of(found.cache, SAE, "explanations")} == {found.pass_id, other.pass_id}
    assert passes_of(found.cache, SAE, "scores") == []


def test_rows_are_read_one_by_one(
    local_workspace: Workspace, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings_module, "_CHUNK_ROWS", 2)
    found = passes(local_workspace, build)
    found.write([7, 8, 9], explained(7, 8, 9))
    found.write([2, 5], explained(2, 5))
    assert list(found.each()) == found.read().to_pylist()
    assert [row["feature"] for row in found.each()] == [2, 5, 7, 8, 9]
    some = ["feature", "explanation"]
    assert list(found.each(some)) == found.read().select(some).to_pylist()
    assert found.read(["explanation", "feature"]).column_names == ["explanation", "feature"]
    empty = Findings(found.cache, SAE, "explanations", {"explainer": "none"})
    assert list(empty.each(some)) == []


def test_a_file_without_its_row_does_not_exist(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    found = passes(local_workspace, build)
    row = found.write([5, 6], explained(5, 6))
    local_workspace.files.delete(row.path.removesuffix(".parquet") + ".json")
    assert found.settled() == frozenset()
    with connect(local_workspace) as connection:
        assert connection.execute("SELECT count(*) FROM explanations").fetchall() == [(0,)]
    found.write([5, 6], explained(5, 6, text="anew"))
    assert found.read()["explanation"].to_pylist() == ["anew 5", "anew 6"]


def test_sql_joins_explanations_with_scores_and_statistics(workspace: Workspace, build: Callable[..., Any]) -> None:
    found = passes(workspace, build)
    found.write([3, 9], explained(3, 9))
    scores = Findings(found.cache, SAE, "scores", {"scorer": "rule"})
    row = {"feature": 9, "explanation_id": "e9", "run_id": "score-1", "explainer": "lexical", "scorer": "rule",
           "metric": "f1", "value": 0.75, "ci_low": 0.6, "ci_high": 0.9, "n": 100, "n_failed": 0}  # fmt: skip
    scores.write([3, 9], pa.Table.from_pylist([row], schema=schema.SCORES))
    with connect(workspace) as connection:
        rows = connection.execute(
            """
            SELECT e.feature, e.explanation, s.value, f.n_active > 0
            FROM explanations e JOIN feature_stats f USING (cache_id, sae, feature)
            LEFT JOIN scores s USING (cache_id, sae, feature, explanation_id) ORDER BY e.feature
            """
        ).fetchall()
    assert rows == [(3, "a word 3", None, True), (9, "a word 9", 0.75, True)]


def test_room_is_counted_and_given_back_with_the_sae(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    found = passes(local_workspace, build)
    found.begin()
    found.write([3], explained(3))
    kinds = {row.kind: (row.sae, row.files) for row in du(local_workspace)}
    assert kinds["explanations"] == (SAE.key, 3)
    remove_sae(local_workspace, found.cache.cache_id, SAE)
    assert list(findings_in(local_workspace, "explanations")) == []
    assert not local_workspace.files.exists(found.folder)


def test_damage_is_named(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    found = passes(local_workspace, build)
    row = found.write([3], explained(3))
    local_workspace.files.commit(row.path, b"PAR1")
    with pytest.raises(DamagedFileError, match=r"\.parquet is damaged.*run the same command again"):
        found.read()
    local_workspace.files.commit(row.path.removesuffix(".parquet") + ".json", b"{")
    with pytest.raises(DamagedFileError, match=r"\.json is damaged"):
        found.settled()
