"""Records of runs: what was asked, how far it is, how it ended.

``runs/<run_id>.json`` is replaced as a whole by its own run only; a background thread renews it, so
that a reader can tell a run at work from one that died: then it reads as who watched its process noted
(:mod:`raylens.store.run_ends`), else ``lost``, whoever looks.
``runs/<run_id>.stop`` asks the run to end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

import raylens
from raylens.errors import BusyError, RaylensError, StoppedError, UnknownNameError
from raylens.ids import new_run_id
from raylens.store.files import Files
from raylens.store.heartbeat import Heartbeat
from raylens.store.process import Process
from raylens.store.redact import plain_settings, scrub
from raylens.store.run_ends import RunEnd, end_path, read_end

_log = logging.getLogger(__name__)

Status = Literal["running", "succeeded", "failed", "stopped", "lost"]
"""As over HTTP (:data:`raylens.api.runs.RunStatus`), which knows of runs that are queued as well."""
LOST_S = 120.0
BEAT_S = 5.0
_FOLDER = "runs"


class RunRecord(BaseModel):
    """One run, as it was when last heard of.

    Attributes:
        run_id: Sorts by time.
        kind: ``cache``, ``record``, ``train`` …
        status: ``lost`` is never stored: readers conclude it, where its process is gone and nothing says how it ended.
        started_at: UTC.
        finished_at: UTC; None while running.
        heartbeat_at: UTC; when it last said that it lives.
        process: The driver.
        cache_id: The cache it writes, where it writes one.
        config: What was asked, secrets left out.
        progress: Whatever the run reports while at work, for example ``tokens`` and ``tokens_total``.
        figures: What it measured, once done.
        error: Why it failed.
        raylens: Version that ran.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    kind: str
    status: Status
    started_at: datetime
    finished_at: datetime | None = None
    heartbeat_at: datetime
    process: Process
    cache_id: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    progress: dict[str, Any] = Field(default_factory=dict)
    figures: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None
    raylens: str = raylens.__version__

    @field_validator("status", mode="before")
    @classmethod
    def _as_it_is_said_now(cls, status: object) -> object:
        return "succeeded" if status == "done" else status  # as older records have it

    def as_seen(self, now: datetime | None = None, *, end: RunEnd | None = None, lost_s: float = LOST_S) -> Self:
        """This record as it stands; nowhere else is that decided of one that says ``running`` itself.

        It ended as ``end`` says, which was noted since it began; else it is ``lost`` if its process is gone or silent
        for ``lost_s``.
        """
        if self.status == "running" and end is not None and end.at >= self.started_at:
            return self.model_copy(update={"status": end.status, "error": end.error, "finished_at": end.at})
        silent_s = ((now or datetime.now(UTC)) - self.heartbeat_at).total_seconds()
        if self.status == "running" and (silent_s > lost_s or self.process.is_gone()):
            return self.model_copy(update={"status": "lost"})
        return self


