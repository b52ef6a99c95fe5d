"""Shards of windows, and the files readers get: every window where arithmetic says it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raylens.errors import DamagedFileError, RunError
from raylens.schema import DOCUMENTS, WINDOWS
from raylens.store.compact import WINDOWS_PER_FILE, WINDOWS_PER_GROUP, merge_documents, merge_windows, n_window_files
from raylens.store.parquet import TableFile
from raylens.store.windows import (
    read_documents_shard,
    read_windows_shard,
    windows_shards,
    write_windows_shard,
)
from raylens.store.workspace import CacheStore, Workspace


def test_shards_of_windows_are_found_in_order(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace)
    assert windows_shards(corpus.cache) == list(corpus.windows)
    second = corpus.windows[1]
    assert (second.window_first, second.window_last, second.n_special_tokens) == (7, 11, 5)
    assert second.n_text_tokens == int((corpus.lengths[7:12] - 1).sum())
    assert read_windows_shard(corpus.cache, 1)["window_id"].to_pylist() == [7, 8, 9, 10, 11]
    assert second.doc_first == 2
    assert second.n_docs == read_documents_shard(corpus.cache, 1).num_rows == 2


def test_what_comes_after_a_shard_that_is_not_whole_does_not_count(
    workspace: Workspace, build: Callable[..., Any]
) -> None:
    corpus = build(workspace)
    content = corpus.cache.files.read_bytes(corpus.cache.windows_path(1))
    corpus.cache.files.commit(corpus.cache.windows_path(1), content[:-1])
    assert windows_shards(corpus.cache) == list(corpus.windows[:1])
    with pytest.raises(DamagedFileError, match="run the same cache command again"):
        read_windows_shard(corpus.cache, 1)
    corpus.cache.files.commit(corpus.cache.windows_row_path(0), b"no json")
    with pytest.raises(DamagedFileError, match=r"00000000\.json is damaged"):
        windows_shards(corpus.cache)


def windows_table(first: int, n: int) -> tuple[pa.Table, pa.Table]:
    ids = np.arange(first, first + n)
    windows = pa.table(
        [ids, ids, ids % 7, pa.array([[1]] * n), pa.array([[0]] * n), [f"window {one}" for one in ids]],
        names=WINDOWS.names,
    ).cast(WINDOWS)
    text = pa.array(["x"] * n)
    documents = pa.table([ids, text, text, text, text, ids * 0 + 1], names=DOCUMENTS.names).cast(DOCUMENTS)
    return windows, documents


@pytest.mark.parametrize("ids", [[], [3, 5], [4, 3]])
def test_windows_must_be_consecutive(local_workspace: Workspace, ids: list[int]) -> None:
    windows, documents = windows_table(0, 9)
    with pytest.raises(RunError):
        write_windows_shard(
            CacheStore(local_workspace.files, "0" * 16),
            0,
            windows.take(pa.array(ids, pa.int64())),
            documents,
            n_special_tokens=0,
        )


def test_a_window_lies_where_its_number_says(local_workspace: Workspace) -> None:
    cache = CacheStore(local_workspace.files, "0" * 16)
    sizes = [9_000, 7_383, 5_000]  # the second ends one window before the file does
    firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    shards = [
        write_windows_shard(cache, index, *windows_table(first, size), n_special_tokens=0)
        for index, (first, size) in enumerate(zip(firsts, sizes, strict=True))
    ]
    assert n_window_files(shards) == 2
    entries = [merge_windows(cache, shards, index) for index in range(2)]
    assert [(entry.window_first, entry.window_last) for entry in entries] == [(0, 16_383), (16_384, 21_382)]
    for window_id in (0, 63, 64, 8_999, 9_000, 16_382, 16_383, 16_384, 21_382):
        index, within = divmod(window_id, WINDOWS_PER_FILE)
        group, row = divmod(within, WINDOWS_PER_GROUP)
        with TableFile(cache.files, entries[index].path, remedy="-") as file:
            found = file.read_group(group).slice(row, 1).to_pylist()[0]
        assert (found["window_id"], found["text"]) == (window_id, f"window {window_id}")


def test_files_that_do_not_change_are_not_written_again(local_workspace: Workspace) -> None:
    cache = CacheStore(local_workspace.files, "0" * 16)
    shards = [write_windows_shard(cache, 0, *windows_table(0, 16_384), n_special_tokens=0)]
    shards.append(write_windows_shard(cache, 1, *windows_table(16_384, 10), n_special_tokens=0))
    before = [merge_windows(cache, shards, index) for index in range(2)]
    written = cache.files.stat(before[0].path)
    shards.append(write_windows_shard(cache, 2, *windows_table(16_394, 10), n_special_tokens=0))
    after = [merge_windows(cache, shards, index) for index in range(2)]
    assert after[0] == before[0]
    assert cache.files.stat(after[0].path) == written
    assert after[1].path != before[1].path
    assert (before[1].rows, after[1].rows) == (10, 20)


def test_a_document_that_crosses_shards_is_one_row(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, shard_windows=(1, 1, 1, 1, 2, 4))  # three windows a document
    entry = merge_documents(corpus.cache, corpus.windows)
    with TableFile(corpus.cache.files, entry.path, remedy="-") as file:
        found = file.read()
    expected = [int((corpus.lengths[first : first + 3] - 1).sum()) for first in range(0, 10, 3)]
    assert found["doc_id"].to_pylist() == [0, 1, 2, 3]
    assert found["n_tokens"].to_pylist() == expected
    assert found["path"].to_pylist() == [f"lib/{doc}.py" for doc in range(4)]
