"""Runs of audits on disk: finished last, one writer at a time, read back whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from audit_runs import artefacts, files_of, store_run
from raylens.errors import BusyError, DamagedFileError, InputError, RunError, StoppedError
from raylens.store import audit_runs as audit_runs_module
from raylens.store import disk
from raylens.store.audit_files import NAMES, changed, problems
from raylens.store.audit_manifest import DECISION, RUN, read_run_file
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.files import Files
from raylens.store.lock import acquire

PLACE = RunPlace("s", "r")


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


def paths(files: Files) -> set[str]:
    """Everything but locks, rows and calls."""
    hidden = ("/_work/", "/_rows/", "/_calls/")
    return {one.path for one in files.scan("audits") if not any(part in one.path for part in hidden)}


def test_a_run_has_its_files_and_is_read_back(store: AuditStore) -> None:  # A2.01, A2.02
    texts = files_of(artefacts())
    store.create_session("s", {})
    with store.write_run("s", "r", "run-1", config={"k": 20, "api_key": "x"}) as writer:
        assert [(one.status, one.writer) for one in store.runs()] == [("unfinished", "run-1")]
        assert not store.is_finished("s", "r")
        with pytest.raises(InputError, match="audit s/r is not finished"):
            store.read_run("s", "r")
        with pytest.raises(InputError, match="audit s/r is not finished"):
            store.find("r")
        made = writer.finish(texts, versions={"torch": "2.9"})
    assert paths(store.files) == {
        "audits/s/config_resolved.yaml",
        *(f"audits/s/runs/r/{name}" for name in (*NAMES, RUN)),
    }
    found = store.read_run("s", "r")
    assert {name: found[name] for name in texts} == texts
    assert problems(found) == []
    assert changed(found, made) == []
    assert store.run_file("s", "r") == made
    assert (made.versions["torch"], made.config) == ("2.9", {"k": 20})
    assert made.finished_at is not None
    assert made.finished_at >= made.started_at
    assert store.artefacts("s", "r") == artefacts()
    assert store.decision("s", "r") == artefacts().decision
    assert [(one.status, one.finished_at) for one in store.runs("s")] == [("finished", made.finished_at)]
    assert [(one.session, one.finished, one.unfinished, one.archived) for one in store.sessions()] == [("s", 1, 0, 0)]


def test_a_run_without_an_sae_has_no_evidence(local_store: AuditStore) -> None:  # A2.02
    made = store_run(local_store, "s", "r", with_sae=False)
    assert "interp_evidence.json" not in local_store.read_run("s", "r")
    assert made.tables == {"audit_runs": 1, "audit_prompts": 3, "audit_effects": 0}


def test_what_is_not_a_run_is_not_stored(local_store: AuditStore) -> None:
    texts = files_of(artefacts())
    with local_store.write_run("s", "r", "test") as writer:
        for wrong, what in (
            ({**texts, "score.json": "{}"}, "score.json: is not valid"),
            ({name: text for name, text in texts.items() if name != "report.md"}, "report.md: is missing"),
            ({**texts, "notes.txt": "x"}, "notes.txt: is not a file of a run"),
            (files_of(artefacts("s", "other")), "the files are those of another one"),
            ({**texts, "score.json": files_of(artefacts(score=0.4))["score.json"]}, "aggregate_score"),
        ):
            with pytest.raises(RunError, match=what):
                writer.finish(wrong)
    assert paths(local_store.files) == {"audits/s/runs/r/run.json"}
    assert local_store.runs()[0].writer is None


def test_two_writers_do_not_collide(store: AuditStore) -> None:
    with store.write_run("s", "r", "run-1"):
        with pytest.raises(BusyError, match=r"audit s/r is being written by run run-1"):
            store.write_run("s", "r", "run-2")
        with pytest.raises(BusyError):
            store.archive([PLACE])
        store.write_run("s", "another", "run-2").__exit__(None, None, None)
        store.write_run("another", "r", "run-2").__exit__(None, None, None)
    store_run(store, "s", "r")


def test_a_writer_that_was_passed_by_finishes_nothing(local_store: AuditStore) -> None:
    with (
        local_store.write_run("s", "r", "run-1") as paused,
        acquire(local_store.files, PLACE.lock_folder, "run-2", what="x", stale_s=0.0),
    ):
        with pytest.raises(StoppedError, match="audit s/r was taken over"):
            paused.finish(files_of(artefacts()))
        assert not local_store.is_finished("s", "r")


def test_a_finished_run_stays_unless_it_is_asked_for_again(local_store: AuditStore) -> None:  # A2.20
    first = store_run(local_store, "s", "r")
    with pytest.raises(InputError, match="audit s/r is finished already"):
        local_store.write_run("s", "r", "run-2")
    with local_store.write_run("s", "r", "run-2", again="archive") as writer:
        assert local_store.run_file("s", "r") == first
        assert local_store.is_finished("s", "r")  # until the new one is there
        writer.finish(files_of(artefacts(score=0.4)))
    assert local_store.artefacts("s", "r").score.aggregate_score == 0.4
    ((_, run),) = local_store.archived("s")
    assert run == "r"
    third = store_run(local_store, "s", "r", again="replace", with_sae=False)
    assert len(local_store.archived("s")) == 1
    assert "interp_evidence.json" not in local_store.read_run("s", "r")
    assert third.finished_at is not None


def test_the_lock_is_free_after_a_refusal(local_store: AuditStore) -> None:
    store_run(local_store, "s", "r")
    for _ in range(2):
        with pytest.raises(InputError, match="finished already"):
            local_store.write_run("s", "r", "run-2")


_DIES = """
import sys, threading
sys.path[:0] = sys.argv[2:]
from audit_runs import artefacts, files_of
from raylens.store.audit_store import AuditStore
from raylens.store.files import Files

