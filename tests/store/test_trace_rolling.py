"""Segments of traces: few of them, without what is gone, the same whoever makes them, and readers see no difference."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.api.extraction import Extraction
from raylens.errors import DamagedFileError
from raylens.schema import TRACE_EVENTS
from raylens.store import trace_log, trace_rolling
from raylens.store.commits import Commits, Segment, cover
from raylens.store.files import Files
from raylens.store.housekeeping import gc
from raylens.store.trace_log import TraceLog, column_bytes, groups_of
from raylens.store.trace_rolling import alive, due, purge, roll
from raylens.store.trace_rows import extraction_kept, rows_of, sequence_of, span_deleted, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens.traces.listing import SpanFilter
from raylens.traces.span import Span
from trace_samples import a_span, an_extraction

SOON = datetime.now(UTC) + timedelta(hours=25)


def names(files: Files) -> list[str]:
    """Of segments, without hash and suffix."""
    found = (path.rpartition("/")[2].removesuffix(".parquet") for path in files.list("traces/segments"))
    return ["-".join(str(int(part)) for part in name.split("-")[:3]) for name in found]


def everything(store: TraceStore) -> tuple[list[Span], list[list[Extraction]]]:
    found = store.spans(SpanFilter(), 10_000)[0]
    return found, [store.extractions(span.span_id) for span in found]


def fill(store: TraceStore, commits: Iterable[int]) -> None:
    for number in commits:
        store.write([span_written(a_span(f"s{number}", number)), extraction_kept(an_extraction(f"s{number}"))], "test")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three segments make one."""
    monkeypatch.setattr(trace_rolling, "FAN", 3)


@pytest.mark.usefixtures("narrow")
def test_commits_are_rolled_in_tiers(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    fill(store, range(1, 11))
    singles = [str(number) for number in range(1, 11)]
    assert sorted(names(workspace.files)) == sorted([*singles, "1-3-3", "4-6-6", "7-9-9", "1-9-9"])
    assert [(one.first, one.last) for one in store.log.commits.covering()] == [(1, 9), (10, 10)]
    for reader in (store, TraceStore(workspace)):
        assert reader._covering == store.log.commits.covering()
        found, readings = everything(reader)
        assert found == [a_span(f"s{number}", number) for number in range(10, 0, -1)]
        assert readings == [[an_extraction(span.span_id)] for span in found]


@pytest.mark.usefixtures("narrow")
def test_a_reader_from_before_sees_the_same_afterwards(workspace: Workspace) -> None:
    """Also where what it missed left no trace: commits that were rolled without a deletion in them."""
    store = TraceStore(workspace)
    fill(store, [1])
    reader = TraceStore(workspace)
    store.write([span_deleted("s1")], "test")
    fill(store, [3])
    assert store.log.commits.covering()[0].first == 1
    assert everything(reader)[0] == [a_span("s1", 1)]
    reader.refresh()
    assert everything(reader) == everything(store) == ([a_span("s3", 3)], [[an_extraction("s3")]])


@pytest.mark.usefixtures("narrow")
def test_nothing_large_is_written_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_rolling, "LARGE_BYTES", 60_000)
    store = TraceStore(workspace)
    for number in range(9):
        store.write([span_written(a_span(f"s{number}", input=secrets.token_hex(10_000)))], "test")
    assert "1-3-3" in names(workspace.files)
    assert "1-9-9" not in names(workspace.files)
    assert len(everything(TraceStore(workspace))[0]) == 9


@pytest.mark.usefixtures("narrow")
def test_each_row_is_written_once_a_tier() -> None:
    """n commits cost n log n: counted on segments without content."""
    covering: list[Segment] = []
    written: Counter[int] = Counter()
    for number in range(1, 3**5 + 1):
        covering.append(Segment(f"{number:012d}", number, number))
        while parts := due(covering, lambda one: 1):
            first, last = parts[0].first, parts[-1].last
            assert [one.first for one in parts[1:]] == [one.last + 1 for one in parts[:-1]]
            assert last - first + 1 in {3, 9, 27, 81, 243}
            written.update(range(first, last + 1))
            covering = cover([*covering, Segment(f"{first}-{last}", first, last, last)])
    assert set(written.values()) == {5}
    assert [(one.first, one.last) for one in covering] == [(1, 243)]


