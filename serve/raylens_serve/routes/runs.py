"""``/api/v1/runs``: everything that is or was under way in the workspace; and ``/api/v1/explain``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable
from datetime import UTC, datetime
from typing import Annotated, Final

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query
from fastapi.sse import EventSourceResponse

from raylens.api.runs import (
    MOST_LINES,
    ExplainRequest,
    RunId,
    RunLog,
    RunOut,
    RunPage,
    RunRow,
    RunStatus,
    Started,
)
from raylens.errors import RaylensError, UnknownNameError
from raylens.store.runs import read_run, read_runs, request_stop
from raylens.store.workspace import Workspace
from raylens_serve.commands import LanguageModels, explain_words
from raylens_serve.job_submission import Jobs, Submitted
from raylens_serve.responses import problems
from raylens_serve.run_views import of_job, of_run

POLL_S: Final = 1.0
"""Between two looks at a run that is followed; runs write how far they are every few seconds."""
FOLLOWED_S: Final = 3600.0
"""After which a client asks again."""

_Id = Annotated[RunId, Path(description="Of a run.")]
_Offset = Annotated[int, Query(ge=0, le=2**31 - 1, description="Runs to pass over.")]


def run_routes(workspace: Workspace, jobs: Jobs, models: LanguageModels | None = None) -> APIRouter:
    """The routes.

    Args:
        workspace: Whose runs.
        jobs: Starts some of them.
        models: Language models that requests may name; none by default.
    """
    routes = APIRouter(prefix="/api/v1", tags=["runs"])
    files = workspace.files

    def one(run_id: str) -> RunOut:
        job = jobs.find(run_id)
        if job is not None:
            return of_job(job)
        run = read_run(files, run_id)
        if run is None:
            raise UnknownNameError(f"there is no run {run_id!r}.", hint="GET /api/v1/runs lists them.")
        return of_run(run)

    def is_there(run_id: _Id) -> RunRow:
        return _row(one(run_id))

    there = Depends(is_there)  # before the stream begins: a run that is not there is refused as everywhere

    @routes.get("/runs", responses=problems())
    def runs(
        status: Annotated[RunStatus | None, Query(description="Only those that stand so.")] = None,
        kind: Annotated[str | None, Query(max_length=100, description="Only those of this kind.")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="Runs at most.")] = 50,
        offset: _Offset = 0,
    ) -> RunPage:
        """Runs of the workspace, whoever started them, the one that began last first."""
        submitted = jobs.all()
        steps = {step.run_id for job in submitted for step in job.record.steps}
        found = [of_job(job) for job in submitted]
        found += [of_run(run) for run in read_runs(files) if run.run_id not in steps]
        found = [row for row in found if (status is None or row.status == status) and kind in (None, row.kind)]
        found.sort(key=_began, reverse=True)
        rows = tuple(map(_row, found[offset : offset + limit]))
        following = offset + len(rows)
        return RunPage(
            runs=rows,
            total=len(found),
            offset=offset,
            next_offset=following if rows and following < len(found) else None,
        )

    @routes.get("/runs/{run_id}", responses=problems(404))
    def run(run_id: _Id) -> RunOut:
        """A run: how it stands, how far it is, and what it was told."""
        return one(run_id)

    @routes.get("/runs/{run_id}/log", responses=problems(404))
    def log(
        run_id: _Id, tail: Annotated[int, Query(ge=1, le=MOST_LINES, description="Lines, the last ones.")] = 200
    ) -> RunLog:
        """What a run that was started over HTTP has written; the Ray cluster keeps it as long as it is up."""
        if one(run_id).submitted_at is None:
            raise UnknownNameError(
                f"there is no log of {run_id}.", hint="it was started on a command line, and wrote to that terminal."
            )
        lines = jobs.logs(run_id)
        return RunLog(run_id=run_id, lines=tuple(lines[-tail:]), n_lines=len(lines))

    @routes.post("/runs/{run_id}/stop", responses=problems(404), status_code=202)
    def stop(
        run_id: _Id,
        now: Annotated[bool, Query(description="As by Ctrl-C, and not at the next piece of work.")] = False,
    ) -> RunOut:
        """Ask a run to end; what it has done is kept, and the same request goes on from there."""
        if jobs.find(run_id) is not None:
            return of_job(jobs.stop(run_id, now=now))
        one(run_id)
        request_stop(files, run_id)
        return one(run_id)

    @routes.get("/runs/{run_id}/events", response_class=EventSourceResponse, responses=problems(404))
    async def events(first: RunRow = there) -> AsyncIterable[RunRow]:
        """A run as it goes on, by server-sent events: once now, and each time that something changed, to its end."""
        shown, until = first, time.monotonic() + FOLLOWED_S
        yield shown
        while not shown.has_ended and time.monotonic() < until:
            await anyio.sleep(POLL_S)
            try:
                current = await to_thread.run_sync(is_there, shown.run_id)
            except RaylensError:
                return  # it was removed, or cannot be read for a moment: the client asks again and is told
            if current != shown:
                shown = current
                yield shown

    @routes.post("/explain", responses=problems(404), status_code=202)
    def explain(asked: ExplainRequest) -> Started:
        """Queue features for explanation and scoring; `lexical` with `rule` and `embedding` asks nobody."""
        words = explain_words(asked, workspace, models or {})
        return started(jobs.submit("explain", words.explain, then=words.score, asked=asked.model_dump(mode="json")))

    return routes


def started(submitted: Submitted) -> Started:
    """What is answered of a job that was asked for."""
    return Started(
        run_id=submitted.run_id,
        status_url=f"/api/v1/runs/{submitted.run_id}",
        was_under_way=submitted.was_under_way,
    )


def _row(run: RunOut) -> RunRow:
    """Without what is too much for a list."""
    return RunRow.model_validate(run.model_dump())


def _began(row: RunRow) -> tuple[datetime, str]:
    return (row.submitted_at or row.started_at or datetime.min.replace(tzinfo=UTC), row.run_id)
