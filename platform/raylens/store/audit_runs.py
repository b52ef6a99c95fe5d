"""Writing one run of an audit: everything before ``decision.json``, which makes it a finished one.

Until then whoever looks sees an unfinished run, or the finished one of before; its parts let the next attempt go on
where this one ended, however it ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal, Self

from pydantic import ValidationError

import raylens
from raylens.audit.artefacts import Artefacts, DecisionFile
from raylens.errors import DamagedFileError, InputError, RunError
from raylens.reports.json_files import read_artefacts
from raylens.store.audit_archive import move_to_archive
from raylens.store.audit_files import NAMES, Problem, problems
from raylens.store.audit_listing import is_finished
from raylens.store.audit_manifest import DECISION, RUN, RunFile, facts, first_error
from raylens.store.audit_parts import Parts
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_rows import write_rows
from raylens.store.files import Files
from raylens.store.lock import Lock, acquire
from raylens.store.redact import plain_settings

Again = Literal["refuse", "archive", "replace"]
"""What becomes of a finished run of the same name: it stays, it is archived, or it goes."""

_READS: Final = 3


class RunWriter:
    """The right to write one run; a context manager that gives it back. Made by :func:`write_run`.

    Attributes:
        place: Which run.
        parts: What is done of it.
    """

    def __init__(
        self, files: Files, place: RunPlace, lock: Lock, *, again: Again, config: Mapping[str, object]
    ) -> None:
        self.place = place
        self.parts = Parts(files, place.parts_folder)
        self._files = files
        self._lock = lock
        self._again: Again = again
        self._begun = RunFile(
            session=place.session, run=place.run, started_at=datetime.now(UTC), config=plain_settings(config)
        )
        self._is_new = not files.exists(place.file(RUN))
        if not is_finished(files, place):
            files.commit(place.file(RUN), self._begun.to_bytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was refused before anything was measured is no run that could go on.
        refused = isinstance(error, InputError | DamagedFileError) and not error.retryable
        if refused and self._is_new and not self.parts.keys() and not is_finished(self._files, self.place):
            self._files.delete(self.place.folder, recursive=True)
        self._lock.__exit__(kind, error, trace)

    def put_part(self, key: str, data: bytes) -> None:
        """:meth:`raylens.store.audit_parts.Parts.put_part` of the run's own."""
        self.parts.put_part(key, data)

    def get_part(self, key: str) -> bytes | None:
        """:meth:`raylens.store.audit_parts.Parts.get_part` of the run's own."""
        return self.parts.get_part(key)

    def drop_parts(self) -> None:
        """Remove the run's parts; :meth:`finish` does so."""
        self.parts.drop_parts()

    def finish(self, texts: Mapping[str, str], *, versions: Mapping[str, str] | None = None) -> RunFile:
        """Write all files of the run, ``decision.json`` last, and its rows for SQL; drop its parts.

        A finished run of the same name is archived or removed now, not before.

        Args:
            texts: By name: what :func:`raylens.reports.json_files.artefact_files` makes, and the reports.
            versions: Of what it was made with; that of raylens is added.

        Returns:
            What its ``run.json`` says.

        Raises:
            RunError: A file is missing, not of its type, or of another run.
            StoppedError: Another run took it over meanwhile.
            DiskFullError: No space; the run stays unfinished.
        """
        files, place = self._files, self.place
        artefacts = _checked(texts, place)
        data = {name: texts[name].encode() for name in NAMES if name in texts}
        finished_at = datetime.now(UTC)
        made = self._begun.model_copy(
            update={
                "finished_at": finished_at,
                "seconds": round((finished_at - self._begun.started_at).total_seconds(), 3),
                "versions": {"raylens": raylens.__version__, **(versions or {})},
                "files": {name: facts(content) for name, content in data.items()},
            }
        )
        made = write_rows(files, place, artefacts, made)
        self._lock.require()
        self._make_room(data)
        for name, content in data.items():
            if name != DECISION:
                files.commit(place.file(name), content)
        files.commit(place.file(RUN), made.to_bytes())
        self._lock.require()
        files.commit(place.file(DECISION), data[DECISION])
        self.drop_parts()
        return made

    def _make_room(self, names: Collection[str]) -> None:
        if is_finished(self._files, self.place):
            if self._again == "archive":
                move_to_archive(self._files, self.place, self._lock)
            else:
                self._files.delete(self.place.file(DECISION))
        for path in self._files.list(self.place.folder):
            name = path.rpartition("/")[2]
            if name in NAMES and name not in names:  # of an earlier attempt, or the run that is replaced
                self._files.delete(path)


