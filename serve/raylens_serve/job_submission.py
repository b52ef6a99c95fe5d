"""Starting work: a command line, given to Ray as a job (``ray job submit``), and followed.

Services import no job. What was asked for is written into the workspace first (:mod:`raylens_serve.job_records`), and
Ray is given the job under the same id: whoever comes after a crash finds it, and who asks for the same thing while it
is under way gets the run that there is.

A job's process starts in an empty folder and without the services' token. It takes no cores itself: what it starts
waits for Ray's, so that several jobs share a machine, and no more of them are taken than its memory holds.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from raylens.errors import InputError, OverloadedError, UnknownNameError
from raylens.ids import digest
from raylens.net.api_token import VARIABLE as TOKEN_VARIABLE
from raylens.store.base_dir import VARIABLE as BASE_VARIABLE
from raylens.store.base_dir import base_dir
from raylens.store.redact import plain_settings
from raylens.store.runs import read_run, request_stop
from raylens.store.workspace import Workspace
from raylens_serve.job_records import JobEnd, JobRecord, JobRecords, Kind, Step, run_id_of
from raylens_serve.job_state import JobState, RayStatus, Seen, judge

MOST: Final = 4
"""Jobs under way in a workspace: each is a process of half a GB even while it waits for cores."""

_STATUS: Final[dict[JobStatus, RayStatus]] = {
    JobStatus.PENDING: "pending",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "stopped",
}
_STOP_WAIT_S: Final = 30
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_log = logging.getLogger(__name__)


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
        self._base, self._address, self._dashboard, self._python = base, address, dashboard, python
        self._most = most
        self._client: JobSubmissionClient | None = None
        self._guard = threading.Lock()

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
        address = self._cluster()
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
            if self._seen(run_id).status == "unreachable":
                raise self._no_answer()
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
        try:
            return self._ray().get_job_logs(run_id).splitlines()
        except (RuntimeError, OSError) as error:
            raise UnknownNameError(
                f"there is no log of {run_id}.", hint="logs are kept by the Ray cluster, as long as it runs."
            ) from error

    def stop(self, run_id: str, *, now: bool = False) -> JobState:
        """Ask a job to end: at the next piece of work, or where it has not begun or ``now`` is set, as by Ctrl-C.

        Raises:
            UnknownNameError: There is no such job.
        """
        state = self.status(run_id)
        if not state.is_under_way:
            return state
        at_work = [one for one in state.begun if one.status == "running"]
        for journal in at_work:
            request_stop(self._workspace.files, journal.run_id)
        if now or not at_work:
            self._stop_process(run_id)
        return self.status(run_id)

    def _stop_process(self, run_id: str) -> None:
        try:
            self._ray().stop_job(run_id)
        except (RuntimeError, OSError) as error:
            if self._seen(run_id).status == "unknown":  # it never came to the cluster, and shall not
                self._records.put_end(run_id, JobEnd(status="stopped", at=datetime.now(UTC)))
                return
            raise self._no_answer() from error

    def _state(self, record: JobRecord) -> JobState:
        now, end = datetime.now(UTC), self._records.end_of(record.run_id)
        state = judge(record, self._journals(record), end, None, now)
        if state is None:
            # Asked first, then read again: a run writes how it went before its process ends.
            seen = self._seen(record.run_id)
            state = judge(record, self._journals(record), end, seen, now)
            assert state is not None
        if end is None and (state.status == "succeeded" or state.status == "failed" or state.status == "stopped"):
            self._records.put_end(
                record.run_id, JobEnd(status=state.status, error=state.error, hint=state.hint, at=now)
            )
        return state

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
        """Give a job to Ray, which takes each id once."""
        seen = self._seen(record.run_id)
        if seen.status == "unreachable":
            raise self._no_answer()
        if seen.status != "unknown":
            return
        try:
            # The folder is empty, and so is what Ray makes of it on each node: nothing a client wrote can name a file.
            with tempfile.TemporaryDirectory(prefix="raylens-job-") as empty:
                self._ray().submit_job(
                    entrypoint=self._entrypoint(record, address),
                    submission_id=record.run_id,
                    metadata={"raylens": record.kind},
                    runtime_env={"working_dir": empty, "env_vars": self._environment()},
                )
        except (RuntimeError, OSError) as error:
            if self._seen(record.run_id).status not in ("unknown", "unreachable"):
                return  # another gateway gave it in this moment
            _log.warning("Ray did not take %s: %s", record.run_id, str(error).strip().rpartition("\n")[2][:500])
            raise self._no_answer() from error

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

    def _seen(self, run_id: str) -> Seen:
        try:
            found = self._ray().get_job_info(run_id)
        except RuntimeError as error:
            return Seen("unknown" if "status code 404" in str(error) else "unreachable", str(error))
        except (OSError, OverloadedError, InputError) as error:
            with self._guard:
                self._client = None  # the dashboard may be elsewhere after a restart
            return Seen("unreachable", str(error))
        return Seen(_STATUS[found.status], found.message or "", found.driver_exit_code)

    def _cluster(self) -> str:
        """Address of the cluster, for commands: ``auto`` might find another one of the machine."""
        if self._address is not None:
            return self._address
        if not ray.is_initialized():
            raise InputError("there is no Ray cluster to run this on.", hint="start the services: raylens serve up.")
        return ray.get_runtime_context().gcs_address

    def _ray(self) -> JobSubmissionClient:
        with self._guard:
            if self._client is None:
                self._client = JobSubmissionClient(self._dashboard or self._cluster())
            return self._client

    def _no_answer(self) -> OverloadedError:
        return OverloadedError(
            "the Ray cluster does not take jobs right now.",
            hint="its dashboard and the dashboard's agent on the head node must run; see dashboard_agent.log.",
        )
