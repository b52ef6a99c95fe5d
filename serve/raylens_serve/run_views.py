"""Runs as they are shown over HTTP: those of the command line, and submitted jobs, which may have several steps."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from raylens.api.runs import RunOut
from raylens.store.runs import RunRecord
from raylens_serve.job_state import JobState, progress_of, split_error


def of_run(run: RunRecord) -> RunOut:
    """A run of the command line."""
    error, hint = split_error(run.error) if run.error else (None, "")
    return RunOut(
        run_id=run.run_id,
        kind=run.kind,
        status=run.status,
        started_at=run.started_at,
        finished_at=_ended(run),
        cache_id=run.cache_id,
        progress=progress_of(run),
        error=error,
        hint=hint,
        result=_result(run.kind, run.figures),
        asked=run.config,
        figures=run.figures,
    )


def of_job(job: JobState) -> RunOut:
    """A submitted job: its progress is that of the step that it is at, its figures those of all."""
    begun = job.begun
    last = begun[-1] if begun else None
    figures = begun[0].figures if len(job.record.steps) == 1 and begun else {one.kind: one.figures for one in begun}
    ended = (_ended(last) if last is not None else None) or job.ended_at
    return RunOut(
        run_id=job.record.run_id,
        kind=job.record.kind,
        status=job.status,
        submitted_at=job.record.submitted_at,
        started_at=begun[0].started_at if begun else None,
        finished_at=None if job.is_under_way else ended,
        cache_id=last.cache_id if last else None,
        progress=progress_of(last) if last else (),
        error=job.error,
        hint=job.hint,
        result=_result(job.record.kind, figures),
        asked=job.record.asked,
        figures=figures,
    )


def _ended(run: RunRecord) -> datetime | None:
    """When it ended; of a lost one, when it was last heard of."""
    return run.heartbeat_at if run.status == "lost" else run.finished_at


def _result(kind: str, figures: dict[str, Any]) -> str | None:
    if kind == "audit" and "session" in figures and "run" in figures:
        return f"/api/v1/audits/{figures['session']}/{figures['run']}"
    return None
