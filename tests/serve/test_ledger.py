"""The Ledger: durable when it answers, and everybody gets the same."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ledgers import EVERY, Served, keep, run
from raylens.errors import InputError, OverloadedError, RaylensError, UnknownNameError
from raylens.store import trace_rows
from raylens.store.files import Files
from raylens.store.trace_rows import span_written
from raylens.store.workspace import Workspace
from raylens.traces.listing import SpanFilter
from raylens_serve import ledger_writer
from raylens_serve.ledger_writer import LedgerWriter
from trace_samples import START, a_span, an_extraction


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(str(tmp_path / "workspace"))
    yield served
    run(served.ledger.close())


def test_what_is_written_is_read(served: Served) -> None:
    async def calls() -> None:
        client = served.client
        first, second = a_span("a", 1), a_span("b", 2, trace_id="u", model="claude")
        assert await client.add_spans([second, first]) == ("b", "a")
        assert await client.span("a") == first
        assert await client.spans(EVERY, 1, 1) == ([first], 2)
        assert await client.spans(SpanFilter(text="WHAT is b"), 9, 0) == ([second], 1)
        found, total = await client.traces(EVERY, 9, 0)
        assert ([trace.trace_id for trace in found], total) == (["u", "t"], 2)
        assert await client.traces_of(["b", "no"]) == {"b": "u"}
        assert await client.look(["a"]) == [(first, [])]
        assert await keep(client, an_extraction("a")) == (an_extraction("a"), True)
        assert await keep(client, an_extraction("a", 5)) == (an_extraction("a"), False)
        assert await keep(client, an_extraction("a", 6), again=True) == (an_extraction("a", 6), True)
        assert await client.extractions("a") == [an_extraction("a", 6)]
        await client.keep([an_extraction("a", 7, sae="another"), an_extraction("b", 8)])
        there, missing, again, other = await client.look(["a", "no", "a", "b"])
        assert there == again == (first, [an_extraction("a", 7, sae="another"), an_extraction("a", 6)])
        assert (isinstance(missing, UnknownNameError), other) == (True, (second, [an_extraction("b", 8)]))
        expected = {"writes": True, "spans": 2, "extractions": 3, "workspace": served.files.url}
        assert await client.status() == expected
        assert await client.delete(["a", "a", "no"]) == 1
        assert await client.delete_trace("u") == 1
        assert await client.delete_trace("u") == 0
        assert await client.add_spans([]) == ()
        assert (await client.status())["spans"] == 0

    run(calls())


def test_what_is_wrong_is_said_and_nothing_is_written(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_rows, "SPAN_BYTES", 1000)
    monkeypatch.setattr("raylens_serve.ledger.MOST_AT_ONCE", 3)

    async def calls() -> None:
        client = served.client
        with pytest.raises(UnknownNameError, match="there is no span 'a'"):
            await client.span("a")
        with pytest.raises(UnknownNameError, match="there is no span 'a'"):
            await keep(client, an_extraction("a"))
        with pytest.raises(InputError, match=r"span b has 1,\d+ bytes of text"):
            await client.add_spans([a_span("a"), a_span("b", input="x" * 1000)])
        with pytest.raises(InputError, match="4 spans at a time are too many"):
            await client.add_spans([a_span(name) for name in "abcd"])
        assert (await client.status())["spans"] == 0

    run(calls())
    assert served.commits() == 0


def test_the_same_span_again_costs_nothing(served: Served) -> None:
    async def calls() -> None:
        for _ in range(3):
            assert await served.client.add_spans([a_span("a")]) == ("a",)
        await served.client.add_spans([a_span("a", name="more is known")])
        assert (await served.client.span("a")).name == "more is known"

    run(calls())
    assert served.commits() == 2


def test_the_first_of_many_wins_and_all_get_the_same(served: Served) -> None:  # A0.10
    async def calls() -> None:
        await served.client.add_spans([a_span("a")])
        answers = await asyncio.gather(*(keep(served.client, an_extraction("a", number)) for number in range(200)))
        (stands,) = await served.client.extractions("a")
        assert {answer.model_dump_json() for answer, _ in answers} == {stands.model_dump_json()}
        assert [ours for _, ours in answers].count(True) == 1
        assert (await served.client.status())["extractions"] == 1

    run(calls())
    assert served.commits() == 2


def test_writes_that_come_meanwhile_go_into_one_commit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Files.commit_if_absent
    begun, go_on = threading.Event(), threading.Event()

    def slow(self: Files, rel: str, data: bytes) -> bool:
        if rel.endswith("000000000001.parquet"):
            begun.set()
            assert go_on.wait(30)
        return real(self, rel, data)

    monkeypatch.setattr(Files, "commit_if_absent", slow)

    async def calls() -> None:
        first = asyncio.ensure_future(served.client.add_spans([a_span("first")]))
        await asyncio.to_thread(begun.wait, 30)
        waiting = [asyncio.ensure_future(served.client.add_spans([a_span(f"s{number}")])) for number in range(50)]
        gone = asyncio.ensure_future(served.client.add_spans([a_span("gone")]))
        while len(served.ledger._writer._waiting) < 51:
            await asyncio.sleep(0.01)
        assert (await served.client.status())["spans"] == 0, "reading does not wait"
        assert not any(one.done() for one in (first, *waiting)), "nothing is durable yet"
        gone.cancel()
        go_on.set()
        await asyncio.gather(first, *waiting)
        assert (await served.client.status())["spans"] == 51

    run(calls())
    assert served.commits() == 2


def test_one_bad_request_spoils_no_other(served: Served) -> None:
    async def calls() -> None:
        asked = [
            served.client.add_spans([a_span("a")]),
            keep(served.client, an_extraction("unknown")),
            served.client.add_spans([a_span("b")]),
            keep(served.client, an_extraction("b")),
        ]
        _, refused, _, _ = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(refused, UnknownNameError)
        assert set(await served.client.traces_of(["a", "b"])) == {"a", "b"}

    run(calls())


def test_a_request_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    writer = LedgerWriter(Workspace.open(tmp_path / "w", create=True), None)

    def half(draft: Any) -> None:
        draft.write(span_written(a_span("half")))
        raise InputError("no.", hint="none.")

    begun, go_on = threading.Event(), threading.Event()

    def slow(draft: Any) -> None:
        begun.set()
        assert go_on.wait(30)

    writer.submit(slow)
    assert begun.wait(30)
    answers = [
        writer.submit(lambda draft: draft.write(span_written(a_span("one")))),
        writer.submit(half),
        writer.submit(lambda draft: draft.write(span_written(a_span("two")))),
    ]
    go_on.set()
    assert answers[0].result() is answers[2].result() is True
    with pytest.raises(InputError):
        answers[1].result()
    assert sorted(writer.store().traces_of(["half", "one", "two"])) == ["one", "two"]
    writer.close()


def test_too_much_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_writer, "_WAITING", 2)
    writer = LedgerWriter(Workspace.open(tmp_path / "w", create=True), None)
    begun, go_on = threading.Event(), threading.Event()

    def slow(draft: Any) -> int:
        begun.set()
        assert go_on.wait(30)
        return 0

    answers = [writer.submit(slow)]
    assert begun.wait(30)
    answers += [writer.submit(slow) for _ in range(2)]
    with pytest.raises(OverloadedError, match="too much is waiting"):
        writer.submit(slow)
    go_on.set()
    assert [answer.result() for answer in answers] == [0, 0, 0]
    writer.close()


def test_errors_cross_processes(served: Served) -> None:
    async def calls() -> RaylensError:
        with pytest.raises(UnknownNameError) as caught:
            await served.client.span("a")
        return caught.value

    error = run(calls())
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_times_are_utc_wherever_they_come_from(served: Served) -> None:
    async def calls() -> None:
        naive = an_extraction("a").model_copy(update={"at": datetime(2026, 1, 1)})
        await served.client.add_spans([a_span("a")])
        await keep(served.client, naive)
        assert [one.at for one in await served.client.extractions("a")] == [START]

    run(calls())
