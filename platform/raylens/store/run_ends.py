"""How a run ended that could not say so itself: ``runs/<run_id>.end``, a note beside its record.

Whoever watched its process writes it (services ask Ray), once. A run that is killed leaves a record that says
``running``; with the note, everybody who reads the record sees the same end of it (:meth:`RunRecord.as_seen`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raylens.store.files import Files


class RunEnd(BaseModel):
    """The end of a run, as it was seen from outside.

    Attributes:
        status: In a word.
        error: Why it failed: a sentence, and after ``hint:`` what to do about it.
        at: UTC; when that was seen.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["succeeded", "failed", "stopped"]
    error: str | None = None
    at: datetime


def note_end(files: Files, run_id: str, end: RunEnd) -> None:
    """Note how a run ended; what was noted first stays."""
    files.commit_if_absent(end_path(run_id), end.model_dump_json(indent=1).encode())


def read_end(files: Files, run_id: str) -> RunEnd | None:
    """What is noted of a run's end; None where nothing is, or it cannot be read."""
    try:
        return RunEnd.model_validate_json(files.read_bytes(end_path(run_id)))
    except (FileNotFoundError, ValidationError):
        return None


def end_path(run_id: str) -> str:
    """Where that is noted."""
    return f"runs/{run_id}.end"
