"""Feature analyses: out of a cache, through files of either kind, into another workspace, and out again (A3.07)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from raylens.errors import DamagedFileError, DiskFullError, InputError, UnknownNameError
from raylens.labels.exports import KINDS, import_exports
from raylens.labels.label_store import LabelStore
from raylens.store import analysis_files
from raylens.store.analysis import Analysis
from raylens.store.analysis_cache import read_from_cache, write_to_cache
from raylens.store.analysis_checks import check
from raylens.store.analysis_files import load_parquet, save_parquet
from raylens.store.housekeeping import gc
from raylens.store.reader import CacheReader
from raylens.store.sql import query
from raylens.store.workspace import Workspace
from small_analyses import SOURCE, analyses, colleagues, loaded, saved
from small_cache import CACHE_ID, D_SAE, SAE

IN_PAGES = {"encoder_neighbours", "cofiring", "map"}
"""Tables that Neuronpedia's shapes have no place for."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return colleagues(tmp_path / "colleague")


@pytest.fixture
def analysis(workspace: Workspace) -> Analysis:
    return read_from_cache(workspace, CACHE_ID, SAE, 3)


def assert_same(found: Analysis, expected: Analysis, form: str) -> None:
    assert found.header == expected.header
    left_out = IN_PAGES if form == "neuronpedia" else set()
    for name, table in expected.tables.items():
        if name not in left_out and (table.num_rows or name in found.tables):
            assert found.tables[name].equals(table), name
    assert found.tables.keys() <= expected.tables.keys()


FORMS = pytest.mark.parametrize("form", ["parquet", "neuronpedia"])


def test_what_a_cache_says_is_in_it(workspace: Workspace, analysis: Analysis) -> None:
    check(analysis)
    reader = CacheReader(workspace, CACHE_ID)
    rows = analysis.tables["activations"].to_pylist()
    windows = analysis.tables["windows"].to_pylist()
    documents = analysis.tables["documents"].to_pylist()
    texts = reader.windows(range(4)).to_pylist()
    for feature in range(D_SAE):
        expected = [
            (one.peak, texts[one.window_id]["text"], int(at), float(value), f"lib/{one.window_id}.py")
            for one in reader.top_windows(SAE, feature, 3)
            for at, value in zip(one.positions, one.activations, strict=True)
        ]
        found = [
            (
                row["peak"],
                windows[row["window_id"]]["text"],
                row["position"],
                row["activation"],
                documents[windows[row["window_id"]]["doc_id"]]["path"],
            )
            for row in rows
            if row["feature"] == feature
        ]
        assert found == expected
    assert analysis.header.n_activations > len(rows), "the fourth window of feature 0 stayed behind"
    statistics = reader.table("feature_stats", SAE)
    assert statistics is not None
    assert analysis.tables["feature_stats"].to_pylist() == statistics.to_pylist()
    assert [one.kind for one in analysis.header.passes] == ["explanations", "explanations", "scores"]
    assert analysis.tables["explanations"].num_rows == 4
    assert analysis.tables["scores"].num_rows == 3


@FORMS
def test_there_and_back(workspace: Workspace, analysis: Analysis, tmp_path: Path, form: str) -> None:  # A3.07
    received = loaded(saved(analysis, tmp_path / "sent", form), form)
    assert_same(received, analysis, form)
    own = Workspace.open(tmp_path / "own", create=True)
    cache, is_new = write_to_cache(own, received, "import-1", "from-a-colleague")
    assert is_new
    again = read_from_cache(own, "from-a-colleague", SAE, 3)
    assert_same(again, received, "parquet")
    assert again.content() == received.content()
    for folder in (saved(again, tmp_path / "again", form), saved(again, tmp_path / "twice", form)):
        for file in (tmp_path / "sent").rglob("*.*"):
            assert (folder / file.relative_to(tmp_path / "sent")).read_bytes() == file.read_bytes()
    assert write_to_cache(own, received, "import-2") == (cache, False)

    old, new = CacheReader(workspace, CACHE_ID), CacheReader(own, cache)
    for feature in range(D_SAE):
        assert new.feature(SAE, feature) == old.feature(SAE, feature)
        texts = [
            [(one.text, one.tokens, one.activations.tolist(), one.peak, one.source, one.path) for one in shown]
            for shown in (r.examples(r.top_windows(SAE, feature, 3)) for r in (old, new))
        ]
        assert texts[0] == texts[1]
    words = "SELECT feature, explanation, explainer, status FROM explanations ORDER BY ALL"
    assert query(own, words).table.equals(query(workspace, words).table)
    figures = "SELECT feature, scorer, metric, value, control, ci_low FROM scores ORDER BY ALL"
    assert query(own, figures).table.equals(query(workspace, figures).table)