@pytest.mark.usefixtures("narrow")
def test_what_is_deleted_leaves_the_disk(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    store.write([span_written(a_span("secret", 1, input="zanzibar")), span_written(a_span("stays", 2))], "test")
    fill(store, [2, 3])
    store.write([extraction_kept(an_extraction("secret"))], "test")
    store.write([span_deleted("secret"), span_written(a_span("stays", 2, output="rewritten"))], "test")
    before = everything(store)
    reader = TraceStore(workspace)
    assert gc(workspace).removals == ()
    assert gc(workspace, now=SOON, dry_run=True).removals != ()
    gc(workspace, now=SOON)
    assert {"1-3-5", "4-4-5"} <= set(names(workspace.files)), "written anew without what commit 5 took away"
    removed = gc(workspace, now=SOON).removals
    assert {one.reason for one in removed} == {"rolled into another"}
    assert names(workspace.files) == ["1-3-5", "4-4-5", "5"]
    log = TraceLog(workspace.files)
    rows = pa.concat_tables([rows for one in log.commits.covering() for rows in log.every(one)])
    assert "zanzibar" not in str(rows.to_pydict())
    for one in (store, reader, TraceStore(workspace)):
        assert everything(one) == before
    gc(workspace, now=SOON)
    assert names(workspace.files) == ["1-3-5", "4-4-5", "5"], "nothing is written anew for nothing"
    fill(store, [6, 7, 8, 9])
    assert [(one.first, one.last) for one in store.log.commits.covering()] == [(1, 9)]
    assert everything(TraceStore(workspace)) == everything(store)


def test_a_segment_is_named_by_what_it_is_made_of(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    fill(store, [1, 2])
    log = store.log
    parts = log.commits.covering()
    one = roll(log, parts)
    first = workspace.files.read_bytes(one.path)
    assert roll(TraceLog(workspace.files), parts) == one
    assert workspace.files.read_bytes(one.path) == first
    store.refresh()
    store.write([span_deleted("s1")], "test")
    now = datetime.now(UTC).timestamp() + 60
    made = purge(log, log.commits.covering(), now)
    assert [(segment.first, segment.last, segment.upto) for segment in made] == [(1, 2, 3)]
    assert purge(log, log.commits.covering(), now) == []
    assert cover(log.commits.segments()) == [*made, log.commits.single(3)]


def test_a_cover_from_before_a_commit_that_it_needs_is_not_taken(workspace: Workspace) -> None:
    """A segment without what commit 3 replaced, seen without commit 3: listed while it was being written."""
    store = TraceStore(workspace)
    fill(store, [1, 2])
    store.write([span_written(a_span("s1", 1, name="rewritten"))], "test")
    purge(store.log, store.log.commits.covering(), datetime.now(UTC).timestamp() + 60)
    third = "traces/segments/000000000003.parquet"
    kept = workspace.files.read_bytes(third)
    workspace.files.delete(third)
    with pytest.raises(DamagedFileError, match=r"000000000003\.parquet is damaged: it is missing"):
        TraceStore(workspace)
    workspace.files.commit(third, kept)
    assert TraceStore(workspace).span("s1").name == "rewritten"


def test_a_listing_that_missed_a_file_is_made_again(local_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits(local_files, "traces", "parquet", what="traces")
    for number in (1, 2, 3):
        assert commits.claim(number, b"x")
    real, missed = local_files.list, [True]

    def listed(folder: str = "") -> tuple[str, ...]:
        found = real(folder)
        return tuple(path for path in found if "002" not in path) if missed and missed.pop() else found

    monkeypatch.setattr(local_files, "list", listed)
    assert [one.first for one in commits.covering()] == [1, 2, 3]


_EVENTS = st.lists(
    st.tuples(st.sampled_from(["span", "deletion", "extraction"]), st.sampled_from("ab"), st.sampled_from("xy")),
    max_size=14,
)


@given(_EVENTS, st.booleans())
def test_what_is_alive_against_the_obvious(said: list[tuple[str, str, str]], whole: bool) -> None:
    made = {
        "span": lambda name, _: span_written(a_span(name)),
        "deletion": lambda name, _: span_deleted(name),
        "extraction": lambda name, sae: extraction_kept(an_extraction(name, sae=sae)),
    }
    rows = rows_of([made[kind](name, sae) for kind, name, sae in said], 7)
    spans: dict[str, tuple[str, int]] = {}
    readings: dict[tuple[str, str], int] = {}
    deletions: dict[str, int] = {}
    for place, (kind, name, sae) in enumerate(said):
        if kind == "extraction":
            readings[name, sae] = place
            continue
        spans[name] = kind, place
        if kind == "deletion":
            deletions[name] = place
            readings = {key: at for key, at in readings.items() if key[0] != name}
    expected = {at for kind, at in spans.values() if kind == "span"} | {*readings.values()}
    expected |= set() if whole else {*deletions.values()}
    shuffled = rows.take(pa.array(random.Random(3).sample(range(len(said)), len(said)), pa.int64()))
    assert alive(shuffled, from_the_start=whole).tolist() == [sequence_of(7, at) for at in sorted(expected)]


@given(st.lists(st.integers(0, 3000), max_size=30))
def test_row_groups_are_neither_large_nor_small(sizes: list[int]) -> None:
    rows = rows_of([span_written(a_span(f"s{at}", input="x" * size)) for at, size in enumerate(sizes)], 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_log, "GROUP_BYTES", 4000)
        groups = list(groups_of(rows))
    assert pa.concat_tables([TRACE_EVENTS.empty_table(), *groups]) == rows
    assert all(group.num_rows == 1 or column_bytes(group) <= 4000 for group in groups)
    for one, after in pairwise(groups):
        assert column_bytes(one) + column_bytes(after.slice(0, 1)) > 4000, "the next row would have fitted"
