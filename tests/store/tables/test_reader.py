"""What a reader finds equals a filter over all rows; where it looks follows from the footers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylens.errors import DamagedFileError, InputError, UnknownNameError
from raylens.ids import SaeId
from raylens.store import merge, parquet, reader
from raylens.store.examples import pieces
from raylens.store.parquet import TableFile
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")


def windows_of(corpus: Any, feature: int) -> list[tuple]:
    """The oracle: (window, peak, positions, activations) of every window of a feature, in file order."""
    found: dict[int, tuple] = {}
    for one, peak, window, position, activation in corpus.ordered:
        if one == feature:
            _, _, positions, activations = found.setdefault(window, (window, peak, [], []))
            positions.append(position)
            activations.append(activation)
    return list(found.values())


def as_tuples(activities: Any) -> list[tuple]:
    return [(one.window_id, one.peak, one.positions.tolist(), one.activations.tolist()) for one in activities]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 30 rows, so that features span several and share some, as they do in large files."""
    monkeypatch.setattr(parquet, "ACTIVATIONS", replace(parquet.ACTIVATIONS, group_rows=30))


@pytest.mark.usefixtures("small_groups")
def test_top_windows_are_the_first_of_the_oracle(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace, d_sae=24)
    corpus.merge()
    found = CacheReader(workspace, corpus.cache.cache_id)
    for feature in (0, 1, 2, 15, 16, 23):
        expected = [one for one in windows_of(corpus, feature) if one[1] > 0]
        for k in (0, 1, 5, 100):
            assert as_tuples(found.top_windows(SAE, feature, k)) == expected[:k]
    assert windows_of(corpus, 0)  # it fires, on BOS only
    assert found.top_windows(SAE, 0, 5) == []


