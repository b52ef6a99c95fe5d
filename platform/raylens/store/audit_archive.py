"""Moving finished runs out of the way, to ``runs/_archive/<time>/<run>/`` (A2.20).

A store has no rename of folders, so a run is copied, and only then removed; in both, ``decision.json`` decides when it
counts. A crash in between leaves the run where it was, in the archive, or in both, and archiving once more goes on
from there: it finds the copy by its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from raylens.errors import InputError
from raylens.store.audit_manifest import DECISION, RUN
from raylens.store.audit_parts import Parts
from raylens.store.audit_paths import RunPlace
from raylens.store.files import Files
from raylens.store.lock import Lock, acquire


@dataclass(frozen=True, slots=True)
class Archived:
    """A run that was archived.

    Attributes:
        place: What it was called.
        folder: Where it is now, relative to the workspace.
    """

    place: RunPlace
    folder: str


def archive_run(files: Files, place: RunPlace, *, owner: str, at: datetime | None = None) -> Archived:
    """Move a finished run to the archive of its session.

    Args:
        files: The workspace's.
        place: Which.
        owner: Run id of whoever does so.
        at: The time that names the folder; by default now.

    Raises:
        BusyError: It is being written.
        InputError: It is not finished, or not there.
    """
    with acquire(files, place.lock_folder, owner, what=f"audit {place}") as lock:
        return move_to_archive(files, place, lock, at)


def move_to_archive(files: Files, place: RunPlace, lock: Lock, at: datetime | None = None) -> Archived:
    """:func:`archive_run` by who holds the run's lock."""
    names = _names(files, place.folder)
    is_finished = DECISION in names
    folder = _begun(files, place, names, is_finished=is_finished)
    if folder is None:
        if not is_finished:
            raise InputError(
                f"audit {place} is not finished." if names else f"there is no audit {place}.",
                hint="run the same audit again to finish it; raylens audit list says how far each is.",
            )
        folder = _fresh(files, place, at or datetime.now(UTC))
    if is_finished:
        there = _names(files, folder)
        # By run.json a later attempt knows this copy again; decision.json makes it whole.
        for name in sorted(set(names) - set(there), key=lambda one: (one == DECISION, one != RUN, one)):
            files.commit(f"{folder}/{name}", files.read_bytes(f"{place.folder}/{name}"))
        lock.require()
        files.delete(place.file(DECISION))
    files.delete(place.folder, recursive=True)
    Parts(files, place.parts_folder).drop_parts()
    return Archived(place, folder)


def _begun(files: Files, place: RunPlace, names: Mapping[str, int], *, is_finished: bool) -> str | None:
    """The folder of a copy of this very run that an earlier attempt began or made; None where there is none."""
    if not names:
        return None
    for time in reversed(files.folders(place.archive_folder)):
        folder = f"{place.archive_folder}/{time}/{place.run}"
        there = _names(files, folder)
        # The one is part of the other: a copy that was begun, or the rest of a run whose copy is whole.
        part = there if is_finished else names
        whole = names if is_finished else there
        if (
            (RUN in part or not is_finished)
            and DECISION in whole
            and all(whole.get(name) == size for name, size in part.items())
            and all(files.read_bytes(f"{place.folder}/{n}") == files.read_bytes(f"{folder}/{n}") for n in part)
        ):
            return folder
    return None


def _fresh(files: Files, place: RunPlace, at: datetime) -> str:
    while True:
        folder = f"{place.archive_folder}/{at:%Y%m%dT%H%M%S-%fZ}/{place.run}"
        if not _names(files, folder):
            return folder
        at += timedelta(microseconds=1)


def _names(files: Files, folder: str) -> dict[str, int]:
    """Size of each file of a run, by its path within ``folder``."""
    found = (one for one in files.scan(folder) if not one.temporary)
    return {one.path.removeprefix(f"{folder}/"): one.size for one in found}