class RunJournal:
    """The record of the run at work; a context manager that notes how it ended.

    Leaving it normally is :meth:`finish`; by StoppedError or Ctrl-C :meth:`stopped`; by any other error :meth:`fail`.
    Methods may be called from any thread.
    """

    def __init__(self, files: Files, record: RunRecord, *, beat_s: float) -> None:
        self._files = files
        self._record = record
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._heartbeat = Heartbeat(self.beat, beat_s, f"run {record.run_id}")

    @classmethod
    def start(
        cls,
        files: Files,
        kind: str,
        config: Mapping[str, object],
        *,
        run_id: str | None = None,
        cache_id: str | None = None,
        beat_s: float = BEAT_S,
    ) -> Self:
        """Begin a run; its record is stored before this returns.

        Args:
            files: The workspace's files.
            kind: What kind of run.
            config: What was asked; settings that may hold secrets are left out.
            run_id: Given where somebody already waits for this run (a submitted job, or its retry).
            cache_id: The cache it writes.
            beat_s: Seconds between heartbeats.

        Raises:
            BusyError: A run of that id is at work.
        """
        now = datetime.now(UTC)
        record = RunRecord(
            run_id=run_id or new_run_id(kind, now),
            kind=kind,
            status="running",
            started_at=now,
            heartbeat_at=now,
            process=Process.current(),
            cache_id=cache_id,
            config=plain_settings(config),
        )
        if not files.commit_if_absent(_path(record.run_id), _encode(record)):
            earlier = read_run(files, record.run_id)
            if earlier is not None and earlier.status == "running":
                raise BusyError(
                    f"run {record.run_id} is at work (host {earlier.process.host}, pid {earlier.process.pid}).",
                    hint=f"wait until it ends, or end it with raylens stop {record.run_id}.",
                )
            files.delete(_stop_path(record.run_id))
            files.delete(end_path(record.run_id))
            files.commit(_path(record.run_id), _encode(record))
        return cls(files, record, beat_s=beat_s)

    @property
    def run_id(self) -> str:
        return self._record.run_id

    @property
    def record(self) -> RunRecord:
        return self._record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._record.status != "running":
            return
        if error is None:
            self.finish()
            return
        try:
            if isinstance(error, StoppedError | KeyboardInterrupt):
                self.stopped()
            else:
                self.fail(error)
        except (RaylensError, OSError) as trouble:  # a full disk: the error on its way out says more
            _log.warning("run %s: its end could not be recorded: %s", self.run_id, trouble)

    def progress(self, **values: object) -> None:
        """Note how far the run is; stored with the next heartbeat."""
        with self._guard:
            self._change(progress={**self._record.progress, **plain_settings(values)})

    def figures(self, **values: object) -> None:
        """Note what was measured; stored with the next heartbeat, and kept at the end."""
        with self._guard:
            self._change(figures={**self._record.figures, **plain_settings(values)})

    def belongs_to(self, cache_id: str) -> None:
        """Name the cache, where it became known after the start."""
        with self._guard:
            self._change(cache_id=cache_id)

    def beat(self) -> None:
        """Store the record and look for a request to stop; done by a background thread."""
        with self._guard:
            if self._record.status == "running":
                self._change(heartbeat_at=datetime.now(UTC))
                self._store()
        if stop_requested(self._files, self.run_id):
            self._stop.set()

    def stop_requested(self) -> bool:
        """Whether somebody asked this run to stop, as of the last heartbeat; costs nothing."""
        return self._stop.is_set()

    def finish(self, figures: Mapping[str, object] | None = None) -> None:
        self._end("succeeded", figures=figures)

    def stopped(self) -> None:
        self._end("stopped")

    def fail(self, error: BaseException | str) -> None:
        text = error if isinstance(error, str | RaylensError) else f"{type(error).__name__}: {error}"
        self._end("failed", error=scrub(str(text)))

    def _end(self, status: Status, *, figures: Mapping[str, object] | None = None, error: str | None = None) -> None:
        self._heartbeat.stop()
        now = datetime.now(UTC)
        with self._guard:
            merged = {**self._record.figures, **plain_settings(figures or {})}
            self._change(status=status, finished_at=now, heartbeat_at=now, figures=merged, error=error)
            self._store()
        self._files.delete(_stop_path(self.run_id))

    def _change(self, **values: object) -> None:
        self._record = self._record.model_copy(update=values)

    def _store(self) -> None:
        self._files.commit(_path(self.run_id), _encode(self._record))


def read_runs(files: Files) -> tuple[RunRecord, ...]:
    """All runs, oldest first, as seen now."""
    names = (path.rpartition("/")[2] for path in files.list(_FOLDER))
    found = [read_run(files, name.removesuffix(".json")) for name in names if name.endswith(".json")]
    seen = (record for record in found if record is not None)
    return tuple(sorted(seen, key=lambda record: (record.started_at, record.run_id)))


def read_run(files: Files, run_id: str) -> RunRecord | None:
    """The run of that id, as seen now; None where there is none, or its record is damaged: it must not hide others."""
    try:
        record = RunRecord.model_validate_json(files.read_bytes(_path(run_id)))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        _log.warning("%s is damaged and left out: %s", files.native(_path(run_id)), error.errors()[0]["msg"])
        return None
    return record.as_seen(end=read_end(files, run_id)) if record.status == "running" else record


def find_run(files: Files, name: str) -> RunRecord:
    """The run of that id, or whose id alone begins with ``name``, as seen now.

    Raises:
        UnknownNameError: There is none, or more than one.
    """
    runs = {record.run_id: record for record in read_runs(files)}
    found = [name] if name in runs else [run_id for run_id in runs if name and run_id.startswith(name)]
    if len(found) == 1:
        return runs[found[0]]
    if found:
        raise UnknownNameError(f"{name!r} begins {len(found)} run ids.", hint=f"write one of: {', '.join(found)}.")
    raise UnknownNameError.among("run", name, runs, hint="raylens runs lists them.")


def request_stop(files: Files, name: str) -> RunRecord:
    """Ask a run to stop at the next shard; its record is returned, and nothing is asked if it is not running.

    Raises:
        UnknownNameError: There is no such run.
    """
    record = find_run(files, name)
    if record.status == "running":
        files.commit_if_absent(_stop_path(record.run_id), b"")
    return record


def stop_requested(files: Files, run_id: str) -> bool:
    """Whether somebody asked that run to stop; one look at the store."""
    return files.exists(_stop_path(run_id))


def _path(run_id: str) -> str:
    return f"{_FOLDER}/{run_id}.json"


def _stop_path(run_id: str) -> str:
    return f"{_FOLDER}/{run_id}.stop"


def _encode(record: RunRecord) -> bytes:
    return record.model_dump_json(indent=1).encode()
