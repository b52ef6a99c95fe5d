"""The store of traces: what is written is there for everybody, lists are right, and damage hides nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raylens.api.reading import Peaks
from raylens.errors import BusyError, DamagedFileError, InputError, UnknownNameError
from raylens.schema import TRACE_EVENTS
from raylens.store import trace_draft, trace_rolling
from raylens.store.lock import acquire
from raylens.store.trace_rows import TraceEvent, extraction_kept, span_deleted, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens.traces.listing import SpanFilter, TraceSummary
from raylens.traces.span import Span, Turn
from trace_samples import MODEL, SAE, START, a_span, an_extraction

EVERY = SpanFilter()


def write(store: TraceStore, *events: TraceEvent) -> None:
    store.write(events, "test")


def spans(store: TraceStore, *these: Span) -> None:
    write(store, *map(span_written, these))


def page(store: TraceStore, which: SpanFilter = EVERY, limit: int = 100, offset: int = 0) -> tuple[list[str], int]:
    found, total = store.spans(which, limit, offset)
    return [span.span_id for span in found], total


def test_what_is_written_is_there_for_everybody(workspace: Workspace) -> None:
    store, other = TraceStore(workspace), TraceStore(workspace)
    one = a_span("a", input=(Turn(role="user", content="hi"),), attributes={"x": [1, {"y": None}]})
    spans(store, one, a_span("b", 1))
    assert store.span("a") == one
    with pytest.raises(UnknownNameError, match="there is no span 'a'"):
        other.span("a")
    other.refresh()
    assert other.span("a") == TraceStore(workspace).span("a") == one
    assert store.counts() == other.counts() == (2, 0)
    assert store.traces_of(["a", "no", "b"]) == {"a": "t", "b": "t"}
    assert [path.rpartition("/")[2] for path in workspace.files.list("traces/segments")] == ["000000000001.parquet"]


def test_the_same_span_again_writes_nothing(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    spans(store, a_span("a"))
    spans(store, a_span("a"), a_span("a"))
    assert len(workspace.files.list("traces/segments")) == 1
    spans(store, a_span("a", status="ok"), a_span("b"))
    assert store.span("a").status == "ok"
    assert len(workspace.files.list("traces/segments")) == 2


def test_extractions_are_kept_by_span_model_and_sae(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    spans(store, a_span("a"), a_span("b"))
    first, other_sae = an_extraction("a"), an_extraction("a", sae="raylens-pico-res/layer_1", layer=None)
    write(store, extraction_kept(first), extraction_kept(other_sae), extraction_kept(an_extraction("b", peaks=Peaks())))
    assert store.extraction("a", MODEL, SAE) == first
    assert store.extraction("a", "other", SAE) is None
    assert store.extraction("no", MODEL, SAE) is None
    assert store.extractions("a") == [other_sae, first]
    assert store.extractions("b") == [an_extraction("b", peaks=Peaks())]
    write(store, extraction_kept(an_extraction("a", 7)))
    assert TraceStore(workspace).extraction("a", MODEL, SAE) == an_extraction("a", 7)
    assert store.counts() == (2, 3)
    with pytest.raises(UnknownNameError, match="there is no span 'no'"):
        write(store, extraction_kept(an_extraction("no")))


def test_a_deletion_takes_what_was_read_with_it(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    spans(store, a_span("a"), a_span("b", 1, trace_id="u"))
    write(store, extraction_kept(an_extraction("a")))
    write(store, span_deleted("a"), span_deleted("never"))
    for one in (store, TraceStore(workspace)):
        assert one.extraction("a", MODEL, SAE) is None
        assert page(one) == (["b"], 1)
        assert [trace.trace_id for trace in one.traces(EVERY, 9)[0]] == ["u"]
        assert one.counts() == (1, 0)
    write(store, span_written(a_span("a")))
    assert store.span("a") == a_span("a")
    assert store.extractions("a") == TraceStore(workspace).extractions("a") == []


def test_what_was_read_of_other_texts_goes(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    spans(store, a_span("a"))
    write(store, extraction_kept(an_extraction("a")))
    spans(store, a_span("a", name="seen again", attributes={"more": 1}))
    assert store.extraction("a", MODEL, SAE) == an_extraction("a"), "the same texts"
    spans(store, a_span("a", output="another."))
    assert store.extraction("a", MODEL, SAE) is None
    write(store, extraction_kept(an_extraction("a", 1)), span_written(a_span("a", model="other")))
    assert TraceStore(workspace).extractions("a") == []


def test_events_of_one_commit_see_one_another(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    span, kept, gone = span_written(a_span("a")), extraction_kept(an_extraction("a")), span_deleted("a")
    write(store, span, kept, gone, span, extraction_kept(an_extraction("a", 5)))
    assert (
        store.extraction("a", MODEL, SAE) == TraceStore(workspace).extraction("a", MODEL, SAE) == an_extraction("a", 5)
    )
    with pytest.raises(UnknownNameError):
        write(store, gone, kept)
    assert store.counts() == (1, 1), "all or none"


def test_too_many_at_once_are_refused_and_none_is_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_draft, "MOST_EVENTS", 3)
    store = TraceStore(workspace)
    with pytest.raises(InputError, match="more than 3 events at a time"):
        spans(store, *(a_span(name) for name in "abcd"))
    assert TraceStore(workspace).counts() == (0, 0)


def test_spans_are_listed_the_latest_first(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    spans(store, a_span("b", 2), a_span("c", 1, trace_id="u", model=None))
    spans(store, a_span("a", 2, output="Straße in ZÜRICH"), a_span("d", 9, name="100% [x]"))
    assert page(store) == (["d", "b", "a", "c"], 4)
    assert page(store, limit=2, offset=1) == (["b", "a"], 4)
    assert page(store, offset=4) == page(store, offset=99) == ([], 4)
    assert page(store, SpanFilter(trace_id="u")) == (["c"], 1)
    assert page(store, SpanFilter(trace_id="none")) == ([], 0)
    assert page(store, SpanFilter(model="gpt-4")) == (["d", "b", "a"], 3)
    second = timedelta(seconds=1)
    assert page(store, SpanFilter(since=START + 2 * second)) == (["d", "b", "a"], 3)
    assert page(store, SpanFilter(until=START + 2 * second)) == (["c"], 1)
    assert page(store, SpanFilter(since=START + 2 * second, until=START + 9 * second), 1) == (["b"], 2)
    assert page(store, SpanFilter(text="WHAT IS B")) == (["b"], 1)
    assert page(store, SpanFilter(text="zürich")) == (["a"], 1)
    assert page(store, SpanFilter(text="0% [X")) == (["d"], 1)
    assert page(store, SpanFilter(text="a span", model="gpt-4", trace_id="t"), 1, 1) == (["b"], 2)
    assert page(store, SpanFilter(text="nobody says this")) == ([], 0)


def test_traces_are_listed_with_what_is_in_them(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    end = START + timedelta(seconds=8)
    spans(
        store,
        a_span("part", 5, parent_id="root", name="call", status="error", ended_at=end, output="Rare words"),
        a_span("other", 4, trace_id="u", name="alone", model=None),
    )
    assert [trace.trace_id for trace in store.traces(EVERY, 9)[0]] == ["t", "u"]
    spans(store, a_span("root", 1, name="agent", model="claude"), a_span("late", 6, name="second root"))
    one = TraceSummary("t", "agent", START + timedelta(seconds=1), end, 3, ("claude", "gpt-4"), 1)
    two = TraceSummary("u", "alone", START + timedelta(seconds=4), None, 1, (), 0)
    for reader in (store, TraceStore(workspace)):
        assert reader.traces(EVERY, 9) == ([two, one], 2)
        assert reader.traces(EVERY, 1, 1) == ([one], 2)
        assert reader.traces(SpanFilter(text="rare"), 9) == ([one], 1)
        assert reader.traces(SpanFilter(model="gpt-5"), 9) == ([], 0)
    write(store, span_deleted("root"), span_deleted("other"))
    assert [(trace.name, trace.n_spans) for trace in store.traces(EVERY, 9)[0]] == [("second root", 2)]


def test_many_spans_at_once_come_in_order(local_workspace: Workspace) -> None:
    """So many that lists are sorted anew, in row groups of which none is large."""
    store = TraceStore(local_workspace)
    every = [a_span(f"s{number:04d}", number % 97, input="x" * (number % 50) * 300) for number in range(2500)]
    spans(store, *every)
    expected = sorted(every, key=lambda one: (one.started_at, one.span_id), reverse=True)
    assert store.spans(EVERY, 3000) == (expected, 2500)
    assert store.span("s1234") == every[1234]
    write(store, *(span_deleted(one.span_id) for one in every[:1500]))
    assert page(store, limit=2000)[0] == [one.span_id for one in expected if one.span_id >= "s1500"]
    assert page(TraceStore(local_workspace), limit=2000) == page(store, limit=2000)


def test_who_writes_keeps_others_out(workspace: Workspace) -> None:
    store = TraceStore(workspace)
    with (
        acquire(workspace.files, "traces/lock", "ledger", what="the log of traces"),
        pytest.raises(BusyError, match=r"log of traces could not be written: .* run ledger .* raylens serve down"),
    ):
        store.write([span_written(a_span("a"))], "test", wait_s=0.1)
    spans(store, a_span("a"))


def test_a_commit_that_came_first_is_seen_before_the_next_is_decided(workspace: Workspace) -> None:
    """As when the lock was taken over while this one was paused: neither writes over the other."""
    mine, theirs = TraceStore(workspace), TraceStore(workspace)
    seen: list[bool] = []

    def decide(draft: trace_draft.Draft) -> None:
        if not seen:
            theirs.transact(lambda other: other.put([span_written(a_span("theirs"))]))
        seen.append(draft.write(span_written(a_span("theirs"))))
        draft.write(span_written(a_span("mine")))

    mine.transact(decide)
    assert seen == [True, False]
    theirs.refresh()
    assert page(mine) == page(theirs) == (["theirs", "mine"], 2)
    assert len(workspace.files.list("traces/segments")) == 2


def test_threads_share_a_store(workspace: Workspace) -> None:
    store, reader = TraceStore(workspace), TraceStore(workspace)
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            reader.refresh()
            found, total = reader.spans(EVERY, 1000)
            assert len(found) == total
            seen.append(total)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(12):
        spans(store, a_span(f"s{number}", number))
    done.set()
    for thread in threads:
        thread.join()
    reader.refresh()
    assert reader.counts() == (12, 0)
    assert max(seen, default=0) <= 12


@pytest.mark.parametrize("harm", ["cut", "flipped", "missing"])
def test_damage_names_the_file_and_says_what_to_do(local_workspace: Workspace, harm: str) -> None:
    store = TraceStore(local_workspace)
    for name in "abc":
        spans(store, a_span(name, input=name * 1000))
    path = Path(local_workspace.files.native("traces/segments/000000000002.parquet"))
    kept = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(kept[:-20])
    else:
        column = pq.read_metadata(path).row_group(0).column(TRACE_EVENTS.names.index("output"))
        at = column.data_page_offset + column.total_compressed_size - 3
        path.write_bytes(kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :])
    with pytest.raises(DamagedFileError, match=r"000000000002\.parquet is damaged.* hint: restore it from a backup"):
        TraceStore(local_workspace).span("b")
    path.write_bytes(kept)
    assert TraceStore(local_workspace).span("b") == store.span("b")


def test_an_open_reader_says_damage_too(local_workspace: Workspace) -> None:
    spans(TraceStore(local_workspace), a_span("a"))
    reader = TraceStore(local_workspace)
    reader.log._open.clear()
    Path(local_workspace.files.native("traces/segments/000000000001.parquet")).write_bytes(b"PAR1")
    with pytest.raises(DamagedFileError, match=r"000000000001\.parquet is damaged"):
        reader.span("a")


def test_what_cannot_be_rolled_keeps_nobody_from_writing(
    local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace_rolling, "FAN", 2)
    store = TraceStore(local_workspace)
    spans(store, a_span("a"))
    first = Path(local_workspace.files.native("traces/segments/000000000001.parquet"))
    kept = first.read_bytes()
    first.write_bytes(b"PAR1")
    store.log._open.clear()
    spans(store, a_span("b"))
    spans(store, a_span("c"))
    assert [record.levelname for record in caplog.records] == ["WARNING"], "and not once more at every commit"
    assert "000000000001.parquet is damaged" in caplog.text
    first.write_bytes(kept)
    assert TraceStore(local_workspace).counts() == (3, 0)


def test_a_full_disk_is_said_and_nothing_is_half_written(on_small_disk: Callable[..., str]) -> None:
    said = on_small_disk("""
        import secrets
        from raylens.errors import DiskFullError
        from raylens.store.trace_rows import span_written
        from raylens.store.traces import TraceStore
        from raylens.store.workspace import Workspace
        from raylens.traces.span import Span, now
        workspace = Workspace.open(DISK / "w", create=True)
        store, n = TraceStore(workspace), 0
        def write(text):
            store.write([span_written(Span(span_id=f"s{n}", trace_id="t", started_at=now(), input=text))], "test")
        try:
            while True:
                write(secrets.token_hex(200_000))
                n += 1
        except DiskFullError as error:
            print(error)
        assert n > 3 and TraceStore(workspace).counts() == store.counts() == (n, 0)
        left = [one.path for one in workspace.files.scan("traces") if one.temporary]
        assert not left, left
        print(TraceStore(workspace).span("s0").span_id)
    """)
    assert "is full" in said
    assert said.split()[-1] == "s0"
