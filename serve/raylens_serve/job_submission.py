"""Starting work: a command line, given to Ray as a job (``ray job submit``), and followed.

Services import no job. What was asked for is written into the workspace first (:mod:`raylens_serve.job_records`), and
Ray is given the job under the same id: whoever comes after a crash finds it, and who asks for the same thing while it
is under way gets the run that there is.

A job's process starts in an empty folder and without the services' token. It takes no cores itself: what it starts
waits for Ray's, so that several jobs share a machine, and no more of them are taken than its memory holds.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from raylens.errors import InputError, OverloadedError, UnknownNameError
from raylens.ids import digest
from raylens.net.api_token import VARIABLE as TOKEN_VARIABLE
from raylens.store.base_dir import VARIABLE as BASE_VARIABLE
from raylens.store.base_dir import base_dir
from raylens.store.redact import plain_settings
from raylens.store.run_ends import RunEnd, note_end
from raylens.store.runs import read_run, request_stop
from raylens.store.workspace import Workspace
from raylens_serve.job_records import JobEnd, JobRecord, JobRecords, Kind, Step, run_id_of
from raylens_serve.job_state import JobState, judge
from raylens_serve.ray_jobs import RayJobs, no_answer

MOST: Final = 4
"""Jobs under way in a workspace: each is a process of half a GB even while it waits for cores."""

_STOP_WAIT_S: Final = 30
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that was asked for.

    Attributes:
        run_id: Its id, in the workspace and at Ray.
        was_under_way: The same had been asked for before, and has not ended.
    """

    run_id: str
    was_under_way: bool


