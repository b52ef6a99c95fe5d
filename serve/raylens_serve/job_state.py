"""How a submitted job stands: what its runs wrote into the workspace, and what Ray says of its process.

What a run wrote weighs more: it is there when the cluster is not. Ray alone knows of a process that never came to
write anything, or was killed.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from raylens.api.runs import ENDED, Progress, RunStatus
from raylens.store.runs import RunRecord
from raylens_serve.job_records import JobEnd, JobRecord

START_S: Final = 120.0
"""After this, a job that Ray does not know will not come to it any more."""

RayStatus = Literal["pending", "running", "succeeded", "failed", "stopped", "unknown", "unreachable"]

_ERROR: Final = re.compile(r"^error: (?P<message>.+?) hint: (?P<hint>.+)$", re.MULTILINE)
_RAY_SAYS: Final = re.compile(r"^Job .*|^Running entrypoint .*|^\S+ \S+\tINFO .*")
_LONGEST: Final = 500
_GOES_ON: Final = "ask for the same again: what is done is kept, and it goes on from there."


@dataclass(frozen=True, slots=True)
class Seen:
    """What Ray says of a job.

    Attributes:
        status: In a word; ``unknown`` where it never heard of it, or has forgotten.
        message: Where it failed; the last lines of its log among it.
        exit_code: Of its process; None where that did not end.
    """

    status: RayStatus
    message: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job stands.

    Attributes:
        record: What was asked for.
        status: In a word.
        journals: What each of its steps wrote; None of those that have not begun.
        error: Why it failed.
        hint: What to do about that.
        ended_at: When that was noticed, where its runs do not say when they ended.
    """

    record: JobRecord
    status: RunStatus
    journals: tuple[RunRecord | None, ...]
    error: str | None = None
    hint: str = ""
    ended_at: datetime | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether more will come of it."""
        return self.status not in ENDED

    @property
    def begun(self) -> list[RunRecord]:
        """What its steps wrote, in order."""
        return [one for one in self.journals if one is not None]


def judge(
    record: JobRecord, journals: Sequence[RunRecord | None], end: JobEnd | None, seen: Seen | None, now: datetime
) -> JobState | None:
    """How a job stands.

    Args:
        record: What was asked for.
        journals: Of each step what it wrote, as seen now.
        end: What is known of its end.
        seen: What Ray says; None where it has not been asked.
        now: UTC.

    Returns:
        None where Ray must be asked.
    """
    state = _by_journals(record, tuple(journals))
    if state is not None:
        return state
    found = tuple(journals)
    if end is not None:
        return JobState(record, end.status, found, end.error, end.hint, end.at)
    if seen is None:
        return None
    if seen.status in ("succeeded", "stopped"):
        return JobState(record, seen.status, found, ended_at=now)
    if seen.status == "failed":
        return JobState(record, "failed", found, *why_it_failed(seen), ended_at=now)
    begun = [one for one in found if one is not None]
    if seen.status == "running" or (begun and begun[-1].status == "running"):
        return JobState(record, "running", found)
    is_young = now - record.submitted_at < timedelta(seconds=START_S)
    if not begun and (seen.status in ("pending", "unreachable") or is_young):
        return JobState(record, "queued", found)
    error = "its process is gone, or the cluster that it ran on, before it could say how it went."
    if not begun:
        error = "it never came to run: the cluster that it was given to does not know of it."
    return JobState(record, "lost", found, error, _GOES_ON, begun[-1].heartbeat_at if begun else None)


def why_it_failed(seen: Seen) -> tuple[str, str]:
    """The sentence that a command wrote as it failed, and its hint; else how its process ended."""
    said = list(_ERROR.finditer(seen.message))
    if said:
        return said[-1]["message"], said[-1]["hint"]
    code = seen.exit_code
    if code is not None and (code < 0 or code > 128):
        return f"its process was ended by {_signal(code if code < 0 else 128 - code)}.", _GOES_ON
    lines = [line for line in seen.message.splitlines() if line.strip() and not _RAY_SAYS.match(line)]
    last = f": {lines[-1].strip()[:_LONGEST]}" if lines else ""
    how = "its process did not start" if code is None else f"its process ended with exit code {code}"
    return f"{how}{last}{'' if last.endswith('.') else '.'}", "its log says more."


def split_error(text: str) -> tuple[str, str]:
    """The sentence and the hint of an error as a run's record has it."""
    message, _, hint = text.partition(" hint: ")
    return message, hint


def progress_of(run: RunRecord) -> tuple[Progress, ...]:
    """How far a run is, of all that it counts against a total; else of all that it counts."""
    values = {name: value for name, value in run.progress.items() if isinstance(value, int | float)}
    if "total" in values and "done" in values:
        return (Progress(what="pieces", done=values["done"], total=values["total"] or None),)
    found = [
        Progress(what=name, done=value, total=values.get(f"{name}_total", values.get(f"{name}_wanted")))
        for name, value in values.items()
        if not name.endswith(("_total", "_wanted"))
    ]
    return tuple(one for one in found if one.total is not None) or tuple(found)


def _by_journals(record: JobRecord, journals: tuple[RunRecord | None, ...]) -> JobState | None:
    for journal in journals:
        if journal is not None and journal.status == "failed":
            return JobState(record, "failed", journals, *split_error(journal.error or "it failed."))
        if journal is not None and journal.status == "stopped":
            return JobState(record, "stopped", journals)
    last = journals[-1]
    return JobState(record, "succeeded", journals) if last is not None and last.status == "succeeded" else None


def _signal(number: int) -> str:
    try:
        return signal.Signals(-number).name
    except ValueError:
        return f"signal {-number}"
