"""A Ledger's life: it waits for the one before it, keeps house, survives damage and full disks, and ends in order."""

from __future__ import annotations

import asyncio
import gc as garbage
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ledgers import EVERY, Served, run
from raylens.errors import DamagedFileError, DiskFullError, OverloadedError, RunError
from raylens.store import trace_rolling
from raylens.store.files import Files
from raylens.store.lock import acquire, holder
from raylens.store.trace_rows import extraction_kept, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens_serve import ledger_writer
from raylens_serve.ledger import Ledger
from trace_samples import a_span, an_extraction


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(str(tmp_path / "workspace"))
    yield served
    run(served.ledger.close())


def test_it_ends_when_what_it_accepted_is_written(tmp_path: Path) -> None:
    served = Served(str(tmp_path / "w"))

    async def calls() -> None:
        under_way = [asyncio.ensure_future(served.client.add_spans([a_span(f"s{n}")])) for n in range(20)]
        while not served.ledger._writer._waiting and not any(one.done() for one in under_way):
            await asyncio.sleep(0)
        await served.ledger.close()
        answers = await asyncio.gather(*under_way, return_exceptions=True)
        accepted = [one for one in answers if not isinstance(one, BaseException)]
        assert accepted
        assert all(isinstance(one, OverloadedError) for one in answers if isinstance(one, BaseException))
        assert TraceStore(Workspace.open(tmp_path / "w")).counts() == (len(accepted), 0)
        for refused in (served.client.add_spans([a_span("late")]), served.client.spans(EVERY, 1, 0)):
            with pytest.raises(OverloadedError, match="is being ended"):
                await refused
        served.ledger.check_health()

    run(calls())
    assert holder(served.files, "traces/lock") is None
    run(served.ledger.close())


def test_one_that_is_forgotten_ends_too(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "w"))
    run(ledger.add_spans([a_span("a")]))
    writer, files = ledger._writer, Files.open(tmp_path / "w")
    assert holder(files, "traces/lock") is not None
    del ledger
    garbage.collect()
    assert writer.is_closed
    assert not writer.is_alive
    assert holder(files, "traces/lock") is None
    Ledger.__new__(Ledger).__del__()  # one that could not even begin


def test_a_dead_thread_is_no_health(served: Served) -> None:
    served.ledger.check_health()
    served.ledger._writer._keeping = threading.Thread()
    with pytest.raises(RunError, match="a thread of the Ledger has ended"):
        served.ledger.check_health()
    served.ledger._writer._keeping = served.ledger._writer._committing


def test_the_next_one_waits_for_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Served(str(tmp_path / "w")), Served(str(tmp_path / "w"))

    async def calls() -> None:
        await old.client.add_spans([a_span("old")])
        assert await new.client.span("old") == a_span("old")
        assert [(await one.client.status())["writes"] for one in (old, new)] == [True, False]
        waiting = asyncio.ensure_future(new.client.add_spans([a_span("new")]))
        await old.client.add_spans([a_span("old-2")])
        assert not waiting.done()
        assert (await new.client.spans(EVERY, 9, 0))[1] == 2, "it sees what the other one writes"
        await old.ledger.close()
        assert await waiting == ("new",)
        assert (await new.client.status())["spans"] == 3
        late = Served(str(tmp_path / "w"))
        monkeypatch.setattr(ledger_writer, "LOCK_WAIT_S", 0.0)
        with pytest.raises(OverloadedError, match=r"another Ledger writes to this workspace: .* hint: try again"):
            await late.client.add_spans([a_span("late")])
        await late.ledger.close()
        await new.ledger.close()

    run(calls())


def test_one_whose_lock_was_taken_over_waits_for_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_writer, "BEAT_S", -1.0)  # it looks every time whether the lock is still its own
    served = Served(str(tmp_path / "w"))

    async def calls() -> None:
        await served.client.add_spans([a_span("mine")])
        store = TraceStore(Workspace.open(tmp_path / "w"))
        with acquire(served.files, "traces/lock", "other", what="traces", stale_s=-1):
            store.transact(lambda draft: draft.put([span_written(a_span("theirs")), span_written(a_span("mine", 9))]))
            assert await served.client.span("theirs") == a_span("theirs"), "it does not hold the lock: it looks"
            assert served.ledger._writer._lock is None
        await served.client.add_spans([a_span("mine", 9), a_span("after")])
        assert (await served.client.status())["spans"] == 3

    run(calls())
    assert served.commits() == 3
    run(served.ledger.close())


