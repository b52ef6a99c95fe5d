"""Features by name, by filter, and as a sample for charts: the same rows that pages of the list have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from browsed import PICO_CACHE, make_browsed
from raylens.catalog import Catalog
from raylens.labels.feature_list import Wanted
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.schema import HISTOGRAM_BINS, histogram_bin
from raylens.store.selection import Readable
from small_cache import CACHE_ID, SAE


@pytest.fixture
def features(tmp_path: Path) -> Iterator[WorkspaceFeatures]:
    found = WorkspaceFeatures(make_browsed(tmp_path), Catalog.load(None))
    yield found
    found.close()


@pytest.fixture
def chosen(features: WorkspaceFeatures) -> list[Readable]:
    return features.chosen(None, CACHE_ID)


def test_rows_come_in_the_order_they_are_asked_for(features: WorkspaceFeatures, chosen: list[Readable]) -> None:
    rows = features.rows_of(chosen, [(0, 3), (0, 1), (0, 99)])
    assert [row["feature"] for row in rows] == [3, 1], "what is not there is left out"
    listed, _ = features.page(chosen, Wanted(), 12, 0)
    assert rows[1] == next(row for row in listed if row["feature"] == 1)
    assert features.rows_of(chosen, []) == []


@pytest.mark.parametrize(
    "wanted", [Wanted(), Wanted(dead=True), Wanted(min_density=0.12), Wanted(explained=True), Wanted(bucket="safety")]
)
def test_matching_features_are_those_that_pages_list(
    features: WorkspaceFeatures, chosen: list[Readable], wanted: Wanted
) -> None:
    rows, total = features.page(chosen, wanted, 100, 0)
    found = features.matching(chosen, wanted)[SAE].tolist()
    assert found == sorted(row["feature"] for row in rows)
    assert len(found) == total


def test_a_sample_is_always_the_same_and_says_of_how_many(features: WorkspaceFeatures, chosen: list[Readable]) -> None:
    rows, total = features.sample(chosen, Wanted(), 5)
    assert (len(rows), total) == (5, 12)
    assert features.sample(chosen, Wanted(), 5)[0] == rows
    assert {row["feature"] for row in features.sample(chosen, Wanted(), 100)[0]} == set(range(12))


def test_f1_is_a_mean_over_scorers_that_have_one(features: WorkspaceFeatures, chosen: list[Readable]) -> None:
    rows, total = features.sample(chosen, Wanted(), 100, with_f1=True)
    assert total == 2
    by_feature = {row["feature"]: row for row in rows}
    # Feature 1 has an F1 of one scorer and a gain of another.
    assert (by_feature[1]["f1"], by_feature[1]["score"]) == (0.75, 0.5)
    assert (by_feature[1]["said"], by_feature[2]["bucket"]) == ("word two", "safety")


def test_histograms_count_what_the_store_counted(features: WorkspaceFeatures, chosen: list[Readable]) -> None:
    found = features.histograms(chosen[0], [7, 1])
    assert found.shape == (2, HISTOGRAM_BINS)
    assert found[0].sum() == 0
    expected = np.bincount(histogram_bin(np.array([2, 3, 4], np.float32)), minlength=HISTOGRAM_BINS)
    assert found[1].tolist() == expected.tolist()


def test_a_search_among_some_finds_no_other(features: WorkspaceFeatures, chosen: list[Readable]) -> None:
    among = features.matching(chosen, Wanted(min_density=0.12))
    assert {hit.feature for hit in features.search(chosen, "word words", None, 10, 0).hits} == {1, 2}
    assert {hit.feature for hit in features.search(chosen, "word words", None, 10, 0, among).hits} == {1}


def test_a_map_has_places_where_one_was_made(features: WorkspaceFeatures, chosen: list[Readable]) -> None:
    assert features.map_of(chosen[0], [6, 1, 99]) == {1: (1.0, 0.0), 6: (2.0, 1.0)}
    (other,) = features.chosen(None, PICO_CACHE)
    assert features.map_of(other, [1, 2]) == {}
