"""The merged files equal one plain SQL query over all rows, however they came about."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylens.errors import DamagedFileError, OutOfMemoryError, RunError
from raylens.ids import SaeId
from raylens.schema import ACTIVATIONS, FEATURE_STATS, histogram_bin
from raylens.store.external_merge import sorted_batches
from raylens.store.merge import merge_ranges, merge_statistics, plan_merge, published, whole_windows
from raylens.store.parquet import TableFile
from raylens.store.publish import finish_merge
from raylens.store.slices import read_slices
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")


def rows_of(corpus: Any, entries: list) -> list[tuple]:
    tables = []
    for entry in entries:
        with TableFile(corpus.cache.files, entry.path, remedy="-") as file:
            tables.append(file.read().cast(ACTIVATIONS))
    columns = pa.concat_tables(tables).to_pydict().values()
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("memory_rows", [0, 10**9], ids=["external", "in memory"])
def test_merged_rows_are_the_oracle_s(workspace: Workspace, build: Callable[..., Any], memory_rows: int) -> None:
    corpus = build(workspace, d_sae=70)
    entries = merge_ranges(corpus.cache, corpus.plan, range(corpus.plan.n_ranges), memory_rows=memory_rows)
    assert rows_of(corpus, entries) == corpus.ordered
    assert [(entry.feature_first, entry.feature_last) for entry in entries] == [
        (0, 15), (16, 31), (32, 47), (48, 63), (64, 69)
    ]  # fmt: skip
    assert sum(entry.rows for entry in entries) == len(corpus.rows.feature)


@given(seed=st.integers(0, 10_000), density=st.sampled_from([0.0, 0.01, 0.3, 1.0]), cut=st.integers(1, 14))
@settings(max_examples=8, deadline=None)
def test_any_corpus_merges_the_same_both_ways(
    tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Any], seed: int, density: float, cut: int
) -> None:
    workspace = Workspace.open(tmp_path_factory.mktemp("merge"), create=True)
    corpus = build(workspace, seed=seed, density=density, d_sae=33, shard_windows=(cut, 15 - cut))
    files = []
    for memory_rows in (10**9, 0):
        entries = merge_ranges(corpus.cache, corpus.plan, range(3), memory_rows=memory_rows)
        assert rows_of(corpus, entries) == corpus.ordered
        statistics = merge_statistics(corpus.cache, corpus.plan)
        files.append([corpus.cache.files.read_bytes(entry.path) for entry in [*entries, statistics]])
        corpus.cache.files.delete(corpus.cache.generation_folder(corpus.plan.folder), recursive=True)
    assert files[0] == files[1]  # bit for bit


def test_the_order_of_shards_does_not_matter(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    plans = {plan_merge(SAE, shards).model_dump_json() for shards in itertools.permutations(corpus.shards)}
    assert len(plans) == 1


def test_statistics_are_the_oracle_s(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, d_sae=40)
    merge_ranges(corpus.cache, corpus.plan, range(3))
    entry = merge_statistics(corpus.cache, corpus.plan)
    with TableFile(corpus.cache.files, entry.path, remedy="-") as file:
        found = file.read().cast(FEATURE_STATS).to_pylist()
    assert [row["feature"] for row in found] == list(range(40))
    kept = corpus.rows.table().filter(pa.array(~corpus.rows.special))
    with duckdb.connect() as connection:
        connection.register("kept", kept)
        expected = {
            feature: rest
            for feature, *rest in connection.execute(
                "SELECT feature, count(*), count(DISTINCT window_id), avg(activation), max(activation) "
                "FROM kept GROUP BY feature"
            ).fetchall()
        }
    assert 0 < len(expected) < 39  # some are dead, and feature 0 fires on BOS only
    for row in found:
        n_active, n_windows, mean, largest = expected.get(row["feature"], (0, 0, None, None))
        assert (row["n_active"], row["n_windows"], row["max_activation"]) == (n_active, n_windows, largest)
        assert row["density"] == n_active / corpus.n_text_tokens
        assert row["mean_activation"] == (None if mean is None else pytest.approx(mean, rel=1e-12))
        own = kept.filter(pa.array(kept["feature"].to_numpy() == row["feature"]))["activation"].to_numpy()
        assert row["histogram"] == np.bincount(histogram_bin(own), minlength=64).tolist()


def test_only_the_slice_of_a_range_is_read(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace, d_sae=256, context=100, shard_windows=(60, 60, 60), density=0.3)
    footers = slices = total = 0
    for shard in corpus.shards:
        path = corpus.cache.files.native(corpus.cache.shard_path(SAE, shard.name))
        metadata = pq.read_metadata(path)
        total += Path(path).stat().st_size
        footers += metadata.serialized_size + 8
        group = metadata.row_group(3)
        slices += sum(group.column(place).total_compressed_size for place in range(group.num_columns))
    # Arrow reads the last 64 kB of a file at first, and the footer from there.
    allowed = max(footers, 65_536 * len(corpus.shards)) + slices
    assert allowed < total / 2  # else this proves nothing
    before = bytes_read()
    found = [rows.n_rows for slices_of in read_slices(corpus.cache, SAE, corpus.shards, [3]) for rows in slices_of]
    read = bytes_read() - before
    assert found == [shard.rows_per_range[3] for shard in corpus.shards]
    assert slices <= read <= allowed + 4096


def bytes_read() -> int:
    """Bytes this process got from read calls so far, as the kernel counts them."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@given(
    blocks=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    runs=st.lists(st.integers(1, 8), min_size=1, max_size=60),
)
def test_row_groups_end_where_windows_end(blocks: list[int], runs: list[int]) -> None:
    window = np.repeat(np.arange(len(runs), dtype=np.int32), runs)
    n = len(window)
    table = pa.table(
        [np.zeros(n, np.int32), np.ones(n, np.float32), window, np.zeros(n, np.int16), np.ones(n, np.float32)],
        schema=ACTIVATIONS,
    )
    edges = [0, *(edge for edge in np.cumsum(blocks).tolist() if edge < n), n]
    pieces = [table.slice(first, last - first) for first, last in itertools.pairwise(edges)]
    groups = list(whole_windows(pieces, most=10))
    assert pa.concat_tables(groups).equals(table)
    assert all(group.num_rows <= 10 for group in groups)
    for one, other in itertools.pairwise(groups):
        assert one["window_id"][-1] != other["window_id"][0]
        first_of_next = other["window_id"].to_numpy()
        run = int((first_of_next == first_of_next[0]).sum())
        assert one.num_rows + run > 10  # greedy: the next window would not have fitted