def test_retention_deletes_what_is_past_its_time(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old = [a_span(f"old{n}").model_copy(update={"started_at": now - timedelta(days=3 + n)}) for n in range(3)]
    young = a_span("young").model_copy(update={"started_at": now - timedelta(days=1)})
    TraceStore(Workspace.open(tmp_path / "w", create=True)).write(
        [*map(span_written, (*old, young)), extraction_kept(an_extraction("old0"))], "test"
    )
    served = Served(str(tmp_path / "w"), retention_days=2)

    async def calls() -> None:
        while (await served.client.status())["spans"] > 1:  # it sweeps at its start
            await asyncio.sleep(0.01)
        assert await served.client.spans(EVERY, 9, 0) == ([young], 1)
        assert (await served.client.status())["extractions"] == 0
        await served.client.add_spans(old)
        assert await served.ledger.sweep() == 3
        assert await served.ledger.sweep() == 0
        assert await served.client.spans(EVERY, 9, 0) == ([young], 1)
        await served.ledger.close()

    run(calls())


def test_it_keeps_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are rolled, what was deleted is purged, and what was rolled is removed."""
    monkeypatch.setattr(trace_rolling, "FAN", 2)
    monkeypatch.setattr(ledger_writer, "PURGE_S", -60.0)
    monkeypatch.setattr(ledger_writer, "COLLECT_S", -60.0)
    served = Served(str(tmp_path / "w"))

    async def calls() -> None:
        for number in range(5):
            await served.client.add_spans([a_span(f"s{number}", number, input="some text")])
        while not any("000000000001-000000000004" in path for path in served.files.list("traces/segments")):
            await asyncio.sleep(0.01)
        await served.client.delete(["s1"])
        await served.ledger.sweep()
        assert [span.span_id for span in (await served.client.spans(EVERY, 9, 0))[0]] == ["s4", "s3", "s2", "s0"]
        kept = [path.rpartition("/")[2] for path in served.files.list("traces/segments")]
        assert len(kept) == 2, "commits 1 to 4 without s1, and 5 with 6"
        assert kept[0].startswith("000000000001-000000000004-000000000006-")
        await served.ledger.close()

    run(calls())


def test_damage_is_said_and_it_lives_on(tmp_path: Path) -> None:
    store = TraceStore(Workspace.open(tmp_path / "w", create=True))
    store.write([span_written(a_span("a"))], "test")
    path = Path(store.log.files.native("traces/segments/000000000001.parquet"))
    kept = path.read_bytes()
    path.write_bytes(kept[:100])
    served = Served(str(tmp_path / "w"))

    async def calls() -> None:
        asked = [served.client.span("a"), served.client.add_spans([a_span("b")]), served.client.status()]
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, DamagedFileError)
            assert "restore it from a backup" in error.hint
        served.ledger.check_health()
        path.write_bytes(kept)
        assert await served.client.span("a") == a_span("a")
        await served.client.add_spans([a_span("b")])
        await served.ledger.close()

    run(calls())


def test_a_full_disk_is_said_and_it_lives_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Files, rel: str, data: bytes) -> bool:
        raise DiskFullError("the disk is full.", hint="free some space.")

    async def calls() -> None:
        await served.client.add_spans([a_span("a")])
        with monkeypatch.context() as patch:
            patch.setattr(Files, "commit_if_absent", full)
            answers = await asyncio.gather(
                *(served.client.add_spans([a_span(f"s{number}")]) for number in range(3)), return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [DiskFullError] * 3
            assert await served.client.span("a") == a_span("a")
        await served.client.add_spans([a_span("b")])
        assert (await served.client.status())["spans"] == 2

    run(calls())
    assert TraceStore(Workspace.open(served.files.url)).counts() == (2, 0)
