"""What of audits nobody needs any more, and what takes their space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raylens.errors import DamagedFileError
from raylens.store.audit_listing import finished_places, run_file, session_names
from raylens.store.audit_manifest import RUN
from raylens.store.audit_paths import FOLDER, REFERENCES, ROWS, RunPlace, is_name
from raylens.store.disk import Stored
from raylens.store.files import Files
from raylens.store.lock import holder

KINDS: Final = {ROWS: "audit rows", "_work": "audit parts", "_calls": "audit calls"}


def audit_kind(path: str) -> str:
    """What a file below ``audits`` is, for ``raylens du``: ``audits``, ``audit references``, ``audit parts`` …"""
    parts = [*path.split("/"), ""]
    if parts[1] == REFERENCES:
        return "audit references"
    if parts[2] == "_work" and parts[4:5] == ["lock"]:
        return "state"
    return KINDS.get(parts[2], "audits")


def audit_rubbish(files: Files, before: float) -> Iterator[tuple[Stored, str]]:
    """Rows that no finished run names, and parts of finished runs, unchanged since a time (seconds since 1970).

    Nothing of a run that somebody is writing, and nothing that a query may have listed since that time.
    """
    for session in session_names(files):
        folder = f"{FOLDER}/{session}"
        done = set(finished_places(files, session))
        for run in filter(is_name, files.folders(f"{folder}/{ROWS}")):
            place = RunPlace(session, run)
            if holder(files, place.lock_folder) is None:
                yield from _rows(files, place, place in done, before)
        for place in sorted(done):
            if holder(files, place.lock_folder) is None:
                old = (one for one in files.scan(place.parts_folder) if one.modified < before)
                yield from ((one, "parts of a finished audit") for one in old if not one.temporary)


def _rows(files: Files, place: RunPlace, is_finished: bool, before: float) -> Iterator[tuple[Stored, str]]:
    """Rows of one run that its ``run.json`` does not name; one that was archived has none."""
    try:
        made = run_file(files, place) if is_finished else None
    except DamagedFileError:
        return  # what is still needed is not known
    named = set(made.row_files(place)) if made else set()
    unnamed = [one for one in files.scan(place.rows_folder) if one.path not in named and not one.temporary]
    # Whoever began to read before a run was replaced or archived may go on; both wrote a run.json.
    if unnamed and max([0.0, *_changes(files, place)]) < before:
        yield from ((one, "rows of no audit") for one in unnamed if one.modified < before)


def _changes(files: Files, place: RunPlace) -> Iterator[float]:
    archived = (f"{place.archive_folder}/{time}/{place.run}" for time in files.folders(place.archive_folder))
    for folder in (place.folder, *archived):
        try:
            yield files.stat(f"{folder}/{RUN}").modified
        except FileNotFoundError:
            continue
