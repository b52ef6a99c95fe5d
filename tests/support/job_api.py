"""The part of Ray's job API over HTTP that services use, with jobs that do what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ray


@dataclass
class JobApi:
    """What was given to it.

    Attributes:
        url: Of the dashboard.
        jobs: By submission id: what was sent, with ``status``, ``message`` and ``driver_exit_code``.
        stopped: Ids that were asked to stop.
        refuses: Whether it takes none, as a head without an agent.
    """

    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    refuses: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)

    def end(self, run_id: str, status: str, message: str = "", code: int | None = None) -> None:
        """Have a job end."""
        self.jobs[run_id] |= {"status": status, "message": message, "driver_exit_code": code}


@contextmanager
def job_api() -> Iterator[JobApi]:
    """Serve it on a free port."""
    api = JobApi()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = self.path.strip("/").split("/")
            if parts == ["api", "version"]:
                self._say({"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"})
            elif parts[1] == "packages":
                self._say({})
            elif parts[2] not in api.jobs:
                self._say({"error": f"Job {parts[2]} does not exist"}, 404)
            elif parts[-1] == "logs":
                self._say({"logs": api.jobs[parts[2]].get("logs", "")})
            else:
                self._say(
                    {"type": "SUBMISSION", "submission_id": parts[2], "entrypoint": "", **_plain(api.jobs[parts[2]])}
                )

        def do_POST(self) -> None:
            parts = self.path.strip("/").split("/")
            sent = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "{}")
            if parts[-1] == "stop" and parts[2] not in api.jobs:
                self._say({"error": f"Job {parts[2]} does not exist"}, 404)
                return
            if parts[-1] == "stop":
                api.stopped.append(parts[2])
                api.end(parts[2], "STOPPED")
                self._say({"stopped": True})
                return
            with api.guard:
                if api.refuses or sent["submission_id"] in api.jobs:
                    self._say({"error": "No available agent, or it already exists"}, 500)
                    return
                api.jobs[sent["submission_id"]] = {**sent, "status": "PENDING"}
            self._say({"job_id": sent["submission_id"], "submission_id": sent["submission_id"]})

        def _say(self, value: Any, status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _plain(job: dict[str, Any]) -> dict[str, Any]:
    kept = ("status", "message", "driver_exit_code", "entrypoint", "metadata", "runtime_env")
    return {name: job[name] for name in kept if name in job}
