"""The lock: one holder at a time, whoever dies, pauses or races, on a disk and in an object store."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylens.errors import BusyError, DiskFullError, StoppedError
from raylens.store.files import Files
from raylens.store.heartbeat import Heartbeat
from raylens.store.lock import Claim, Lock, acquire, holder
from raylens.store.process import Process

_NEVER_S = 3600.0


def take(files: Files, owner: str, *, stale_s: float = 60.0, beat_s: float = _NEVER_S) -> Lock:
    return acquire(files, "lock", owner, what="cache 12ab", stale_s=stale_s, beat_s=beat_s)


def claim_of(files: Files, token: int) -> Claim:
    return Claim.model_validate_json(files.read_bytes(f"lock/{token:012d}.json"))


def leave_claim(files: Files, process: Process, *, silent_s: float = 0.0, token: int = 1) -> None:
    """A claim as another process would have left it."""
    then = datetime.now(UTC) - timedelta(seconds=silent_s)
    claim = Claim(owner="run-of-old", nonce="n", process=process, taken_at=then, heartbeat_at=then)
    files.commit(f"lock/{token:012d}.json", claim.model_dump_json().encode())


def elsewhere() -> Process:
    return Process("node-7", "another machine", os.getpid(), Process.current().started)


def test_one_holder_at_a_time_and_tokens_go_up(files: Files) -> None:
    with take(files, "run-1") as first:
        assert first.token == 1
        assert first.still_mine()
        with pytest.raises(BusyError) as caught:
            take(files, "run-2")
        assert "cache 12ab is being written by run run-1" in caught.value.message
        assert f"pid {os.getpid()}" in caught.value.message
        assert Process.current().host in caught.value.message
        assert "raylens stop run-1" in caught.value.hint
        held = holder(files, "lock")
        assert held is not None
        assert held.owner == "run-1"
    assert holder(files, "lock") is None
    assert not first.still_mine() or claim_of(files, 1).released
    with take(files, "run-2") as second:
        assert second.token == 2
        assert files.list("lock") == ("lock/000000000002.json",)
        assert not first.still_mine()


def test_an_error_frees_the_lock(files: Files) -> None:
    with pytest.raises(ValueError), take(files, "run-1"):
        raise ValueError
    take(files, "run-2").release()


_HOLDER = """
import sys, threading
from raylens.store.files import Files
from raylens.store.lock import acquire
lock = acquire(Files.open(sys.argv[1]), "lock", "run-to-die", what="cache 12ab")
print("held", flush=True)
threading.Event().wait()
"""


def test_a_killed_holder_is_followed_at_once(files: Files) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLDER, files.url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=f"run run-to-die .*pid {process.pid}"):
            take(files, "run-2")
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie, not reaped yet, is dead too
        with take(files, "run-2") as lock:
            assert lock.token == 2


def test_a_pid_used_again_does_not_keep_the_lock(files: Files) -> None:
    me = Process.current()
    leave_claim(files, Process(me.host, me.machine, me.pid, "1"))
    with take(files, "run-2") as lock:
        assert lock.token == 2


def test_another_machine_is_judged_by_its_heartbeat(files: Files) -> None:
    leave_claim(files, elsewhere(), silent_s=50)
    with pytest.raises(BusyError, match="host node-7"):
        take(files, "run-2")
    leave_claim(files, elsewhere(), silent_s=70)
    take(files, "run-2").release()


def test_clocks_ahead_do_not_free_a_lock(files: Files) -> None:
    leave_claim(files, elsewhere(), silent_s=-30)
    with pytest.raises(BusyError):
        take(files, "run-2")


def test_a_paused_holder_finds_out_and_harms_nothing(files: Files) -> None:
    paused = take(files, "run-1")
    with take(files, "run-2", stale_s=0.0) as second:
        assert not paused.still_mine()
        with pytest.raises(StoppedError, match="cache 12ab was taken over"):
            paused.require()
        paused.beat()
        paused.release()
        assert second.still_mine()
        second.require()
        assert files.list("lock") == ("lock/000000000002.json",)


def test_a_zombies_late_write_does_not_free_or_steal_the_lock(files: Files) -> None:
    leave_claim(files, elsewhere(), silent_s=70)
    with take(files, "run-2") as second:
        leave_claim(files, elsewhere())  # between its own check and its write the zombie was passed by
        assert second.still_mine()
        with pytest.raises(BusyError, match="run-2"):
            take(files, "run-3")
    with take(files, "run-3") as third:
        assert third.token == 3
        assert files.list("lock") == ("lock/000000000003.json",)


def test_a_claim_that_is_not_whole_is_judged_by_its_age(local_files: Files) -> None:
    local_files.commit("lock/000000000001.json", b"")
    with pytest.raises(BusyError, match="run unknown"):
        take(local_files, "run-2")
    old = datetime.now(UTC).timestamp() - 70
    os.utime(Path(local_files.url) / "lock/000000000001.json", (old, old))
    take(local_files, "run-2").release()


def test_a_lost_answer_does_not_cost_the_lock(s3_url: str, s3_wire: Any) -> None:
    files = Files.open(s3_url)
    s3_wire.lose_answer_to = "PUT"  # the claim is stored; the retry is told that it exists
    with take(files, "run-1") as lock:
        assert s3_wire.lose_answer_to is None
        assert lock.still_mine()


# ------------------------------------------------------------------------------------------ heartbeat


class Watched(Files):
    """Files that tell when something was committed."""

    def __init__(self, url: str | Path) -> None:
        super().__init__(url)
        self.committed = threading.Semaphore(0)

    def commit(self, rel: str, data: bytes | Path) -> None:
        super().commit(rel, data)
        self.committed.release()


def test_the_heartbeat_renews_the_claim(store_url: str) -> None:
    files = Watched(store_url)
    with take(files, "run-1", beat_s=0.001):
        first = claim_of(files, 1)
        for _ in range(2):
            assert files.committed.acquire(timeout=30)
        assert claim_of(files, 1).heartbeat_at > first.heartbeat_at
        assert claim_of(files, 1).taken_at == first.taken_at
    assert claim_of(files, 1).released


def test_a_heartbeat_that_fails_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = [OSError("no route"), DiskFullError("full.", hint="free some.")]
    beaten = threading.Event()

    def beat() -> None:
        if errors:
            raise errors.pop()
        beaten.set()

    heartbeat = Heartbeat(beat, 0.001, "lock of a test")
    assert beaten.wait(30)
    heartbeat.stop()
    assert [record.message for record in caplog.records] == [
        "lock of a test: a heartbeat failed: full. hint: free some.",
        "lock of a test: a heartbeat failed: no route",
    ]


# -------------------------------------------------------------------------------------------- racing


def test_of_all_who_take_over_a_dead_lock_one_wins(files: Files) -> None:
    me = Process.current()
    for turn in range(3):
        leave_claim(files, Process(me.host, me.machine, me.pid, "1"), token=10 * (turn + 1))
        barrier = threading.Barrier(5)

        def contend(who: int, barrier: threading.Barrier = barrier) -> Lock | None:
            barrier.wait()
            try:
                return take(files, f"run-{who}")
            except BusyError:
                return None

        with ThreadPoolExecutor(5) as pool:
            held = [lock for lock in pool.map(contend, range(5)) if lock]
        assert len(held) == 1
        assert held[0].token == 10 * (turn + 1) + 1
        held[0].release()


class Turns:
    """Runs works in threads, one file operation at a time, in a given order of picks among those that could go on."""

    def __init__(self, picks: list[int]) -> None:
        self._picks = iter(picks)
        self._changed = threading.Condition()
        self._local = threading.local()
        self._alive: set[int] = set()
        self._waiting: set[int] = set()

    def wait(self) -> None:
        """Called before each operation: returns when it may run."""
        me = getattr(self._local, "me", None)
        if me is None:  # not one of the works: a look from outside
            return
        with self._changed:
            self._waiting.add(me)
            self._changed.notify_all()
            self._changed.wait_for(lambda: me not in self._waiting)

    def run(self, works: list[Callable[[], None]]) -> None:
        """Run all to their end; raises what the first of them raised."""
        self._alive = set(range(len(works)))

        def body(me: int) -> None:
            self._local.me = me
            try:
                self.wait()
                works[me]()
            finally:
                with self._changed:
                    self._alive.discard(me)
                    self._changed.notify_all()

        with ThreadPoolExecutor(len(works)) as pool:
            futures = [pool.submit(body, me) for me in range(len(works))]
            with self._changed:
                while self._alive:
                    self._changed.wait_for(lambda: self._alive == self._waiting)
                    if ready := sorted(self._waiting):
                        self._waiting.discard(ready[next(self._picks, 0) % len(ready)])
                        self._changed.notify_all()
            for future in futures:
                future.result()


class TurnedFiles(Files):
    """Files each of whose operations waits for its turn."""

    turns: Turns

    def commit(self, rel: str, data: bytes | Path) -> None:
        self.turns.wait()
        super().commit(rel, data)

    def commit_if_absent(self, rel: str, data: bytes) -> bool:
        self.turns.wait()
        return super().commit_if_absent(rel, data)

    def read_bytes(self, rel: str) -> bytes:
        self.turns.wait()
        return super().read_bytes(rel)

    def list(self, folder: str = "") -> tuple[str, ...]:
        self.turns.wait()
        return super().list(folder)

    def delete(self, rel: str, *, recursive: bool = False) -> None:
        self.turns.wait()
        super().delete(rel, recursive=recursive)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(picks=st.lists(st.integers(0, 2), max_size=90))
def test_in_no_order_of_operations_do_two_hold_it(tmp_path: Path, picks: list[int]) -> None:
    """Three contenders, each two times, on a lock whose holder died: whatever interleaving hypothesis picks."""
    files = TurnedFiles(tmp_path / secrets.token_hex(8))
    files.turns = turns = Turns(picks)
    me = Process.current()
    leave_claim(files, Process(me.host, me.machine, me.pid, "1"), token=3)
    inside: list[str] = []
    tokens: list[int] = []

    def contend(who: str) -> Callable[[], None]:
        def work() -> None:
            for _ in range(2):
                try:
                    lock = take(files, who)
                except BusyError:
                    continue
                inside.append(who)
                assert inside == [who], f"{inside} hold the lock together"
                tokens.append(lock.token)
                assert lock.still_mine()
                inside.remove(who)
                lock.release()

        return work

    turns.run([contend(f"run-{one}") for one in range(3)])
    assert tokens
    assert tokens == sorted(set(tokens))
