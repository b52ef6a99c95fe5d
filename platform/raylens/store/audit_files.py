"""The files of an audit's run, and whether they are what they should be.

What each JSON file holds, and that they agree with one another, is the matter of :mod:`raylens.reports.json_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from raylens.audit.artefacts import Artefacts
from raylens.errors import DamagedFileError, InputError
from raylens.reports.json_files import FILES, OPTIONAL, read_artefacts
from raylens.store.audit_manifest import RUN, RunFile, facts, first_error

REPORTS: Final = ("report.md", "report.html")
NAMES: Final = (*REPORTS, *FILES)
"""Every file of a run but ``run.json``, in the order in which they are written: ``decision.json`` last."""

_OPTIONAL: Final = frozenset({OPTIONAL, "report.html"})


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file of a run.

    Attributes:
        file: Its name; ``run`` where several files do not fit together.
        what: A phrase, or a sentence.
    """

    file: str
    what: str


def problems(texts: Mapping[str, str]) -> list[Problem]:
    """What is wrong with the files of a run: one missing or unknown, of another type, or at odds with another.

    Args:
        texts: By name; :data:`NAMES` are the known ones, and ``run.json`` is passed over.
    """
    found = [Problem(name, "is not a file of a run") for name in texts if name not in NAMES and name != RUN]
    for name in NAMES:
        if name not in texts:
            found += [Problem(name, "is missing")] if name not in _OPTIONAL else []
        elif not texts[name].strip():
            found.append(Problem(name, "is empty"))
        elif name in FILES:
            try:
                FILES[name].model_validate_json(texts[name], strict=True)
            except ValidationError as error:
                found.append(Problem(name, first_error(error)))
    if not found:
        try:
            read_artefacts(texts)
        except InputError as error:
            found.append(Problem("run", error.message))
    return found


def changed(texts: Mapping[str, str], run_file: RunFile) -> list[Problem]:
    """Files that are no longer what they were when the run was finished."""
    gone = [Problem(name, "is missing") for name in run_file.files if name not in texts]
    other = [
        Problem(name, "was changed since it was written")
        for name, was in run_file.files.items()
        if name in texts and facts(texts[name].encode()) != was
    ]
    return [*gone, *other]


def stored_artefacts(texts: Mapping[str, str], where: str) -> Artefacts:
    """The JSON of a stored run.

    Args:
        texts: Its files by name.
        where: What they are of, for the error.

    Raises:
        DamagedFileError: One is missing, not what it should be, or at odds with another.
    """
    try:
        return read_artefacts(texts)
    except InputError as error:
        raise DamagedFileError(f"{where} is damaged: {error.message}", hint=error.hint) from error
