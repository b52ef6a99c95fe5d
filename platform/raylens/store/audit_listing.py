"""Which sessions and runs there are, and how far each is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeVar

from raylens.errors import DamagedFileError
from raylens.store.audit_manifest import DECISION, RUN, RunFile, read_run_file
from raylens.store.audit_paths import ARCHIVE, FOLDER, RunPlace, checked_name, is_name, session_folder
from raylens.store.files import Files
from raylens.store.lock import holder

Status = Literal["finished", "unfinished"]
T = TypeVar("T")
S = TypeVar("S")

_AT_A_TIME: Final = 16


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run, archived ones aside.

    Attributes:
        place: Its names.
        status: Finished once ``decision.json`` is there.
        started_at: UTC; None where it has no ``run.json``.
        finished_at: UTC.
        writer: Run id of whoever is writing an unfinished one; None where nobody is.
    """

    place: RunPlace
    status: Status
    started_at: datetime | None
    finished_at: datetime | None
    writer: str | None


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One session.

    Attributes:
        session: Its name.
        finished: Runs.
        unfinished: Runs.
        archived: Runs.
    """

    session: str
    finished: int
    unfinished: int
    archived: int


def session_names(files: Files) -> tuple[str, ...]:
    """Names of all sessions, sorted."""
    return tuple(name for name in files.folders(FOLDER) if is_name(name))


def run_places(files: Files, session: str | None = None) -> list[RunPlace]:
    """Runs of a session or of all, finished or not, in order of their names; archived ones aside.

    Raises:
        InputError: ``session`` cannot name one.
    """
    sessions = session_names(files) if session is None else (checked_name(session, "session"),)
    found = _each(files, lambda one: files.folders(f"{FOLDER}/{one}/runs"), sessions)
    return [
        RunPlace(one, run) for one, runs in zip(sessions, found, strict=True) for run in sorted(runs) if is_name(run)
    ]


def is_finished(files: Files, place: RunPlace) -> bool:
    """Whether its ``decision.json`` is there."""
    return files.exists(place.file(DECISION))


def finished_places(files: Files, session: str | None = None) -> list[RunPlace]:
    """The finished ones of :func:`run_places`."""
    places = run_places(files, session)
    return [place for place, is_there in zip(places, _each(files, _exists(files), places), strict=True) if is_there]


def finished_runs(files: Files) -> dict[RunPlace, RunFile]:
    """``run.json`` of every finished run.

    Raises:
        DamagedFileError: One cannot be read.
    """
    places = finished_places(files)
    found = _each(files, lambda place: run_file(files, place), places)
    return {place: one for place, one in zip(places, found, strict=True) if one is not None and one.finished_at}


def view_files(files: Files, view: str) -> list[str]:
    """The Parquet files of one view over all finished runs, relative to the workspace.

    Raises:
        DamagedFileError: A ``run.json`` cannot be read.
    """
    return [path for place, made in finished_runs(files).items() if (path := made.row_file(place, view))]


def run_file(files: Files, place: RunPlace) -> RunFile | None:
    """A run's ``run.json``; None where there is none.

    Raises:
        DamagedFileError: It cannot be read.
    """
    path = place.file(RUN)
    try:
        return read_run_file(files.read_bytes(path), files.native(path))
    except FileNotFoundError:
        return None


def summaries(files: Files, session: str | None = None) -> tuple[RunSummary, ...]:
    """Every run of a session or of all, in order of their names.

    One whose ``run.json`` is damaged is listed without times.

    Raises:
        InputError: ``session`` cannot name one.
    """
    return tuple(_each(files, lambda place: _summary(files, place), run_places(files, session)))


def session_summaries(files: Files) -> tuple[SessionSummary, ...]:
    """Every session, in order of their names."""
    done, every = finished_places(files), run_places(files)
    return tuple(
        SessionSummary(
            name,
            finished=sum(place.session == name for place in done),
            unfinished=sum(place.session == name for place in set(every) - set(done)),
            archived=len(archived_runs(files, name)),
        )
        for name in session_names(files)
    )


def archived_runs(files: Files, session: str) -> tuple[tuple[str, str], ...]:
    """``(time, run)`` of each archived run of a session, oldest first."""
    folder = f"{session_folder(session)}/runs/{ARCHIVE}"
    times = files.folders(folder)
    found = _each(files, lambda at: files.folders(f"{folder}/{at}"), times)
    return tuple((at, run) for at, runs in zip(times, found, strict=True) for run in runs)


def _summary(files: Files, place: RunPlace) -> RunSummary:
    try:
        about = run_file(files, place)
    except DamagedFileError:
        about = None
    done = is_finished(files, place)
    claim = None if done else holder(files, place.lock_folder)
    return RunSummary(
        place,
        "finished" if done else "unfinished",
        about.started_at if about else None,
        about.finished_at if about and done else None,
        claim.owner if claim else None,
    )


def _exists(files: Files) -> Callable[[RunPlace], bool]:
    return lambda place: is_finished(files, place)


def _each(files: Files, do: Callable[[S], T], these: Iterable[S]) -> Sequence[T]:
    """``do`` of each, in order; several at a time where each takes a trip to an object store."""
    listed = list(these)
    if files.local or len(listed) < 2:
        return [do(one) for one in listed]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(do, listed))
