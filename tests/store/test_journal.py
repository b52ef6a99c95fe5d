"""The journal: nothing appended is lost, whoever writes at once, is killed, paused, or rolls segments together."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylens.errors import BusyError, DamagedFileError
from raylens.store import journal as journal_module
from raylens.store.commits import Segment, cover
from raylens.store.files import Files
from raylens.store.housekeeping import gc
from raylens.store.journal import Event, Journal
from raylens.store.lock import acquire
from raylens.store.workspace import Workspace


def opened(files: Files) -> Journal[Event]:
    return Journal(files, "labels", Event, what="people's labels")


def events(*names: str) -> list[Event]:
    return [Event(event_id=name) for name in names]


def ids(journal: Journal[Event]) -> list[str]:
    return [event.event_id for event in journal.read()]


def test_events_come_back_in_the_order_they_were_appended(files: Files) -> None:
    journal = opened(files)
    assert ids(journal) == []
    journal.append(events("b", "a"), "ann")
    journal.append(events("c"), "bob")
    assert ids(journal) == ["b", "a", "c"]
    assert [path.rpartition("/")[2] for path in files.list("labels/segments")] == [
        "000000000001.json",
        "000000000002.json",
    ]


def test_many_commits_are_rolled_into_one_and_read_the_same(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "ROLLED_AT", 3)
    journal = opened(files)
    names = [f"e{number}" for number in range(11)]
    for name in names:
        journal.append(events(name), "ann")
    assert ids(journal) == names
    segments = {path.rpartition("/")[2] for path in files.list("labels/segments")}
    assert {"000000000001-000000000004.json", "000000000001-000000000008.json"} < segments
    gone = {path.rpartition("/")[2] for path in journal.superseded(datetime.now(UTC).timestamp() + 60)}
    assert gone == segments - {"000000000001-000000000008.json", *(f"{n:012d}.json" for n in (9, 10, 11))}
    assert journal.superseded(datetime.now(UTC).timestamp() - 60) == [], "rolled a moment ago: somebody may be reading"


def test_housekeeping_takes_what_was_rolled_and_nothing_else(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "ROLLED_AT", 3)
    journal = opened(workspace.files)
    names = [f"e{number}" for number in range(6)]
    for name in names:
        journal.append(events(name), "ann")
    assert gc(workspace).removals == (), "everything is young"
    later = datetime.now(UTC) + timedelta(hours=25)
    removed = gc(workspace, now=later).removals
    assert [one.path for one in removed] == [f"labels/segments/{number:012d}.json" for number in (1, 2, 3, 4)]
    assert {one.reason for one in removed} == {"rolled into another"}
    assert ids(journal) == names
    journal.append(events("after"), "ann")
    assert ids(journal) == [*names, "after"]


_WRITER = """
import sys
from raylens.store import journal
from raylens.store.files import Files
from raylens.store.journal import Event, Journal
journal.ROLLED_AT = 5
url, who, n = sys.argv[1:]
mine = Journal(Files.open(url), "labels", Event, what="people's labels")
for number in range(int(n)):
    mine.append([Event(event_id=f"{who}-{number}")], who, wait_s=60)