@pytest.mark.usefixtures("small_groups")
def test_rows_and_peaks_are_those_of_the_oracle(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    for feature in range(40):
        window, position, activation = (column.tolist() for column in found.rows(SAE, feature))
        stored = [(w, p, a) for one, _, w, p, a in corpus.ordered if one == feature]
        assert list(zip(window, position, activation, strict=True)) == stored
        peaks = [peak for _, peak, _, _ in windows_of(corpus, feature) if peak > 0]
        assert found.peaks(SAE, feature).tolist() == peaks
    document, size = found.window_sizes()
    assert document.tolist() == [window // 3 for window in range(len(corpus.lengths))]
    assert size.tolist() == corpus.lengths.tolist()


@pytest.mark.usefixtures("small_groups")
def test_intervals(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, d_sae=24, shard_windows=(30, 30))
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    oracle = {feature: [one for one in windows_of(corpus, feature) if one[1] > 0] for feature in range(24)}

    @given(
        feature=st.integers(0, 23),
        bounds=st.tuples(st.floats(-1, 2), st.floats(0, 2) | st.just(float("inf"))),
        k=st.integers(0, 40),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def check(feature: int, bounds: tuple[float, float], k: int, seed: int) -> None:
        low, high = bounds
        inside = [one for one in oracle[feature] if low <= one[1] < high]
        assert as_tuples(found.windows_in_interval(SAE, feature, low, high, k)) == inside[:k]
        sample = as_tuples(found.windows_in_interval(SAE, feature, low, high, k, seed=seed))
        assert len(sample) == min(k, len(inside))
        assert sample == [one for one in inside if one in sample]  # in rank order, each once
        assert sample == as_tuples(found.windows_in_interval(SAE, feature, low, high, k, seed=seed))

    check()


def test_bounds_are_compared_exactly(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, d_sae=24)
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    peaks = sorted({one[1] for one in windows_of(corpus, 5)} - {0.0})
    assert len(peaks) > 2
    middle = peaks[1]  # a float32; a hair above it is not the same bound
    assert {one.peak for one in found.windows_in_interval(SAE, 5, middle, np.inf, 99)} == set(peaks[1:])
    assert {one.peak for one in found.windows_in_interval(SAE, 5, middle + 1e-12, np.inf, 99)} == set(peaks[2:])
    assert {one.peak for one in found.windows_in_interval(SAE, 5, 0, middle, 99)} == set(peaks[:1])


@pytest.mark.usefixtures("small_groups")
def test_samples_reach_every_part_of_an_interval(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, d_sae=16, shard_windows=(60, 60), density=0.5)
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    feature = max(range(1, 16), key=lambda one: len(windows_of(corpus, one)))
    ranks = {window: rank for rank, (window, *_) in enumerate(windows_of(corpus, feature))}
    drawn = [
        ranks[one.window_id]
        for seed in range(60)
        for one in found.windows_in_interval(SAE, feature, 0, np.inf, 4, seed=seed)
    ]
    assert len(drawn) == 240
    quarters = np.bincount(np.array(drawn) * 4 // len(ranks), minlength=4) / len(drawn)
    assert (quarters > 0.1).all()


@pytest.mark.usefixtures("small_groups")
def test_activations_of_given_windows(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, d_sae=24)
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    for feature in (0, 3, 7):
        expected = {one[0]: one for one in windows_of(corpus, feature)}
        asked = found.activations_of(SAE, feature, range(0, 21, 2))
        assert {window: as_tuples([one])[0] for window, one in asked.items()} == {
            window: one for window, one in expected.items() if window % 2 == 0
        }
    assert found.activations_of(SAE, 3, []) == {}


def test_windows_come_in_the_order_asked_for(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, shard_windows=(70, 80))
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    asked = [149, 3, 64, 3, 0, 63, 128]
    table = found.windows(asked)
    assert table["window_id"].to_pylist() == asked
    assert table["start"].to_pylist() == [one % 3 * 100 for one in asked]
    assert found.windows([], ["text"]).num_rows == 0
    for outside in (-1, 150):
        with pytest.raises(InputError, match="its windows are 0 to 149"):
            found.windows([0, outside])


def test_examples_carry_tokens_and_where_they_come_from(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace)
    corpus.merge()
    found = CacheReader(workspace, corpus.cache.cache_id)
    activities = found.top_windows(SAE, 5, 6)
    assert len(activities) == 6
    for activity, example in zip(activities, found.examples(activities), strict=True):
        length = corpus.lengths[activity.window_id]
        assert (example.window_id, example.peak) == (activity.window_id, activity.peak)
        assert example.tokens == ("", *(f"w{place} " for place in range(1, length)))
        assert "".join(example.tokens) == example.text
        assert (example.source, example.path) == ("stdlib", f"lib/{activity.window_id // 3}.py")
        assert np.flatnonzero(example.activations).tolist() == activity.positions.tolist()
        assert example.activations.dtype == np.float32
        assert len(example.activations) == length
    assert found.examples([]) == []


@given(st.lists(st.text(min_size=0, max_size=3), min_size=1, max_size=12))
def test_pieces_make_up_the_text(words: list[str]) -> None:
    offsets = np.cumsum([0, *map(len, words)])[:-1].tolist()
    assert pieces("".join(words), offsets) == tuple(words)
    assert pieces("", []) == ()


def test_a_document_is_found_in_any_row_group(
    local_workspace: Workspace, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "DOCUMENTS", replace(parquet.DOCUMENTS, group_rows=3))
    corpus = build(local_workspace, shard_windows=(30, 31))
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    everywhere = found.examples(found.top_windows(SAE, 5, 99))
    assert {one.path for one in everywhere} == {f"lib/{one.window_id // 3}.py" for one in everywhere}
    assert len({one.path for one in everywhere}) > 9


def test_statistics_and_tables(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id[:6])
    table = found.table("feature_stats", SAE)
    assert table is not None
    assert found.feature(SAE, 17) == table.to_pylist()[17]
    assert found.table("feature_stats", SAE, ["density"]).column_names == ["density"]  # pyright: ignore[reportOptionalMemberAccess]
    assert found.table("logits", SAE) is None
    assert found.saes == (SAE,)
    assert found.d_sae(SAE) == 40


def test_rows_of_some_features_read_only_their_groups(
    local_workspace: Workspace, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge.parquet, "FEATURE_STATS", replace(parquet.FEATURE_STATS, group_rows=7))
    corpus = build(local_workspace)
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    table = found.table("feature_stats", SAE)
    assert table is not None
    whole = table.to_pylist()
    groups: list[list[int]] = []
    plain = TableFile.read

    def read(self: TableFile, which: list[int], columns: list[str] | None = None) -> Any:
        groups.append(which)
        return plain(self, which, columns)

    monkeypatch.setattr(TableFile, "read", read)
    for wanted, needed in (([39, 0, 8], [0, 1, 5]), ([6], [0]), ([7], [1]), (range(40), [0, 1, 2, 3, 4, 5]), ([], [])):
        rows = found.rows_of("feature_stats", SAE, wanted)
        assert rows is not None
        assert rows.to_pylist() == [row for row in whole if row["feature"] in wanted]
        assert groups.pop() == needed
    some = found.rows_of("feature_stats", SAE, [3], ["density"])
    assert some is not None
    assert some.to_pydict() == {"density": [whole[3]["density"]]}
    assert found.rows_of("logits", SAE, [3]) is None
    with pytest.raises(UnknownNameError):
        found.rows_of("logits", SaeId.parse("pico-res/layer_9"), [3])


def test_what_does_not_exist_is_said(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    with pytest.raises(UnknownNameError, match="holds nothing to read yet"):
        CacheReader(local_workspace, corpus.cache.cache_id)
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    with pytest.raises(InputError, match="features of this SAE are 0 to 39"):
        found.top_windows(SAE, 40, 3)
    with pytest.raises(UnknownNameError, match="pico-res/layer_3"):
        found.top_windows(SaeId.parse("pico-res/layer_9"), 0, 3)
    with pytest.raises(UnknownNameError):
        CacheReader(local_workspace, "ffff")


def test_a_damaged_range_file_is_named(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    manifest = corpus.merge()
    path = next(manifest.of("activations", SAE)).path
    local_workspace.files.commit(path, local_workspace.files.read_bytes(path)[:200])
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    with pytest.raises(DamagedFileError, match=r"0000\.parquet.*merges anew"):
        found.top_windows(SAE, 3, 5)
    assert found.top_windows(SAE, 20, 5)  # other ranges go on


def test_a_reader_keeps_its_generation(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    corpus.merge()
    old = CacheReader(local_workspace, corpus.cache.cache_id)
    before = as_tuples(old.top_windows(SAE, 5, 9))
    build(local_workspace, seed=3, shard_windows=(7, 5, 9, 6)).merge()
    assert as_tuples(old.top_windows(SAE, 5, 9)) == before
    old.close()
    assert as_tuples(old.top_windows(SAE, 5, 9)) == before  # opened again
    assert as_tuples(CacheReader(local_workspace, corpus.cache.cache_id).top_windows(SAE, 5, 9)) != before


def test_threads_may_share_a_reader_and_few_files_stay_open(
    local_workspace: Workspace, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_OPEN_FILES", 3)
    corpus = build(local_workspace, d_sae=160)
    corpus.merge()
    found = CacheReader(local_workspace, corpus.cache.cache_id)
    expected = {feature: windows_of(corpus, feature) for feature in range(0, 160, 8)}
    wrong: list[int] = []

    def ask(features: list[int]) -> None:
        for feature in features:
            activities = found.top_windows(SAE, feature, 99)
            found.examples(activities[:3])
            if as_tuples(activities) != [one for one in expected[feature] if one[1] > 0]:
                wrong.append(feature)

    threads = [threading.Thread(target=ask, args=(list(expected)[start:] * 2,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
