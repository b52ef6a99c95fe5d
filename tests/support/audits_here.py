"""The routes of audits and runs over a real workspace, behind the guard; jobs go to a stand-in of Ray's job API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from job_api import JobApi, job_api
from raylens.llm.settings import ChatSettings
from raylens.store.workspace import Workspace
from raylens_serve import problems
from raylens_serve.guard import Guard
from raylens_serve.job_submission import Jobs
from raylens_serve.routes.audits import audit_routes
from raylens_serve.routes.runs import run_routes
from raylens_serve.settings import Limits

TOKEN = "a-token-of-more-than-sixteen-characters"


@dataclass(frozen=True)
class Here:
    """Routes that answer.

    Attributes:
        http: Asks them, with the token.
        workspace: What they show.
        base: Base directory of paths.
        api: What jobs were given to.
    """

    http: TestClient
    workspace: Workspace
    base: Path
    api: JobApi

    def get(self, path: str, status: int = 200, /, **params: Any) -> Any:
        """What is answered, as JSON."""
        answer = self.http.get(f"/api/v1{path}", params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, status: int = 202, /, *, body: Any = None, **params: Any) -> Any:
        """Likewise, of a request."""
        answer = self.http.post(f"/api/v1{path}", json=body, params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    def words(self, run_id: str) -> str:
        """The command line that was given to Ray."""
        return self.api.jobs[run_id]["entrypoint"]


def audit_app(workspace: Workspace, jobs: Jobs, models: dict[str, ChatSettings] | None = None) -> FastAPI:
    """An application of these routes alone."""
    app = FastAPI()
    problems.install(app)
    app.include_router(audit_routes(workspace, jobs))
    app.include_router(run_routes(workspace, jobs, models))
    app.add_middleware(Guard, token=TOKEN, limits=Limits())
    return app


def client_of(app: FastAPI) -> TestClient:
    """Asks an application in this process, with the token."""
    return TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False)


@contextmanager
def audits_here(folder: Path, models: dict[str, ChatSettings] | None = None) -> Iterator[Here]:
    """Serve the workspace and the base directory in ``folder``, which are made where they are missing."""
    workspace, base = Workspace.open(folder / "workspace", create=True), folder / "base"
    base.mkdir(exist_ok=True)
    with job_api() as api:
        jobs = Jobs(workspace, base=base, address="10.0.0.1:6379", dashboard=api.url)
        with client_of(audit_app(workspace, jobs, models)) as http:
            yield Here(http, workspace, base, api)