def write_run(
    files: Files, place: RunPlace, owner: str, *, again: Again = "refuse", config: Mapping[str, object] | None = None
) -> RunWriter:
    """Take the right to write a run.

    Args:
        files: The workspace's.
        place: Which run; its folder is made.
        owner: Run id, shown to whom it keeps out.
        again: What becomes of a finished one.
        config: What this run was asked for, for its ``run.json``; secrets are left out.

    Raises:
        BusyError: Somebody else is writing it.
        InputError: It is finished, and ``again`` says that it stays.
    """
    lock = acquire(files, place.lock_folder, owner, what=f"audit {place}")
    try:
        if again == "refuse" and is_finished(files, place):
            raise InputError(
                f"audit {place} is finished already.",
                hint="raylens audit show prints it; --again makes it anew and archives this one.",
            )
        return RunWriter(files, place, lock, again=again, config=config or {})
    except BaseException:
        lock.release()
        raise


def _checked(texts: Mapping[str, str], place: RunPlace) -> Artefacts:
    wrong = problems(texts)
    if not wrong:
        artefacts = read_artefacts(texts)
        if (artefacts.decision.session, artefacts.decision.run) == (place.session, place.run):
            return artefacts
        wrong = [Problem("run", "the files are those of another one")]
    raise RunError(
        f"audit {place} cannot be stored: {wrong[0].file}: {wrong[0].what.rstrip('.')}.",
        hint="this is a fault of RayLens; please report it.",
    )


def read_run(files: Files, place: RunPlace) -> dict[str, str]:
    """Every file of a finished run by name, ``run.json`` included, all of the same making.

    Raises:
        InputError: It is not finished, or not there.
    """
    for _ in range(_READS):
        before = _bytes(files, place.file(RUN))
        # NAMES end with the decision: a run that is replaced loses it first, and gets run.json and then it last.
        found = {name: _bytes(files, place.file(name)) for name in NAMES}
        found[RUN] = _bytes(files, place.file(RUN))
        if found[DECISION] is None:
            break
        if found[RUN] == before:
            return {name: data.decode("utf-8", "replace") for name, data in found.items() if data is not None}
    raise _unfinished(files, place)


def read_decision(files: Files, place: RunPlace) -> DecisionFile:
    """``decision.json`` of a run.

    Raises:
        InputError: It is not finished, or not there.
        DamagedFileError: It is no decision.
    """
    data = _bytes(files, place.file(DECISION))
    if data is None:
        raise _unfinished(files, place)
    try:
        return DecisionFile.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise DamagedFileError(
            f"{files.native(place.file(DECISION))} {first_error(error)}.",
            hint="raylens audit validate lists everything; the same audit with --again makes it anew.",
        ) from error


def _unfinished(files: Files, place: RunPlace) -> InputError:
    if files.list(place.folder):
        return InputError(
            f"audit {place} is not finished.", hint="run the same audit again: it goes on where it ended."
        )
    return InputError(f"there is no audit {place}.", hint="raylens audit list shows them.")


def _bytes(files: Files, path: str) -> bytes | None:
    try:
        return files.read_bytes(path)
    except FileNotFoundError:
        return None
