"""``raylens provenance --windows``: on real Ray, over windows of a real cache, going on where it ended (A3.10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cache_runs import SAE
from raylens.config import ProvenanceConfig
from raylens.errors import StoppedError
from raylens.ids import SaeId
from raylens.store.edges import Edges
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.sql import query
from raylens.store.workspace import Workspace
from raylens_jobs import provenance as job
from raylens_jobs.provenance_plan import plan_provenance

Raylens = Callable[..., Any]


@pytest.fixture
def feature(copy: Workspace) -> int:
    """One that fires in many windows, and not on every token."""
    reader = CacheReader(copy, copy.caches()[0])
    table = reader.table("feature_stats", SaeId.parse(SAE), ["feature", "n_windows", "density"])
    assert table is not None
    rows = [row for row in table.to_pylist() if row["density"] < 0.05]
    return max(rows, key=lambda row: row["n_windows"])["feature"]


def test_over_windows_and_again(raylens: Raylens, copy: Workspace, feature: int) -> None:  # A3.10
    code, found, errors = raylens("provenance", f"f_3_{feature}", "--windows", "3", "--top", "5", "--workers", "1")
    assert code == 0, errors
    assert (found["texts"], found["texts_total"], found["silent"], found["n_texts"]) == (3, 3, 0, 3)
    assert found["agreement"] >= 0.8
    assert [layer["layer"] for layer in found["layers"]] == [1]
    strongest = found["sources"][0]
    assert strongest["source"].startswith("raylens-pico-res/layer_1/")
    assert 1 <= strongest["n"] <= 3

    rows = query(copy, "SELECT DISTINCT cache_id, window_id, run_id, origin FROM edges").table.to_pylist()
    reader = CacheReader(copy, copy.caches()[0])
    windows = [one.window_id for one in reader.top_windows(SaeId.parse(SAE), feature, 3)]
    assert sorted(row["window_id"] for row in rows) == sorted(windows)
    assert {row["cache_id"] for row in rows} == {reader.cache_id}
    assert {row["origin"] for row in rows} == {f"{SAE}/{feature}"}
    runs = {run.run_id: run for run in copy.runs()}
    (run_id,) = {row["run_id"] for row in rows}
    assert (runs[run_id].kind, runs[run_id].status) == ("provenance", "succeeded")
    assert runs[run_id].figures["texts"] == 3

    # Nothing is worked out twice: a rerun starts no actor, and one that asks for less is known as well.
    for words in (("--windows", "3", "--top", "5"), ("--windows", "2", "--top", "3")):
        code, again, errors = raylens("provenance", f"f_3_{feature}", *words)
        assert code == 0, errors
        assert (again["texts"], again["texts_total"]) == (0, int(words[1]))
    # One window by itself is what the run has of it.
    code, one, errors = raylens("provenance", f"f_3_{feature}", "--window", str(windows[0]), "--top", "5")
    assert code == 0, errors
    stored = Edges(copy.files).of({one["provenance_id"]})
    assert {row["source"] for row in stored} == {edge["source"]["name"] for edge in one["edges"]}
    assert {row["window_id"] for row in stored} == {windows[0]}
    assert len({row["provenance_id"] for row in Edges(copy.files).of(Edges(copy.files).known())}) == 3


def test_a_run_that_is_stopped_keeps_what_is_done(
    copy: Workspace, feature: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # A3.10
    config = ProvenanceConfig(feature=f"f_3_{feature}", windows=3, top=2)
    plan = plan_provenance(config, copy)
    texts = job.peak_texts(plan, copy)
    assert len({text.id for text in texts}) == 3
    at_most = 1

    def here(plan: Any, missing: Any, journal: RunJournal) -> Any:
        """In this process; asked to stop after so many texts."""
        for text in missing[:at_most]:
            yield text, job.follow_text(plan, copy, window=text.window_id, token=text.token)

    monkeypatch.setattr(job, "_followed", here)
    journal = RunJournal.start(copy.files, "provenance", {})
    with pytest.raises(StoppedError, match="after 1 of 3 texts"), journal:
        job.run_provenance(plan, copy, journal)
    assert list(Edges(copy.files).known()) == [texts[0].id]
    assert [run.status for run in copy.runs() if run.run_id == journal.run_id] == ["stopped"]
    at_most = 9
    with RunJournal.start(copy.files, "provenance", {}) as other:
        told: list[tuple[int, int]] = []
        figures = job.run_provenance(plan, copy, other, lambda *how_far: told.append(how_far))
    assert (figures["texts"], figures["n_texts"]) == (2, 3)
    assert told == [(1, 3), (2, 3), (3, 3)]
