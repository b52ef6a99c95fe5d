"""Benign fine-tunes that somebody named: told apart, and taken out of calibrations again.

In calibrations they are called ``<name>@<revision>``; organisms of the recipe have no ``@``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from raylens.audit.calibration import Calibration
from raylens.audit.scores import SCORE_METHODS
from raylens.engine.candidates import Candidate
from raylens.errors import InputError, UnknownNameError
from raylens.store.audit_calibrations import change_calibration, find_calibration
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import AuditPlan
from raylens_jobs.benign_effects import METHOD, recalibrate


def registered_name(name: str, candidate: Candidate) -> str:
    """What a fine-tune is called in calibrations."""
    return f"{name}@{candidate.revision[:12]}"


def require_distinct(plan: AuditPlan, candidates: Sequence[Candidate]) -> None:
    """Refuse the reference itself, and one fine-tune under two names: it would be counted as two.

    Raises:
        InputError: Names them.
    """
    seen: dict[str, str] = {}
    for one in candidates:
        if one.revision == plan.reference.revision:
            raise InputError(f"{one.name} is the reference itself.", hint="name fine-tunes of it.")
        if one.revision in seen:
            raise InputError(
                f"{seen[one.revision]} and {one.name} are the same fine-tune.", hint="name each only once."
            )
        seen[one.revision] = one.name


def unregister(workspace: Workspace, plan: AuditPlan, names: Collection[str]) -> list[Calibration]:
    """Take fine-tunes out of all calibrations of a plan; where none is left, the calibration goes.

    Returns:
        The calibrations that are left.

    Raises:
        UnknownNameError: One is in none of them.
        BusyError, DamagedFileError: As :func:`raylens.store.audit_calibrations.change_calibration`.
    """
    files = workspace.files
    found = {name: one for name in SCORE_METHODS if (one := find_calibration(files, plan.identity(name))) is not None}
    known = sorted({organism for one in found.values() for organism in one.organisms})
    for name in names:
        if name not in known:
            raise UnknownNameError.among("benign fine-tune", name, known)
    kept = [
        change_calibration(files, one.identity, lambda before: _without(before, names))
        for method, one in found.items()
        if method != METHOD
    ]
    kept.append(recalibrate(workspace, plan))
    return [one for one in kept if one is not None]


def _without(calibration: Calibration | None, names: Collection[str]) -> Calibration | None:
    kept = tuple(one for one in calibration.scores if one.organism not in names) if calibration is not None else ()
    return calibration.model_copy(update={"scores": kept}) if calibration is not None and kept else None
