"""What was asked for, written down before anything is started: ``services/jobs`` in the workspace.

::

    services/jobs/<kind>-<key>-<n>.json        the n-th time that <key> was asked for; written once
    services/jobs/<kind>-<key>-<n>.end.json    how that ended, once it is known

The name is the run's id. A number is taken by a conditional write, so of all who ask for the same thing at the same
time one starts it, and the others find its run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from raylens.errors import DamagedFileError
from raylens.ids import digest
from raylens.store.files import Files

FOLDER: Final = "services/jobs"

Kind = Literal["audit", "explain", "score"]

_ID: Final = re.compile(r"(?P<stem>[a-z]+-[0-9a-f]{16})-(?P<number>[0-9]{1,9})")
_END: Final = ".end.json"
_log = logging.getLogger(__name__)
T = TypeVar("T", bound=BaseModel)


class Step(BaseModel):
    """One command of a job.

    Attributes:
        run_id: Of its record among the runs of the workspace.
        words: Of the command line, after ``raylens --workspace URL``.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    words: tuple[str, ...]


class JobRecord(BaseModel):
    """A job as it was asked for.

    Attributes:
        run_id: Its id, and that of its first step.
        kind: What it is.
        steps: One after another, each if the one before went well.
        asked: What the client asked for, secrets left out.
        submitted_at: UTC.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    kind: Kind
    steps: tuple[Step, ...]
    asked: dict[str, Any]
    submitted_at: datetime


class JobEnd(BaseModel):
    """How a job ended.

    Attributes:
        status: In a word.
        error: Why it failed, one sentence.
        hint: What to do about that.
        at: UTC; when it was seen.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["succeeded", "failed", "stopped", "lost"]
    error: str | None = None
    hint: str = ""
    at: datetime


class JobRecords:
    """The records of a workspace; made anew as often as one likes.

    Args:
        files: The workspace's.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def last(self, kind: Kind, key: str) -> int:
        """How often that was asked for."""
        stem = _stem(kind, key)
        return max((number for one, number in self._ids() if one == stem), default=0)

    def claim(self, record: JobRecord) -> bool:
        """Write a record; False where somebody else took its number."""
        data = record.model_dump_json(indent=1).encode()
        path = f"{FOLDER}/{record.run_id}.json"
        return self._files.commit_if_absent(path, data) or self._read(path, JobRecord) == record

    def find(self, run_id: str) -> JobRecord | None:
        """The record of that id; None where there is none.

        Raises:
            DamagedFileError: It cannot be read.
        """
        return self._read(f"{FOLDER}/{run_id}.json", JobRecord) if _ID.fullmatch(run_id) else None

    def all(self) -> Iterator[JobRecord]:
        """Every record, in no order, but for those that cannot be read: one must not hide the others."""
        return self._readable(f"{stem}-{number}" for stem, number in self._ids())

    def open(self) -> Iterator[JobRecord]:
        """Those of which no end is known."""
        ended = {name.removesuffix(_END) for name in self._names() if name.endswith(_END)}
        ids = (f"{stem}-{number}" for stem, number in self._ids())
        return self._readable(run_id for run_id in ids if run_id not in ended)

    def end_of(self, run_id: str) -> JobEnd | None:
        """How it ended; None where that is not known, or cannot be read."""
        try:
            return self._read(f"{FOLDER}/{run_id}{_END}", JobEnd)
        except DamagedFileError as error:
            _log.warning("%s", error.message)
            return None

    def put_end(self, run_id: str, end: JobEnd) -> None:
        """Write how it ended; what was written first stays."""
        self._files.commit_if_absent(f"{FOLDER}/{run_id}{_END}", end.model_dump_json(indent=1).encode())

    def _readable(self, ids: Iterable[str]) -> Iterator[JobRecord]:
        for run_id in ids:
            try:
                record = self.find(run_id)
            except DamagedFileError as error:
                _log.warning("%s", error.message)
                continue
            if record is not None:
                yield record

    def _names(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self._files.list(FOLDER)]

    def _ids(self) -> Iterator[tuple[str, int]]:
        for name in self._names():
            if found := _ID.fullmatch(name.removesuffix(".json")):
                yield found["stem"], int(found["number"])

    def _read(self, path: str, kind: type[T]) -> T | None:
        try:
            return kind.model_validate_json(self._files.read_bytes(path))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DamagedFileError(
                f"{self._files.native(path)} is damaged: {error.errors()[0]['msg'].lower()}.", hint="remove it."
            ) from error


def run_id_of(kind: Kind, key: str, number: int) -> str:
    """The id of the ``number``-th time that ``key`` was asked for."""
    return f"{_stem(kind, key)}-{number}"


def _stem(kind: Kind, key: str) -> str:
    return f"{kind}-{digest({'key': key})[:16]}"