def test_a_merge_goes_on_where_it_stopped(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    done = merge_ranges(corpus.cache, corpus.plan, [1])
    written = corpus.cache.files.stat(done[0].path)
    with pytest.raises(RunError, match="range 0 of pico-res/layer_3 is not merged"):
        merge_statistics(corpus.cache, corpus.plan)
    entries = merge_ranges(corpus.cache, corpus.plan, range(3))
    assert entries[1] == done[0]
    assert corpus.cache.files.stat(done[0].path) == written
    assert rows_of(corpus, entries) == corpus.ordered


def test_a_merged_file_that_is_not_whole_is_made_again(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    entries = merge_ranges(corpus.cache, corpus.plan, range(3))
    content = corpus.cache.files.read_bytes(entries[2].path)
    corpus.cache.files.commit(entries[2].path, content[:100])
    corpus.cache.files.commit(entries[1].path.replace(".parquet", ".json"), b"{}")
    assert merge_ranges(corpus.cache, corpus.plan, range(3)) == entries
    assert rows_of(corpus, entries) == corpus.ordered


KILLED = """
import sys
from raylens.store.merge import SaeMerge, merge_ranges
from raylens.store.workspace import Workspace

workspace, cache_id, plan = sys.argv[1:]
merge = SaeMerge.model_validate_json(plan)
for index in range(merge.n_ranges):
    merge_ranges(Workspace.open(workspace).cache(cache_id), merge, [index])
    print(index, flush=True)
"""


def test_kill_9_of_a_merge_then_rerun_equals_an_undisturbed_one(
    tmp_path: Path, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.open(tmp_path / "killed", create=True)
    corpus = build(workspace, d_sae=400)
    arguments = [workspace.url, corpus.cache.cache_id, corpus.plan.model_dump_json()]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert [process.stdout.readline().strip() for _ in range(4)] == ["0", "1", "2", "3"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert corpus.cache.generation() is None
    killed = corpus.merge()
    other = build(Workspace.open(tmp_path / "calm", create=True), d_sae=400)
    calm = other.merge()
    assert [entry.path for entry in killed.entries] == [entry.path for entry in calm.entries]
    for entry in calm.entries:
        assert corpus.cache.files.read_bytes(entry.path) == other.cache.files.read_bytes(entry.path)


def test_readers_see_the_old_generation_until_the_switch(workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(workspace)
    first = corpus.merge()
    assert corpus.cache.manifest() == first
    assert published(corpus.cache, corpus.plan) is not None
    bigger = build(workspace, seed=1, shard_windows=(7, 5, 9, 4), sae=SaeId.parse("pico-res/layer_5"))
    merge_ranges(bigger.cache, bigger.plan, range(2))
    assert corpus.cache.manifest() == first  # cut short here: nothing changed for readers
    assert published(bigger.cache, bigger.plan) is None
    second = bigger.merge()
    assert corpus.cache.manifest() == second
    assert [str(sae) for sae in second.saes] == ["pico-res/layer_3", "pico-res/layer_5"]
    kept = [entry for entry in second.entries if entry.sae == str(SAE)]
    assert kept == [entry for entry in first.entries if entry.sae == str(SAE)]  # listed again, not made again
    assert published(bigger.cache, corpus.plan) == kept
    assert second.totals["n_windows"] == 25
    assert second.sae_totals["pico-res/layer_3"]["n_windows"] == 21


def test_totals(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    manifest = corpus.merge()
    assert manifest.totals == {
        "n_windows": 21,
        "n_text_tokens": corpus.n_text_tokens,
        "n_special_tokens": 21,
        "n_documents": 7,
    }
    assert manifest.sae_totals[str(SAE)] == {
        "d_sae": 40,
        "n_activations": len(corpus.rows.feature),
        "n_windows": 21,
        "n_text_tokens": corpus.n_text_tokens,
        "n_special_tokens": 21,
    }


def test_an_incomplete_merge_is_not_published(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    corpus = build(local_workspace)
    entries = merge_ranges(corpus.cache, corpus.plan, range(2))
    with corpus.cache.lock("test") as lock:
        with pytest.raises(RunError, match="2 of 3 ranges"):
            finish_merge(corpus.cache, lock, windows=corpus.windows, merges=[corpus.plan], entries=entries)
        whole = [*merge_ranges(corpus.cache, corpus.plan, range(3)), merge_statistics(corpus.cache, corpus.plan)]
        with pytest.raises(RunError, match="activations in 21 windows, and the merge lists only 0"):
            finish_merge(corpus.cache, lock, windows=corpus.windows, merges=[corpus.plan], entries=whole)
    assert corpus.cache.manifest() is None


def test_shards_must_fit_together(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    shards = build(local_workspace).shards
    with pytest.raises(RunError, match="do not fit together at window 7"):
        plan_merge(SAE, [shards[0], shards[2]])
    with pytest.raises(RunError, match="do not fit together"):
        plan_merge(SAE, [*shards, shards[1].model_copy(update={"name": "twin"})])
    with pytest.raises(RunError, match="do not fit together"):
        plan_merge(SaeId.parse("pico-res/layer_5"), shards)
    with pytest.raises(RunError, match="no shards"):
        plan_merge(SAE, [])


def test_tasks_cover_all_ranges_in_order(local_workspace: Workspace, build: Callable[..., Any]) -> None:
    plan = build(local_workspace, d_sae=400).plan
    for rows in (1, 300, 10**9):
        assert list(itertools.chain(*plan.batches(rows))) == list(range(25))
    assert len(plan.batches(10**9)) == 1
    assert len(plan.batches(1)) == 25


@pytest.mark.parametrize("harm", ["truncated", "missing", "flipped"])
def test_a_damaged_shard_is_named(local_workspace: Workspace, build: Callable[..., Any], harm: str) -> None:
    corpus = build(local_workspace)
    path = corpus.cache.shard_path(SAE, corpus.shards[1].name)
    content = bytearray(corpus.cache.files.read_bytes(path))
    if harm == "missing":
        corpus.cache.files.delete(path)
    elif harm == "truncated":
        corpus.cache.files.commit(path, bytes(content[:-20]))
    else:
        for place in range(60, 200):
            content[place] ^= 0xFF
        corpus.cache.files.commit(path, bytes(content))
    with pytest.raises(DamagedFileError, match=r"s0-1.*run the same cache command again"):
        merge_ranges(corpus.cache, corpus.plan, range(3))
    assert not [one for one in corpus.cache.files.scan(corpus.cache.folder) if one.temporary]


def test_an_external_sort_too_large_for_its_memory_says_so(
    local_workspace: Workspace, build: Callable[..., Any], tmp_path: Path
) -> None:
    corpus = build(local_workspace, d_sae=16, density=1.0, context=100, shard_windows=(100,))
    slices = next(read_slices(corpus.cache, SAE, corpus.shards, [0]))
    spill = tmp_path / "spill"
    spill.mkdir()
    with pytest.raises(OutOfMemoryError, match="does not fit in 1MB"):
        list(sorted_batches(slices, memory="1MB", spill=spill))
    assert list(spill.iterdir()) == []  # what was spilled is removed
