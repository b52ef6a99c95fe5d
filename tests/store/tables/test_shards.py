"""Encoder shards: sorted by feature, one row group a range, and existing only when whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylens.errors import InputError, MismatchError
from raylens.ids import SaeId
from raylens.schema import SHARD, round_activation
from raylens.store.parquet import TableFile
from raylens.store.ranges import feature_ranges, range_of, range_width
from raylens.store.shards import argsort_by_digits, completed, write_shard
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")


@given(d_sae=st.integers(1, 3_000_000))
def test_ranges_cover_the_width_once_and_are_few_and_not_small(d_sae: int) -> None:
    ranges = feature_ranges(d_sae)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == d_sae
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
    assert len(ranges) <= 256
    assert all(high - low >= 16 for low, high in ranges[:-1])
    for feature in {0, d_sae - 1, d_sae // 2, d_sae // 3}:
        low, high = ranges[range_of(d_sae, feature)]
        assert low <= feature < high


def test_ranges_of_common_widths() -> None:
    assert len(feature_ranges(1536)) == 96
    assert range_width(131_072) == 512
    assert feature_ranges(20) == [(0, 16), (16, 20)]


@pytest.mark.parametrize("feature", [-1, 20])
def test_a_feature_outside_the_width_is_refused(feature: int) -> None:
    with pytest.raises(InputError, match="there is no feature"):
        range_of(20, feature)
    with pytest.raises(InputError):
        range_width(0)


@given(
    keys=st.lists(st.integers(0, 2**20), max_size=60),
    below=st.sampled_from([2**20 + 1, 2**24, 2**31, 2**32]),
)
def test_argsort_by_digits_is_a_stable_argsort(keys: list[int], below: int) -> None:
    array = np.array(keys, np.uint32)
    assert argsort_by_digits(array, below).tolist() == np.argsort(array, kind="stable").tolist()
    small = array % np.uint32(70_000)
    assert argsort_by_digits(small, 70_000).tolist() == np.argsort(small, kind="stable").tolist()


def test_row_group_k_holds_range_k_and_nothing_is_lost(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace, d_sae=70, density=0.03)
    for shard in corpus.shards:
        own = corpus.rows.within(shard.window_first, shard.window_first + shard.n_windows - 1)
        # The oracle: sort all rows by (feature, window, position) in one go.
        order = np.lexsort((own.position, own.window_id, own.feature))
        expected = own.table().take(order)
        with TableFile(corpus.cache.files, corpus.cache.shard_path(SAE, shard.name), remedy="-") as file:
            assert file.n_groups == len(feature_ranges(70)) == len(shard.rows_per_range)
            for index, (low, high) in enumerate(feature_ranges(70)):
                group = file.read_group(index).cast(SHARD)
                features = group["feature"].to_numpy()
                assert ((features >= low) & (features < high)).all()
                assert group.num_rows == shard.rows_per_range[index]
            assert file.read().cast(SHARD).equals(expected)
        assert shard.n_rows == expected.num_rows


def test_an_empty_shard_has_all_its_ranges(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, density=0.0, shard_windows=(2,))
    empty = corpus.rows.within(5, 5)
    columns = dict(zip(("feature", "window_id", "position", "activation", "special"), empty.columns(), strict=True))
    row = write_shard(
        corpus.cache, SAE, "e", d_sae=40, window_first=2, n_windows=1, n_text_tokens=3, n_special_tokens=1, **columns
    )
    assert row.rows_per_range == (0, 0, 0)
    assert "e" in completed(corpus.cache, SAE)


@given(st.lists(st.floats(2.0**-140, float(np.finfo(np.float32).max), width=32), min_size=1, max_size=40))
@settings(max_examples=60)
def test_rounding_keeps_eleven_bits_and_stays_finite(values: list[float]) -> None:
    array = np.array(values, np.float32)
    rounded = round_activation(array)
    assert np.isfinite(rounded).all()
    normal = array > 2.0**-126
    assert (np.abs(rounded[normal] - array[normal]) <= array[normal] * np.float32(2**-10)).all()
    assert (round_activation(rounded) == rounded).all()


def test_only_whole_shards_are_completed(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace, shard_windows=(3, 3, 3, 3, 3))
    cache = corpus.cache
    cache.write_sae(SAE, {"d_sae": 40})
    assert list(completed(cache, SAE).values()) == list(corpus.shards)
    names = [shard.name for shard in corpus.shards]
    data = cache.files.read_bytes(cache.shard_path(SAE, names[0]))
    cache.files.commit(cache.shard_path(SAE, names[0]), data[:-7])  # truncated
    cache.files.delete(cache.shard_path(SAE, names[1]))  # row without data
    cache.files.delete(cache.shard_row_path(SAE, names[2]))  # data without row: the writer died between
    cache.files.commit(cache.shard_row_path(SAE, names[3]), b"{")  # damaged row
    assert list(completed(cache, SAE)) == names[4:]


@pytest.mark.parametrize(("column", "value"), [("feature", 40), ("feature", -1), ("window_id", 9), ("window_id", 1)])
def test_rows_that_do_not_belong_are_refused(
    local_workspace: Workspace, build: Callable[..., Any], column: str, value: int
) -> None:
    corpus = build(local_workspace, shard_windows=(9,))
    own = corpus.rows.within(2, 8)
    columns: dict[str, Any] = {name: own.table()[name].to_numpy().copy() for name in SHARD.names}
    columns[column][-1] = value
    with pytest.raises(MismatchError):
        write_shard(
            corpus.cache,
            SAE,
            "x",
            d_sae=40,
            window_first=2,
            n_windows=7,
            n_text_tokens=9,
            n_special_tokens=7,
            **columns,
        )
    assert "x" not in completed(corpus.cache, SAE)