def test_nothing_of_the_workspace_is_touched(workspace: Workspace, analysis: Analysis) -> None:
    root = Path(workspace.files.native(""))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    cache, is_new = write_to_cache(workspace, analysis, "import-1")
    assert is_new
    assert cache != CACHE_ID
    assert {path: path.read_bytes() for path in before} == before
    gc(workspace)
    assert read_from_cache(workspace, cache, SAE, 3).content() == analysis.content()


def test_an_import_that_fails_leaves_nothing(
    workspace: Workspace, analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Workspace.open(tmp_path / "own", create=True)

    def full(*_: Any, **__: Any) -> None:
        raise DiskFullError("no space is left.", hint="make some.")

    with monkeypatch.context() as patched:
        patched.setattr("raylens.store.analysis_cache.write_feature_table", full)
        with pytest.raises(DiskFullError):
            write_to_cache(own, analysis, "import-1")
    assert own.caches() == ()
    assert [one.path for one in own.files.scan("caches") if one.path.endswith(".parquet")] == []
    assert write_to_cache(own, analysis, "import-2")[1]
    with monkeypatch.context() as patched:
        patched.setattr(analysis_files.parquet, "write_table", full)
        with pytest.raises(DiskFullError):
            save_parquet(analysis, tmp_path / "sent")
    assert {one.name for one in tmp_path.iterdir()} == {"colleague", "own"}


def test_labels_are_read_from_it_as_from_neuronpedias_own(analysis: Analysis, tmp_path: Path) -> None:
    folder = saved(analysis, tmp_path / "sent", "neuronpedia")
    with LabelStore(Workspace.open(tmp_path / "own", create=True).files) as store:
        report = import_exports(store, folder, kinds=KINDS)
        assert (report.n_bad, report.broken, report.explanations, report.silent) == (0, {}, 3, 1)
        page = store.page(SOURCE, 0)
        assert page is not None
        assert page["maxActApprox"] == 4.0
        assert {one["description"] for one in page["explanations"]} == {"words about 0", "something else"}
        assert page["activations"][0]["tokens"][1] == "w1 "


def test_what_there_is_not_is_said(workspace: Workspace, tmp_path: Path, analysis: Analysis) -> None:
    with pytest.raises(UnknownNameError):
        read_from_cache(workspace, "other", SAE, 3)
    with pytest.raises(InputError, match="1 to 1,000"):
        read_from_cache(workspace, CACHE_ID, SAE, 0)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there already"):
        save_parquet(analysis, tmp_path / "there")
    with pytest.raises(InputError, match=r"holds no analysis\.json"):
        load_parquet(tmp_path / "there")
    next(path for path in Path(workspace.files.native("")).rglob("feature_stats.parquet")).unlink()
    with pytest.raises(DamagedFileError):
        read_from_cache(workspace, CACHE_ID, SAE, 3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(analysis=analyses())
def test_any_analysis_comes_back_as_it_went(tmp_path_factory: pytest.TempPathFactory, analysis: Analysis) -> None:
    # A3.07
    check(analysis)
    folder = tmp_path_factory.mktemp("any")
    workspace = Workspace.open(folder / "workspace", create=True)
    for form in ("parquet", "neuronpedia"):
        received = loaded(saved(analysis, folder / form, form), form)
        assert_same(received, analysis, form)
        cache, _ = write_to_cache(workspace, received, "import-1")
        assert_same(read_from_cache(workspace, cache, SAE, 3), received, "parquet")
