"""Archiving runs, and replacing them: nothing is lost, whenever a process dies."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from audit_runs import artefacts, files_of, store_run
from dying_files import DyingFiles, KilledError
from raylens.errors import BusyError, InputError, StoppedError, UnknownNameError
from raylens.store import disk
from raylens.store.audit_archive import archive_run, move_to_archive
from raylens.store.audit_files import NAMES, changed
from raylens.store.audit_manifest import DECISION, RUN
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.files import Files
from raylens.store.lock import acquire

PLACE = RunPlace("s", "r")
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def store(files: Files) -> AuditStore:
    return AuditStore(files)


@pytest.fixture
def local_store(local_files: Files) -> AuditStore:
    return AuditStore(local_files)


@pytest.fixture
def without_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes die in these tests, and the machine does not: what was written need not be on the disk yet."""
    monkeypatch.setattr(disk, "_sync", lambda path: None)


@pytest.mark.usefixtures("without_sync")
@pytest.mark.parametrize("again", ["archive", "replace"])
def test_death_at_any_moment_leaves_the_old_run_or_the_new_or_an_unfinished_one(tmp_path: Path, again: Any) -> None:
    old, new = files_of(artefacts(score=0.5)), files_of(artefacts(score=0.4))
    seen: set[str] = set()
    for step in range(100):
        files = Files.open(tmp_path / str(step))
        store_run(AuditStore(files), "s", "r")
        try:
            with AuditStore(DyingFiles.after(files, step)).write_run("s", "r", "run-2", again=again) as writer:
                writer.finish(new)
            over = True
        except KilledError:
            over = False
        store = AuditStore(files)
        if store.is_finished("s", "r"):
            texts = store.read_run("s", "r")
            state = "new" if texts["score.json"] == new["score.json"] else "old"
            assert {n: t for n, t in texts.items() if n != RUN} == (new if state == "new" else old)
            assert changed(texts, store.run_file("s", "r")) == []  # pyright: ignore[reportArgumentType]
        else:
            state = "unfinished"
            with pytest.raises(InputError, match=r"is not finished|there is no audit"):
                store.read_run("s", "r")
        seen.add(state)
        if again == "archive":
            # A copy without its decision is the beginning of one: the run itself is still there.
            whole = [one for one in archived_texts(files) if DECISION in one]
            assert any(old.items() <= one.items() for one in whole) or state == "old"
        # And the same command goes on from any of these.
        if state != "new":
            with store.write_run("s", "r", "run-3", again=again) as writer:
                writer.finish(new)
        assert store.artefacts("s", "r").score.aggregate_score == 0.4
        if again == "archive":
            assert sum(old.items() <= one.items() for one in archived_texts(files)) == 1
        if over:
            break
    else:
        pytest.fail("it never ended")
    assert seen == {"old", "unfinished", "new"}


def archived_texts(files: Files) -> Iterator[dict[str, str]]:
    for time in files.folders(PLACE.archive_folder):
        folder = f"{PLACE.archive_folder}/{time}/r"
        yield {
            path.rpartition("/")[2]: files.read_bytes(path).decode()
            for path in files.list(folder)
            if not path.endswith(RUN)
        }


def test_archived_runs_make_room_and_keep_every_byte(store: AuditStore) -> None:  # A2.20
    store_run(store, "s", "r")
    store_run(store, "s", "other")
    store.files.commit("audits/s/runs/r/notes.txt", b"a person's own")
    before = {one.path: store.files.read_bytes(one.path) for one in store.files.scan(PLACE.folder)}
    done = store.archive([PLACE, RunPlace("s", "other")], at=AT)
    assert [one.folder for one in done] == [
        "audits/s/runs/_archive/20260102T030405-000000Z/r",
        "audits/s/runs/_archive/20260102T030405-000000Z/other",
    ]
    after = {one.path: store.files.read_bytes(one.path) for one in store.files.scan(done[0].folder)}
    assert list(before.values()) == list(after.values())
    assert store.runs() == ()
    assert [(one.finished, one.archived) for one in store.sessions()] == [(0, 2)]
    with pytest.raises(UnknownNameError, match="unknown audit 'r'"):
        store.find("r")
    with pytest.raises(InputError, match="there is no audit s/r"):
        store.archive([PLACE])
    store_run(store, "s", "r", score=0.4)
    (again,) = store.archive([PLACE], at=AT)
    assert again.folder == "audits/s/runs/_archive/20260102T030405-000001Z/r"
    with (
        store.write_run("s", "unfinished", "run-1"),
        pytest.raises(BusyError),
    ):
        store.archive([RunPlace("s", "unfinished")])
    with pytest.raises(InputError, match="audit s/unfinished is not finished"):
        store.archive([RunPlace("s", "unfinished")])


@pytest.mark.usefixtures("without_sync")
def test_archiving_that_dies_at_any_moment_goes_on_and_archives_once(tmp_path: Path) -> None:  # A2.20
    for step in range(100):
        files = Files.open(tmp_path / str(step))
        made = store_run(AuditStore(files), "s", "r")
        texts = AuditStore(files).read_run("s", "r")
        try:
            archive_run(DyingFiles.after(files, step), PLACE, owner="one")
            break
        except KilledError:
            pass
        live = AuditStore(files).is_finished("s", "r")
        assert live or any(DECISION in one for one in archived_texts(files))
        if live:
            assert AuditStore(files).read_run("s", "r") == texts
        if files.list(PLACE.folder):
            archive_run(files, PLACE, owner="two")
        assert AuditStore(files).runs() == ()
        ((time, _),) = AuditStore(files).archived("s")
        folder = f"{PLACE.archive_folder}/{time}/r"
        assert {name: files.read_bytes(f"{folder}/{name}").decode() for name in texts} == texts
        assert made.finished_at is not None
    else:
        pytest.fail("it never ended")
    assert step > 8


def test_an_archiver_that_was_passed_by_removes_nothing(local_store: AuditStore) -> None:
    store_run(local_store, "s", "r")
    files = local_store.files
    with (
        acquire(files, PLACE.lock_folder, "one", what="audit s/r") as paused,
        acquire(files, PLACE.lock_folder, "two", what="audit s/r", stale_s=0.0),
        pytest.raises(StoppedError),
    ):
        move_to_archive(files, PLACE, paused)
    assert local_store.is_finished("s", "r")
    local_store.archive([PLACE])
    assert len(local_store.archived("s")) == 1


def test_what_is_left_of_an_archived_run_may_be_any_part_of_it(local_store: AuditStore) -> None:
    store_run(local_store, "s", "r")
    data = {name: local_store.files.read_bytes(PLACE.file(name)) for name in (*NAMES, RUN)}
    local_store.archive([PLACE])
    for left in (["run.json"], ["report.md"], ["score.json", "run.json"]):  # in whatever order a disk removes files
        for name in left:
            local_store.files.commit(PLACE.file(name), data[name])
        local_store.archive([PLACE])
        assert local_store.runs() == ()
    assert len(local_store.archived("s")) == 1
