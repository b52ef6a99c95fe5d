"""Where audits lie in a workspace, and what sessions and runs may be called (A2.01, A2.02, A2.20).

::

    audits/<session>/config_resolved.yaml            what the session was asked for, secrets left out
    audits/<session>/tool_calls.jsonl                a line a call, where it came through MCP (audit_calls.py)
    audits/<session>/runs/<run>/decision.json        written last: a run without it is unfinished
    audits/<session>/runs/<run>/…                    the other artefacts, reports, run.json (audit_files.py)
    audits/<session>/runs/_archive/<time>/<run>/…    runs that made room for others (audit_archive.py)
    audits/<session>/_rows/<run>/<hash>/…            the same as Parquet, for SQL (audit_rows.py)
    audits/<session>/_work/<run>/lock/…              who writes the run
    audits/<session>/_work/<run>/parts/…             what an interrupted run has done (audit_parts.py)
    audits/<session>/_calls/…                        tool calls, a file each
    audits/_references/<key>/…                       what all candidates of a reference share

No name begins with an underscore, so none is taken for one of these folders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from raylens.errors import InputError
from raylens.ids import digest

FOLDER: Final = "audits"
REFERENCES: Final = "_references"
ARCHIVE: Final = "_archive"
ROWS: Final = "_rows"
CONFIG: Final = "config_resolved.yaml"
TRANSCRIPT: Final = "tool_calls.jsonl"

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_OTHER: Final = re.compile(r"[^A-Za-z0-9._-]+")
_SHORT: Final = 40


def checked_name(name: str, what: str) -> str:
    """``name`` if it can name a session or a run: letters, digits and ``. _ -``, at most 100.

    Args:
        name: What was given.
        what: ``session`` or ``run``, for the error.

    Raises:
        InputError: It cannot.
    """
    if is_name(name):
        return name
    raise InputError(
        f"{name!r} cannot name a {what} of audits.",
        hint="use letters, digits and . _ -, at most 100; a letter or digit first, and no dot at the end.",
    )


def is_name(name: str) -> bool:
    """Whether it can name a session or a run."""
    return _NAME.fullmatch(name) is not None


def run_name(candidate: str, made_from: Mapping[str, object]) -> str:
    """The name of a run that was given none: the same for the same audit, so that the same command finds it again.

    Args:
        candidate: A hub id or a path; its last word is what people recognise.
        made_from: Everything that determines the result, JSON values.
    """
    last = candidate.replace("\\", "/").rstrip("/").rpartition("/")[2]
    short = _OTHER.sub("-", last).strip("._-")[:_SHORT].strip("._-") or "candidate"
    return f"{short}-{digest(made_from)[:8]}"


def session_folder(session: str) -> str:
    """Relative to the workspace.

    Raises:
        InputError: ``session`` cannot name one.
    """
    return f"{FOLDER}/{checked_name(session, 'session')}"


@dataclass(frozen=True, slots=True, order=True)
class RunPlace:
    """One run, by name; paths are relative to the workspace.

    Raises:
        InputError: A name cannot be one.
    """

    session: str
    run: str

    def __post_init__(self) -> None:
        checked_name(self.session, "session")
        checked_name(self.run, "run")

    def __str__(self) -> str:
        return f"{self.session}/{self.run}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """``session/run``.

        Raises:
            InputError: It is not of that form.
        """
        session, slash, run = text.partition("/")
        if not slash:
            raise InputError(f"{text!r} names no run of a session.", hint="write session/run; raylens audit list.")
        return cls(session, run)

    @property
    def _session(self) -> str:
        return f"{FOLDER}/{self.session}"

    @property
    def folder(self) -> str:
        """Where its files are."""
        return f"{self._session}/runs/{self.run}"

    @property
    def archive_folder(self) -> str:
        """Where folders of archived runs of the session are, a folder a time."""
        return f"{self._session}/runs/{ARCHIVE}"

    @property
    def lock_folder(self) -> str:
        """Holds the claims of whoever writes it."""
        return f"{self._session}/_work/{self.run}/lock"

    @property
    def parts_folder(self) -> str:
        """Holds what is done of it while it is unfinished."""
        return f"{self._session}/_work/{self.run}/parts"

    @property
    def rows_folder(self) -> str:
        """Holds its rows for SQL, a folder for each time that it was finished."""
        return f"{self._session}/{ROWS}/{self.run}"

    def file(self, name: str) -> str:
        """One of its files."""
        return f"{self.folder}/{name}"