"""


def test_processes_that_write_at_once_lose_nothing(local_files: Files) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, local_files.url, who, "6"]) for who in ("ann", "bob", "eve")
    ]
    journal, seen = opened(local_files), 0
    while any(writer.poll() is None for writer in writers):
        now = ids(journal)  # whatever is being written or rolled, a reader sees a beginning of the truth
        assert len(now) == len(set(now)) >= seen
        seen = len(now)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    found = ids(journal)
    for who in ("ann", "bob", "eve"):
        assert [name for name in found if name.startswith(who)] == [f"{who}-{number}" for number in range(6)]
    assert len(found) == 18


def test_threads_on_an_object_store_lose_nothing(s3_url: str) -> None:
    files = Files.open(s3_url)

    def write(who: str) -> None:
        mine = opened(files)
        for number in range(4):
            mine.append(events(f"{who}-{number}"), who, wait_s=60)

    threads = [threading.Thread(target=write, args=(who,)) for who in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids(opened(files))) == [f"{who}-{number}" for who in ("ann", "bob") for number in range(4)]


_DIES = """
import sys, threading
from raylens.store.files import Files
from raylens.store.lock import acquire
held = acquire(Files.open(sys.argv[1]), "labels/lock", "of ann", what="people's labels")
print("held", flush=True)
threading.Event().wait()
"""


def test_a_writer_killed_at_its_turn_holds_nobody_up(local_files: Files) -> None:
    with subprocess.Popen([sys.executable, "-c", _DIES, local_files.url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=r"people's labels could not be written: .* run of ann"):
            opened(local_files).append(events("a"), "bob", wait_s=0.1)
        assert ids(opened(local_files)) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    opened(local_files).append(events("a"), "bob")
    assert ids(opened(local_files)) == ["a"]


def test_a_paused_writer_takes_the_next_number(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, other = opened(files), opened(files)
    real = files.commit_if_absent

    def overtaken(rel: str, data: bytes) -> bool:
        """Between looking and writing, another process takes the lock over and writes."""
        if rel.endswith("000000000001.json") and "/segments/" in rel and b"mine" in data:
            monkeypatch.setattr(files, "commit_if_absent", real)
            with acquire(files, "labels/lock", "of bob", what="people's labels", stale_s=-1):
                assert other.commits.claim(1, b'[{"event_id": "theirs"}]')
        return real(rel, data)

    monkeypatch.setattr(files, "commit_if_absent", overtaken)
    journal.append(events("mine"), "ann")
    assert ids(journal) == ["theirs", "mine"]


def test_a_number_used_rolled_and_collected_meanwhile_is_not_taken_for_free(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(files)
    real = files.commit_if_absent

    def overtaken(rel: str, data: bytes) -> bool:
        if "/segments/" in rel and b"mine" in data:
            monkeypatch.setattr(files, "commit_if_absent", real)
            rolled = b'[{"event_id": "x"}, {"event_id": "y"}]'
            files.commit("labels/segments/000000000001-000000000002.json", rolled)  # 1 and 2 are gone already
        return real(rel, data)

    monkeypatch.setattr(files, "commit_if_absent", overtaken)
    journal.append(events("mine"), "ann")
    assert ids(journal) == ["x", "y", "mine"]


def test_damage_names_the_file_and_hides_nothing(files: Files) -> None:
    journal = opened(files)
    for name in "abc":
        journal.append(events(name), "ann")
    kept = files.read_bytes("labels/segments/000000000002.json")
    files.commit("labels/segments/000000000002.json", kept[:-4])
    with pytest.raises(DamagedFileError, match=r"labels/segments/000000000002\.json is damaged"):
        journal.read()
    files.delete("labels/segments/000000000002.json")
    with pytest.raises(DamagedFileError, match=r"000000000002\.json is damaged: it is missing"):
        journal.read()
    files.commit("labels/segments/000000000002.json", kept)
    assert ids(journal) == ["a", "b", "c"]


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), max_size=12))
def test_a_cover_holds_all_and_nothing_twice_over(spans: list[tuple[int, int]]) -> None:
    """Against the obvious: a segment is needed unless another contains it."""
    segments = list({(a, a + n): Segment(f"{a}-{a + n}", a, a + n) for a, n in spans}.values())
    needed = [
        one
        for one in segments
        if not any(wide != one and wide.first <= one.first and one.last <= wide.last for wide in segments)
    ]
    assert cover(segments) == sorted(needed, key=lambda one: one.first)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commits=st.lists(st.integers(1, 3), max_size=7), rolled_at=st.integers(1, 3), collect=st.booleans())
def test_a_journal_is_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: list[int], rolled_at: int, collect: bool
) -> None:
    monkeypatch.setattr(journal_module, "ROLLED_AT", rolled_at)
    folder = tmp_path / f"{hash((tuple(commits), rolled_at, collect)):x}".replace("-", "m")
    workspace = Workspace.open(folder, create=True)
    journal, oracle = opened(workspace.files), ids(opened(workspace.files))
    for size in commits:
        added = events(*(f"e{len(oracle) + number}" for number in range(size)))
        journal.append(added, "ann")
        oracle += [event.event_id for event in added]
        if collect:
            gc(workspace, now=datetime.now(UTC) + timedelta(hours=25))
        assert ids(journal) == oracle
