"""Run records: how a run says how far it is, and how others tell that it died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import BusyError, CorpusError, StoppedError, UnknownNameError
from raylens.store import process
from raylens.store.files import Files
from raylens.store.housekeeping import remove_run
from raylens.store.process import Process
from raylens.store.redact import is_secret, plain, scrub
from raylens.store.run_ends import RunEnd, end_path, note_end
from raylens.store.runs import RunJournal, RunRecord, find_run, read_run, read_runs, request_stop, stop_requested
from raylens.store.workspace import Workspace

_NEVER_S = 3600.0
_HF_TOKEN = "hf_" + "a1B2" * 9
_CONFIG = {"model": "raylens/pico", "saes": ("a/b", "c/d"), "n_tokens": 500_000, "ctx_len": 128, "name": None}


def start(files: Files, run_id: str | None = None, **config: object) -> RunJournal:
    return RunJournal.start(files, "cache", config or _CONFIG, run_id=run_id, beat_s=_NEVER_S)


def leave_record(files: Files, process: Process, *, silent_s: float = 0.0, run_id: str = "cache-old") -> RunRecord:
    """A record as a run in another process would have left it."""
    then = datetime.now(UTC) - timedelta(seconds=silent_s)
    record = RunRecord(
        run_id=run_id, kind="cache", status="running", started_at=then, heartbeat_at=then, process=process
    )
    files.commit(f"runs/{run_id}.json", record.model_dump_json().encode())
    return record


def test_a_run_is_seen_from_start_to_end(files: Files) -> None:
    with start(files) as journal:
        (seen,) = read_runs(files)
        assert (seen.run_id, seen.kind, seen.status) == (journal.run_id, "cache", "running")
        assert seen.config == {**_CONFIG, "saes": ["a/b", "c/d"]}
        assert seen.finished_at is None
        assert seen.process == Process.current()
        journal.belongs_to("0123456789abcdef")
        journal.progress(tokens=np.int64(1000), tokens_total=500_000)
        journal.progress(tokens=2000)
        journal.figures(tokens_per_s=np.float32(8.5))
        journal.beat()
        (seen,) = read_runs(files)
        assert seen.progress == {"tokens": 2000, "tokens_total": 500_000}
        assert seen.cache_id == "0123456789abcdef"
        journal.finish({"bytes": 17})
    (seen,) = read_runs(files)
    assert seen == journal.record
    assert seen.status == "succeeded"
    assert seen.figures == {"tokens_per_s": 8.5, "bytes": 17}
    assert seen.finished_at is not None
    assert seen.started_at <= seen.finished_at
    assert seen.error is None


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, "succeeded", None),
        (StoppedError("stopped.", hint="again."), "stopped", None),
        (KeyboardInterrupt(), "stopped", None),
        (CorpusError("x.txt is empty.", hint="name another."), "failed", "x.txt is empty. hint: name another."),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        (RuntimeError(f"GET https://me:pw@host/?token=abc {_HF_TOKEN}"), "failed", "GET https://***@host/?token=*** *"),
    ],
)
def test_the_end_of_the_block_is_the_end_of_the_run(
    local_files: Files, error: BaseException | None, status: str, said: str | None
) -> None:
    if error is None:
        with start(local_files):
            pass
    else:
        with pytest.raises(type(error)), start(local_files):
            raise error
    (seen,) = read_runs(local_files)
    assert seen.status == status
    assert (said or "") in (seen.error or "")
    assert (seen.error is None) == (said is None)
    assert seen.finished_at is not None


def test_progress_from_many_threads_is_all_kept(local_files: Files) -> None:
    with start(local_files) as journal, ThreadPoolExecutor(8) as pool:
        for one in range(200):
            pool.submit(journal.progress, **{f"worker_{one}": one})
            if one % 20 == 0:
                pool.submit(journal.beat)
    (seen,) = read_runs(local_files)
    assert seen.progress == {f"worker_{one}": one for one in range(200)}


# ------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "name", ["hf_token", "HF_TOKEN", "token", "apiKey", "api_key", "key", "RAYLENS_SAE_MODEL_KEY", "client_secret"]
)
def test_secrets_stay_out_of_the_record(local_files: Files, name: str) -> None:
    secret = "swordfish-4711"
    config = {
        "model": "m",
        name: secret,
        "headers": {"Authorization": secret, "deep": [{"db_password": secret, "kept": 1}]},
        "address": f"ray://me:{secret}@head:10001",
        "url": f"https://host/x?api={name}&X-Amz-Signature={secret}",
        "note": f"Bearer {secret}-and-more with {_HF_TOKEN}",
    }
    with RunJournal.start(local_files, "cache", config, beat_s=_NEVER_S) as journal:
        journal.progress(**{name: secret})
        journal.figures(**{name: secret})
    text = local_files.read_bytes(f"runs/{journal.run_id}.json").decode()
    assert secret not in text
    assert _HF_TOKEN not in text
    stored = json.loads(text)["config"]
    assert stored["model"] == "m"
    assert stored["headers"] == {"deep": [{"kept": 1}]}
    assert stored["address"] == "ray://***@head:10001"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_tokens", 500_000),
        ("max_tokens", np.int64(5)),
        ("tokens_per_s", 8.5),
        ("special_token_ids", (0, 1)),
        ("tokenizer", "bpe"),
        ("keyboard", "x"),
        ("text", "hf:org/set"),
    ],
)
def test_counts_and_plain_names_are_kept(name: str, value: object) -> None:
    assert not is_secret(name, value)
    assert plain({name: value}) == {name: plain(value)}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_plain_values_stay_what_they_are(value: object) -> None:
    same = plain(value)
    json.dumps(same)
    assert repr(same) == repr(value) or "***" in repr(same)


def test_what_json_lacks_becomes_text(tmp_path: Path) -> None:
    assert plain({"path": tmp_path, "set": {3}, 4: b"x", "array": np.float32(0.5)}) == {
        "path": str(tmp_path),
        "set": [3],
        "4": "b'x'",
        "array": 0.5,
    }
    assert scrub("no secret in s3://bucket/prefix?x=1") == "no secret in s3://bucket/prefix?x=1"


def test_what_is_not_finite_is_stored_as_valid_json(local_files: Files) -> None:
    with start(local_files) as journal:
        journal.figures(loss=float("nan"))
    assert local_files.read_json(f"runs/{journal.run_id}.json")["figures"] == {"loss": None}
    assert read_runs(local_files)[0].status == "succeeded"


# ---------------------------------------------------------------------------------------------- lost

_RUN = """
import sys, threading
from raylens.store.files import Files
from raylens.store.runs import RunJournal
journal = RunJournal.start(Files.open(sys.argv[1]), "cache", {}, run_id="cache-dies")
print("running", flush=True)
threading.Event().wait()
"""


def test_a_killed_run_is_lost(local_files: Files) -> None:
    with subprocess.Popen([sys.executable, "-c", _RUN, local_files.url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        assert [run.status for run in read_runs(local_files)] == ["running"]
        with pytest.raises(BusyError, match=f"cache-dies is at work .*pid {process.pid}"):
            start(local_files, "cache-dies")
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert [run.status for run in read_runs(local_files)] == ["lost"]
    with start(local_files, "cache-dies"):  # the retry of a submitted job goes on under its id
        assert find_run(local_files, "cache-dies").status == "running"
    assert find_run(local_files, "cache-dies").status == "succeeded"


def test_who_watched_its_process_says_how_it_ended(files: Files) -> None:
    me = Process.current()
    left = leave_record(files, Process(me.host, me.machine, me.pid, "1"), run_id="cache-killed")
    at = left.started_at + timedelta(seconds=5)
    note_end(files, "cache-killed", RunEnd(status="failed", error="it was killed. hint: again.", at=at))
    note_end(files, "cache-killed", RunEnd(status="stopped", at=at))  # the first one stays
    for seen in (read_run(files, "cache-killed"), find_run(files, "cache-killed"), *read_runs(files)):
        assert seen is not None
        assert (seen.status, seen.error, seen.finished_at) == ("failed", "it was killed. hint: again.", at)
    assert len(read_runs(files)) == 1
    with start(files, "cache-killed"):  # a retry under its id is another one
        assert find_run(files, "cache-killed").status == "running"
    note_end(files, "cache-killed", RunEnd(status="failed", at=datetime.now(UTC)))
    assert find_run(files, "cache-killed").status == "succeeded"  # what it says itself counts for more
    remove_run(Workspace(files), "cache-killed")
    assert files.list("runs") == ()


def test_a_note_from_before_it_began_says_nothing(local_files: Files) -> None:
    me = Process.current()
    left = leave_record(local_files, Process(me.host, me.machine, me.pid, "1"), run_id="cache-1")
    note_end(local_files, "cache-1", RunEnd(status="failed", at=left.started_at - timedelta(seconds=1)))
    assert find_run(local_files, "cache-1").status == "lost"
    local_files.commit(end_path("cache-1"), b"{")
    assert find_run(local_files, "cache-1").status == "lost"


def test_an_older_record_is_read(local_files: Files) -> None:
    with start(local_files) as journal:
        pass
    kept = local_files.read_json(f"runs/{journal.run_id}.json")
    local_files.commit_json(f"runs/{journal.run_id}.json", {**kept, "status": "done"})
    assert find_run(local_files, journal.run_id).status == "succeeded"


def test_a_pid_used_again_does_not_bring_a_run_back(files: Files) -> None:
    me = Process.current()
    leave_record(files, Process(me.host, me.machine, me.pid, "1"))
    assert read_runs(files)[0].status == "lost"


def test_a_run_elsewhere_is_lost_when_silent() -> None:
    now = datetime.now(UTC)
    elsewhere = Process("node-7", "another machine", 1, "1")
    record = RunRecord(run_id="r", kind="cache", status="running", started_at=now, heartbeat_at=now, process=elsewhere)
    assert record.as_seen(now + timedelta(seconds=119)).status == "running"
    assert record.as_seen(now + timedelta(seconds=121)).status == "lost"
    done = record.model_copy(update={"status": "succeeded"})
    assert done.as_seen(now + timedelta(days=9)).status == "succeeded"


def test_processes_are_told_apart() -> None:
    me = Process.current()
    assert not me.is_gone()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        other = Process(me.host, me.machine, child.pid, started)
        assert not other.is_gone()
        assert Process(me.host, me.machine, child.pid, me.started + "0").is_gone()
        child.communicate(b"\n")
    assert other.is_gone()
    assert not Process(me.host, "another machine", child.pid, "1").is_gone()


def test_processes_are_told_apart_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    me = Process.current()
    monkeypatch.setattr(process, "_PROC", tmp_path)  # macOS, or a /proc that hides what others run
    assert not me.is_gone()
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert Process(me.host, me.machine, child.pid, "").is_gone()


# ---------------------------------------------------------------------------------------------- stop


def test_a_request_to_stop_reaches_the_run(files: Files) -> None:
    journal = start(files)
    assert not journal.stop_requested()
    assert request_stop(files, journal.run_id).status == "running"
    assert request_stop(files, journal.run_id).status == "running"
    assert stop_requested(files, journal.run_id)
    journal.beat()
    assert journal.stop_requested()
    journal.stopped()
    assert not stop_requested(files, journal.run_id)
    assert request_stop(files, journal.run_id).status == "stopped"
    assert not stop_requested(files, journal.run_id)
    assert [run.status for run in read_runs(files)] == ["stopped"]


def test_the_background_heartbeat_sees_the_request(local_files: Files) -> None:
    class Told(RunJournal):
        """A journal that tells when it has looked."""

        def beat(self) -> None:
            super().beat()
            if self.stop_requested():
                told.set()

    told = threading.Event()
    with Told.start(local_files, "cache", {}, beat_s=0.001) as journal:
        request_stop(local_files, journal.run_id)
        assert told.wait(30)


def test_runs_are_named_by_the_start_of_their_id(files: Files) -> None:
    with pytest.raises(UnknownNameError, match="unknown run 'x'") as caught:
        request_stop(files, "x")
    assert "there is no run yet" in caught.value.hint
    with start(files, "cache-2026-aa"), start(files, "cache-2026-ab"):
        assert find_run(files, "cache-2026-aa").run_id == "cache-2026-aa"
        assert find_run(files, "cache-2026-ab").run_id == "cache-2026-ab"
        with pytest.raises(UnknownNameError, match="begins 2 run ids"):
            find_run(files, "cache-2026")
        with pytest.raises(UnknownNameError, match="unknown run ''"):
            find_run(files, "")


def test_one_damaged_record_does_not_hide_the_others(local_files: Files, caplog: pytest.LogCaptureFixture) -> None:
    with start(local_files, "good"):
        pass
    local_files.commit("runs/bad.json", b'{"run_id": "bad"')
    assert [run.run_id for run in read_runs(local_files)] == ["good"]
    assert "bad.json is damaged" in caplog.text


def test_a_full_disk_does_not_hide_why_a_run_failed(on_small_disk: Callable[..., str]) -> None:
    printed = on_small_disk(
        """
        from raylens.errors import DiskFullError
        from raylens.store.files import Files
        from raylens.store.runs import RunJournal, read_runs

        files = Files.open(DISK)
        try:
            with RunJournal.start(files, "cache", {}, run_id="full", beat_s=3600):
                hoard = DISK / "hoard"
                try:
                    with hoard.open("wb", buffering=0) as file:
                        while True:
                            file.write(bytes(4096))
                except OSError:
                    pass
                files.commit("x", bytes(4096))
        except DiskFullError as error:
            print("full", end=" ")
        print(read_runs(files)[0].status)
        """
    )
    assert printed.split() == ["full", "running"]  # until its process is gone: then it reads lost
