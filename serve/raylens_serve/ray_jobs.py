"""Ray's job API, as services use it: jobs are given to the cluster under ids of ours, looked at, and stopped."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Mapping
from typing import Final

import ray
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from raylens.errors import InputError, OverloadedError
from raylens_serve.job_state import RayStatus, Seen

_STATUS: Final[dict[JobStatus, RayStatus]] = {
    JobStatus.PENDING: "pending",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "stopped",
}
_REFUSALS: Final = (RuntimeError, OSError, RayError)
"""What Ray's client raises: an answer that says no, none at all, or one that wants another token."""
_log = logging.getLogger(__name__)


class _Client(JobSubmissionClient):
    """Knows which cluster it talks to."""

    def session(self) -> str:
        """Name of the cluster's session."""
        return self._do_request("GET", "/api/version").json()["session_name"]


class RayJobs:
    """The jobs of one cluster; connects when it is first needed, and again after a failure.

    Args:
        address: Of the cluster; by default the one that this process is connected to.
        dashboard: URL of its dashboard; by default the cluster says so.
    """

    def __init__(self, address: str | None = None, dashboard: str | None = None) -> None:
        self._address, self._dashboard = address, dashboard
        self._client: _Client | None = None
        self._guard = threading.Lock()

    @property
    def address(self) -> str:
        """Of the cluster, for commands: ``auto`` might find another one of the machine.

        Raises:
            InputError: This process is connected to none.
        """
        if self._address is not None:
            return self._address
        if not ray.is_initialized():
            raise InputError("there is no Ray cluster to run this on.", hint="start the services: raylens serve up.")
        return ray.get_runtime_context().gcs_address

    def seen(self, run_id: str) -> Seen:
        """What the cluster says of a job."""
        try:
            found = self._connected().get_job_info(run_id)
        except RuntimeError as error:
            return Seen("unknown" if "status code 404" in str(error) else "unreachable", str(error))
        except (OSError, RayError, OverloadedError, InputError) as error:
            with self._guard:
                self._client = None  # the dashboard may be elsewhere after a restart
            return Seen("unreachable", str(error))
        return Seen(_STATUS[found.status], found.message or "", found.driver_exit_code)

    def give(self, run_id: str, kind: str, entrypoint: str, environment: Mapping[str, str]) -> None:
        """Have a shell run a line, on the head, in an empty folder; the cluster takes each id once.

        Args:
            run_id: Of the job.
            kind: For people who look at the dashboard.
            entrypoint: The line.
            environment: Of the job, its tasks and its actors, over what the cluster was started with.

        Raises:
            OverloadedError: The cluster does not take it, or does not answer.
        """
        seen = self.seen(run_id)
        if seen.status == "unreachable":
            raise no_answer()
        if seen.status != "unknown":
            return
        try:
            # The folder is empty, and so is what Ray makes of it on each node: nothing a client wrote can name a file.
            with tempfile.TemporaryDirectory(prefix="raylens-job-") as empty:
                self._connected().submit_job(
                    entrypoint=entrypoint,
                    submission_id=run_id,
                    metadata={"raylens": kind},
                    runtime_env={"working_dir": empty, "env_vars": dict(environment)},
                )
        except _REFUSALS as error:
            if self.seen(run_id).status not in ("unknown", "unreachable"):
                return  # another gateway gave it in this moment
            _log.warning("Ray did not take %s: %s", run_id, str(error).strip().rpartition("\n")[2][:500])
            raise no_answer() from error

    def stop(self, run_id: str) -> bool:
        """End a job as ``RAY_JOB_STOP_SIGNAL`` of its environment says; False where the cluster does not know it.

        Raises:
            OverloadedError: The cluster does not answer.
        """
        try:
            self._connected().stop_job(run_id)
        except _REFUSALS as error:
            if self.seen(run_id).status == "unknown":
                return False
            raise no_answer() from error
        return True

    def logs(self, run_id: str) -> list[str] | None:
        """The lines that a job has written so far; None where the cluster does not know it, or does not answer."""
        try:
            return self._connected().get_job_logs(run_id).splitlines()
        except (*_REFUSALS, OverloadedError, InputError):
            return None

    def _connected(self) -> _Client:
        with self._guard:
            if self._client is None:
                client = _Client(self._dashboard or self.address)
                # A Ray without a dashboard names the address where one would be: another Ray's may be there.
                if self._dashboard is None and self._address is None and client.session() != _own_session():
                    raise no_answer()
                self._client = client
            return self._client


def no_answer() -> OverloadedError:
    """The cluster does not take jobs."""
    return OverloadedError(
        "the Ray cluster does not take jobs right now.",
        hint="its dashboard and the dashboard's agent on the head node must run; see dashboard_agent.log.",
    )


def _own_session() -> str:
    return ray.get_runtime_context().get_session_name()