class Stuck(Files):
    def commit(self, rel, data):
        if rel.endswith("/decision.json"):
            print("stuck", flush=True)
            threading.Event().wait()
        super().commit(rel, data)

with AuditStore(Stuck(sys.argv[1])).write_run("s", "r", "run-to-die") as writer:
    writer.put_part("features", b"half of it")
    writer.finish(files_of(artefacts()))
"""


def test_a_run_killed_before_its_decision_is_unfinished_and_made_again(local_store: AuditStore) -> None:
    command = [sys.executable, "-c", _DIES, local_store.files.url, *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        assert local_store.runs()[0].writer == "run-to-die"
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert f"{PLACE.folder}/score.json" in paths(local_store.files)
    (one,) = local_store.runs()
    assert (one.status, one.writer, one.finished_at) == ("unfinished", None, None)
    with local_store.write_run("s", "r", "run-2") as writer:
        assert writer.get_part("features") == b"half of it"
        writer.finish(files_of(artefacts()))
    assert {name: text for name, text in local_store.read_run("s", "r").items() if name != RUN} == files_of(artefacts())
    assert local_store.parts("s", "r").keys() == ()


def test_damage_is_said_and_hides_no_other_run(local_store: AuditStore) -> None:
    store_run(local_store, "s", "r")
    store_run(local_store, "s", "sound")
    files = local_store.files
    files.commit(PLACE.file("score.json"), b'{"title": 3}')
    with pytest.raises(DamagedFileError, match=r"audit s/r is damaged: score\.json"):
        local_store.artefacts("s", "r")
    texts = local_store.read_run("s", "r")
    assert [one.file for one in problems(texts)] == ["score.json"]
    made = local_store.run_file("s", "r")
    assert made is not None
    assert [(one.file, one.what) for one in changed(texts, made)] == [
        ("score.json", "was changed since it was written")
    ]
    files.commit(PLACE.file(DECISION), b"\xff")
    with pytest.raises(DamagedFileError, match=r"decision\.json is not valid"):
        local_store.decision("s", "r")
    files.commit(PLACE.file(RUN), b"{}")
    with pytest.raises(DamagedFileError, match=r"run\.json is damaged"):
        local_store.run_file("s", "r")
    assert [(str(one.place), one.started_at is None) for one in local_store.runs()] == [
        ("s/r", True),
        ("s/sound", False),
    ]
    store_run(local_store, "s", "r", again="archive")
    assert local_store.artefacts("s", "r") == artefacts()


@pytest.mark.usefixtures("without_sync")
def test_a_reader_never_mixes_two_makings(local_store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced between any two of its reads, by a run of the same decision and another report."""
    original = audit_runs_module._bytes
    asked = 0
    for moment in range(1, 11):
        place = RunPlace("s", f"r{moment}")
        texts = files_of(artefacts("s", place.run))
        store_run(local_store, "s", place.run)
        asked = 0

        def replaced_meanwhile(files: Files, path: str, moment: int = moment, place: RunPlace = place) -> bytes | None:
            nonlocal asked
            asked += 1
            if asked == moment:
                with local_store.write_run("s", place.run, "run-2", again="replace") as writer:
                    writer.finish(files_of(artefacts("s", place.run)) | {"report.md": "# another\n"})
            return original(files, path)

        monkeypatch.setattr(audit_runs_module, "_bytes", replaced_meanwhile)
        found = local_store.read_run("s", place.run)
        monkeypatch.setattr(audit_runs_module, "_bytes", original)
        assert changed(found, read_run_file(found[RUN].encode(), RUN)) == []
        assert found["report.md"] in {texts["report.md"], "# another\n"}
