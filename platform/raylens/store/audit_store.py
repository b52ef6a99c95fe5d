"""The audits of a workspace: sessions, their runs, and what candidates of one reference share.

This is the one class that audits and their readers use; each thing it does is told in the file that does it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from raylens.audit.artefacts import Artefacts, DecisionFile
from raylens.errors import DamagedFileError, InputError, UnknownNameError
from raylens.store.audit_archive import Archived, archive_run
from raylens.store.audit_calls import ToolCalls
from raylens.store.audit_files import stored_artefacts
from raylens.store.audit_listing import (
    RunSummary,
    SessionSummary,
    archived_runs,
    finished_places,
    is_finished,
    run_file,
    run_places,
    session_names,
    session_summaries,
    summaries,
)
from raylens.store.audit_manifest import RunFile
from raylens.store.audit_parts import Parts
from raylens.store.audit_paths import CONFIG, FOLDER, REFERENCES, RunPlace, session_folder
from raylens.store.audit_runs import Again, RunWriter, read_decision, read_run, write_run
from raylens.store.files import Files
from raylens.store.redact import plain_settings


class AuditStore:
    """Sessions and runs of audits in one workspace; made anew as often as one likes.

    Args:
        files: The workspace's.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._calls: dict[str, ToolCalls] = {}
        self._guard = threading.Lock()

    # ------------------------------------------------------------------ sessions

    def create_session(self, session: str, config: Mapping[str, object]) -> str:
        """Open a session, and note what it was asked for in place of what it was asked for before.

        Args:
            session: Its name: letters, digits and ``. _ -``.
            config: Every setting, JSON values; those that may be secret are left out of the file.

        Returns:
            Its folder, relative to the workspace.

        Raises:
            InputError: ``session`` cannot name one.
        """
        folder = session_folder(session)
        text = yaml.safe_dump(plain_settings(config), sort_keys=False, allow_unicode=True, width=100)
        path = f"{folder}/{CONFIG}"
        if not self.files.exists(path) or self.files.read_bytes(path) != text.encode():
            self.files.commit(path, text.encode())
        return folder

    def config(self, session: str) -> dict[str, Any]:
        """What a session was asked for.

        Raises:
            UnknownNameError: There is no such session.
            DamagedFileError: Its ``config_resolved.yaml`` cannot be read.
        """
        path = f"{session_folder(session)}/{CONFIG}"
        try:
            found = yaml.safe_load(self.files.read_bytes(path))
        except FileNotFoundError:
            raise UnknownNameError.among("session", session, session_names(self.files)) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DamagedFileError(f"{self.files.native(path)} is no YAML.", hint="remove it.") from error
        return found if isinstance(found, dict) else {}

    def sessions(self) -> tuple[SessionSummary, ...]:
        """Every session, with how many runs it has."""
        return session_summaries(self.files)

    def log_tool_call(self, session: str, call: Mapping[str, object]) -> int:
        """Add a line to ``tool_calls.jsonl``: :meth:`raylens.store.audit_calls.ToolCalls.append`."""
        with self._guard:
            calls = self._calls.setdefault(session, ToolCalls(self.files, session))
        return calls.append(call)

    def tool_calls(self, session: str) -> list[dict[str, Any]]:
        """Every call of a session, in order."""
        return ToolCalls(self.files, session).read()

    # ------------------------------------------------------------------ runs

    def runs(self, session: str | None = None) -> tuple[RunSummary, ...]:
        """Runs of a session or of all, finished or not; archived ones aside."""
        return summaries(self.files, session)

    def is_finished(self, session: str, run: str) -> bool:
        """Whether that run is there and finished."""
        return is_finished(self.files, RunPlace(session, run))

    def write_run(
        self, session: str, run: str, owner: str, *, again: Again = "refuse", config: Mapping[str, object] | None = None
    ) -> RunWriter:
        """Take the right to write a run, as a context manager: :func:`raylens.store.audit_runs.write_run`."""
        return write_run(self.files, RunPlace(session, run), owner, again=again, config=config)

    def read_run(self, session: str, run: str) -> dict[str, str]:
        """Every file of a finished run by name: :func:`raylens.store.audit_runs.read_run`."""
        return read_run(self.files, RunPlace(session, run))

    def artefacts(self, session: str, run: str) -> Artefacts:
        """The JSON of a finished run.

        Raises:
            InputError: It is not finished, or not there.
            DamagedFileError: A file is missing, not what it should be, or at odds with another.
        """
        return stored_artefacts(self.read_run(session, run), f"audit {session}/{run}")

    def decision(self, session: str, run: str) -> DecisionFile:
        """The decision of a finished run, and nothing else of it.

        Raises:
            InputError: It is not finished, or not there.
            DamagedFileError: It is no decision.
        """
        return read_decision(self.files, RunPlace(session, run))

    def run_file(self, session: str, run: str) -> RunFile | None:
        """What a run's ``run.json`` says; None where there is none."""
        return run_file(self.files, RunPlace(session, run))

    def find(self, name: str, session: str | None = None) -> RunPlace:
        """The finished run that ``name`` means: ``session/run``, its name, or how that begins.

        Raises:
            UnknownNameError: It means none, or several.
            InputError: It means one that is not finished.
        """
        places = run_places(self.files, session)
        said = [place for place in places if name in {str(place), place.run}]
        found = said or [place for place in places if name and place.run.startswith(name)]
        done = set(finished_places(self.files, session))
        wanted = [place for place in found if place in done]
        if len(wanted) == 1:
            return wanted[0]
        if wanted:
            raise UnknownNameError(
                f"{name!r} names {len(wanted)} audits.", hint=f"write one of these: {', '.join(map(str, wanted))}."
            )
        if found:
            raise InputError(
                f"audit {found[0]} is not finished.", hint="run the same audit again: it goes on where it ended."
            )
        raise UnknownNameError.among("audit", name, map(str, sorted(done)), hint="raylens audit list shows them.")

    def archive(
        self, places: Iterable[RunPlace], *, owner: str = "raylens audit archive", at: datetime | None = None
    ) -> tuple[Archived, ...]:
        """Move finished runs to the archives of their sessions, all under the same time.

        Raises:
            BusyError: One is being written; those before it are archived.
            InputError: One is not finished, or not there.
        """
        time = at or datetime.now(UTC)
        return tuple(archive_run(self.files, place, owner=owner, at=time) for place in places)

    def archived(self, session: str) -> tuple[tuple[str, str], ...]:
        """``(time, run)`` of each archived run of a session, oldest first."""
        return archived_runs(self.files, session)

    # ------------------------------------------------------------------ parts

    def parts(self, session: str, run: str) -> Parts:
        """What is done of an unfinished run; whoever writes it holds :meth:`write_run`."""
        return Parts(self.files, RunPlace(session, run).parts_folder)

    def references(self, key: str) -> Parts:
        """What all candidates share that are audited against one reference in one way.

        Args:
            key: A hash of everything that determines it.
        """
        return Parts(self.files, f"{FOLDER}/{REFERENCES}/{key}")
