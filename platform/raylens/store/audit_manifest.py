"""``run.json``: the manifest of an audit's run.

It says when the run was made and with what, how many bytes of which hash each file has, and which Parquet files hold
its rows. It is the only file of a run with times in it; the others are the same for the same audit.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raylens.errors import DamagedFileError
from raylens.ids import digest
from raylens.store.audit_paths import RunPlace

DECISION: Final = "decision.json"
RUN: Final = "run.json"


class FileFacts(BaseModel):
    """What a file was when it was written: its size, and the hex SHA-256 of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str


class RunFile(BaseModel):
    """``run.json``.

    Attributes:
        schema_version: Of this file.
        session: Its session.
        run: Its name.
        started_at: UTC; of the attempt that finished it, or of the last one.
        finished_at: UTC; None while it is unfinished.
        seconds: From one to the other.
        versions: Of what it was made with, by name.
        config: What this run was asked for, secrets left out.
        files: Of every other file of the run.
        rows: Folder of its Parquet files.
        tables: Rows of each, by the name of the view.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    session: str
    run: str
    started_at: datetime
    finished_at: datetime | None = None
    seconds: float | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, FileFacts] = Field(default_factory=dict)
    rows: str | None = None
    tables: dict[str, int] = Field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return f"{self.model_dump_json(indent=1)}\n".encode()

    def row_file(self, place: RunPlace, view: str) -> str | None:
        """The Parquet file of one view's rows, relative to the workspace; None where there are none."""
        if self.rows is None or not self.tables.get(view):
            return None
        return f"{place.rows_folder}/{self.rows}/{view}.parquet"

    def row_files(self, place: RunPlace) -> Iterator[str]:
        """All of them."""
        return (path for view in self.tables if (path := self.row_file(place, view)))


def facts(data: bytes) -> FileFacts:
    """Of a file's bytes."""
    return FileFacts(bytes=len(data), sha256=digest(data))


def read_run_file(data: bytes, path: str) -> RunFile:
    """Parse ``run.json``, read from ``path``.

    Raises:
        DamagedFileError: It is none.
    """
    try:
        return RunFile.model_validate_json(data)
    except ValidationError as error:
        raise DamagedFileError(
            f"{path} is damaged: {first_error(error)}.",
            hint="the same audit with --again --no-archive makes it anew; or remove that folder.",
        ) from error


def first_error(error: ValidationError) -> str:
    """The first of a validation's errors, as ``is not valid: …``."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the top"
    return f"is not valid: {first['msg'][0].lower()}{first['msg'][1:]} at {where}"