class Jobs:
    """The jobs of one workspace; another object, in another process, finds the same ones.

    Args:
        workspace: Whose.
        base: Base directory of paths in requests (A2.16); by default ``RAYLENS_BASE_DIR``, else the current folder.
        address: Of the Ray cluster; by default the one that this process is connected to.
        dashboard: URL of its dashboard, where jobs are given to it; by default the cluster says so.
        python: The interpreter that runs commands, on the cluster's head.
        most: Jobs under way at a time.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        base: Path | None = None,
        address: str | None = None,
        dashboard: str | None = None,
        python: str = sys.executable,
        most: int = MOST,
    ) -> None:
        self._workspace, self._records = workspace, JobRecords(workspace.files)
        self._ray = RayJobs(address, dashboard)
        self._base, self._python, self._most = base, python, most

    @property
    def base(self) -> Path:
        """What paths in requests lie inside of.

        Raises:
            InputError: It is no folder.
        """
        return base_dir(self._base)

    def submit(
        self,
        kind: Kind,
        words: Sequence[str],
        *,
        then: Sequence[str] | None = None,
        key: str | None = None,
        asked: Mapping[str, object] | None = None,
    ) -> Submitted:
        """Have a command run, unless it is under way.

        Args:
            kind: What it is.
            words: Of the command line, after ``raylens --workspace URL``. ``--run-id``, ``--address`` and ``--json``
                are added, which the command must take.
            then: Of another one, which runs if the first goes well.
            key: What makes two requests the same; by default the words.
            asked: What the client asked for, for the record.

        Raises:
            InputError: A word cannot be part of a command line, or there is no cluster.
            OverloadedError: Too many are under way, or the cluster does not take it; nothing was started.
        """
        commands = [tuple(words), *([tuple(then)] if then else [])]
        for word in (word for command in commands for word in command):
            if _CONTROL.search(word):
                raise InputError(f"{word!r} holds a control character.", hint="leave it out.")
        address = self._ray.address
        key = key if key is not None else digest({"commands": commands})
        number = self._records.last(kind, key)
        while True:
            before = self.find(run_id_of(kind, key, number)) if number else None
            if before is not None and before.is_under_way:
                self._give(before.record, address)
                return Submitted(before.record.run_id, was_under_way=True)
            self._require_room()
            run_id = run_id_of(kind, key, number + 1)
            record = JobRecord(
                run_id=run_id,
                kind=kind,
                steps=tuple(
                    Step(run_id=f"{run_id}-{command[0]}" if at else run_id, words=command)
                    for at, command in enumerate(commands)
                ),
                asked=plain_settings(asked or {}),
                submitted_at=datetime.now(UTC),
            )
            if self._ray.seen(run_id).status == "unreachable":
                raise no_answer()
            if self._records.claim(record):
                self._give(record, address)
                return Submitted(run_id, was_under_way=False)
            number += 1  # somebody else asked for the same in this moment

    def find(self, run_id: str) -> JobState | None:
        """How a job stands; None where that id is of no job."""
        record = self._records.find(run_id)
        return self._state(record) if record is not None else None

    def status(self, run_id: str) -> JobState:
        """As :meth:`find`.

        Raises:
            UnknownNameError: That id is of no job.
        """
        state = self.find(run_id)
        if state is None:
            raise UnknownNameError(f"there is no job {run_id!r}.", hint="GET /api/v1/runs lists runs.")
        return state

    def all(self) -> list[JobState]:
        """Every job, in no order."""
        return [self._state(record) for record in self._records.all()]

    def logs(self, run_id: str) -> list[str]:
        """The lines that a job has written so far.

        Raises:
            UnknownNameError: There is no such job, or the cluster that ran it is gone, and its log with it.
        """
        self.status(run_id)
        lines = self._ray.logs(run_id)
        if lines is None:
            raise UnknownNameError(
                f"there is no log of {run_id}.", hint="logs are kept by the Ray cluster, as long as it runs."
            )
        return lines

    def stop(self, run_id: str, *, now: bool = False) -> JobState:
        """Ask a job to end: at the next piece of work, or where it has not begun or ``now`` is set, as by Ctrl-C.

        Raises:
            UnknownNameError: There is no such job.
            OverloadedError: The cluster does not answer.
        """
        state = self.status(run_id)
        if not state.is_under_way:
            return state
        at_work = [one for one in state.begun if one.status == "running"]
        for journal in at_work:
            request_stop(self._workspace.files, journal.run_id)
        if (now or not at_work) and not self._ray.stop(run_id):
            # It never came to the cluster, and shall not.
            self._records.put_end(run_id, JobEnd(status="stopped", at=datetime.now(UTC)))
        return self.status(run_id)

    def _state(self, record: JobRecord) -> JobState:
        now, end = datetime.now(UTC), self._records.end_of(record.run_id)
        state = judge(record, self._journals(record), end, None, now)
        if state is None:
            # Asked first, then read again: a run writes how it went before its process ends.
            seen = self._ray.seen(record.run_id)
            state = judge(record, self._journals(record), end, seen, now)
            assert state is not None
        if state.status != "queued" and state.status != "running":
            if end is None:
                # What its runs write later still counts for more.
                end = JobEnd(status=state.status, error=state.error, hint=state.hint, at=now)
                self._records.put_end(record.run_id, end)
            self._tell(state, end)
        return state

    def _tell(self, state: JobState, end: JobEnd) -> None:
        """Note the end of a job beside its run's record, where that says ``running`` for ever: it was killed."""
        last = state.begun[-1] if state.begun else None
        if last is None or end.status == "lost" or last.status not in ("running", "lost"):
            return
        error = f"{end.error} hint: {end.hint}" if end.error else None
        note_end(self._workspace.files, last.run_id, RunEnd(status=end.status, error=error, at=end.at))

    def _journals(self, record: JobRecord) -> list[Any]:
        return [read_run(self._workspace.files, step.run_id) for step in record.steps]

    def _require_room(self) -> None:
        under_way = [state for record in self._records.open() if (state := self._state(record)).is_under_way]
        if len(under_way) >= self._most:
            raise OverloadedError(
                f"{len(under_way)} runs are under way already.",
                hint="wait until one has ended, or stop one: POST /api/v1/runs/RUN/stop.",
            )

    def _give(self, record: JobRecord, address: str) -> None:
        self._ray.give(record.run_id, record.kind, self._entrypoint(record, address), self._environment())

    def _entrypoint(self, record: JobRecord, address: str) -> str:
        """One line for a shell. The last command takes the shell's place, so that its exit code is the job's."""
        common = (self._python, "-m", "raylens", f"--workspace={self._workspace.url}")
        lines = [
            shlex.join((*common, *step.words, f"--run-id={step.run_id}", f"--address={address}", "--json"))
            for step in record.steps
        ]
        return " && ".join([*lines[:-1], f"exec {lines[-1]}"])

    def _environment(self) -> dict[str, str]:
        """Of the job, its tasks and its actors, over what the cluster was started with."""
        return {
            TOKEN_VARIABLE: "",
            BASE_VARIABLE: str(self.base),
            "NO_COLOR": "1",
            # Read by Ray's supervisor of the job: a run that is stopped as by Ctrl-C says so, and keeps what is done.
            "RAY_JOB_STOP_SIGNAL": "SIGINT",
            "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S),
        }
