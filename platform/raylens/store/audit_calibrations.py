"""Scores of benign fine-tunes, kept for the audits that may be judged by them (A2.18).

::

    calibrations/<id>.json            one calibration; the id is a hash of what its scores must share with an audit's
    calibrations/_locks/<id>/…        who is changing it
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from raylens.audit.calibration import AuditIdentity, Calibration
from raylens.errors import BusyError, DamagedFileError
from raylens.ids import digest
from raylens.store.files import Files
from raylens.store.lock import Lock, acquire

FOLDER: Final = "calibrations"
WAIT_S: Final = 20.0
"""How long a writer waits for another one, which takes milliseconds."""


def calibration_id(identity: AuditIdentity) -> str:
    """16 hex of an identity: the same for two that :meth:`Calibration.matches` finds equal."""
    # 10 and 10.0 are the same setting, True and 1 are not.
    settings = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in identity.settings.items()
    }
    return digest({**identity.model_dump(exclude={"settings"}), "settings": settings})[:16]


def save_calibration(
    files: Files,
    calibration: Calibration,
    *,
    beside: Calibration | None = None,
    owner: str = "raylens audit calibrate",
) -> Calibration:
    """Add scores to those that are there; what is stored is the same in whatever order they came.

    A fine-tune scored again counts once, as it was scored last. Of names ``<name>@<revision>`` the revision says which
    fine-tune it is: a copy in another folder is no second one.

    Args:
        files: The workspace's.
        calibration: Scores of one way of auditing.
        beside: What ships for the same audits, which they come beside where nothing is there yet.
        owner: Who writes, shown to whom it keeps waiting.

    Returns:
        What is stored now.

    Raises:
        BusyError: Others were changing it all the time.
        DamagedFileError: What is there cannot be read.
    """

    def change(before: Calibration | None) -> Calibration:
        kept = before or beside
        scores = {_same(one.organism): one for held in (kept, calibration) if held for one in held.scores}
        return calibration.model_copy(update={"scores": tuple(scores.values())})

    stored = change_calibration(files, calibration.identity, change, owner=owner)
    assert stored is not None
    return stored


def _same(organism: str) -> str:
    """What two names of one fine-tune share."""
    return organism.rpartition("@")[2]


def change_calibration(
    files: Files,
    identity: AuditIdentity,
    change: Callable[[Calibration | None], Calibration | None],
    *,
    owner: str = "raylens audit calibrate",
    reads: bool = True,
) -> Calibration | None:
    """Put another calibration in the place of one, while nobody else does.

    Args:
        files: The workspace's.
        identity: Of both.
        change: Given what is there, says what is to be there; None takes it away.
        owner: Who writes.
        reads: Whether what is there matters; if not, ``change`` is given None and it may be damaged.

    Returns:
        What is stored now.

    Raises:
        BusyError: Others were changing it all the time.
        DamagedFileError: What is there cannot be read.
    """
    name = calibration_id(identity)
    with _turn(files, name, owner):
        before = _read(files, name) if reads else None
        after = change(before)
        if after is None:
            files.delete(f"{FOLDER}/{name}.json")
            return None
        ordered = sorted(after.scores, key=lambda one: (one.family, one.organism))
        stored = after.model_copy(update={"scores": tuple(ordered)})
        files.commit(f"{FOLDER}/{name}.json", f"{stored.model_dump_json(indent=1)}\n".encode())
    return stored


def find_calibration(files: Files, identity: AuditIdentity) -> Calibration | None:
    """The calibration by which an audit with ``identity`` may be judged; None where there is none.

    Raises:
        DamagedFileError: It cannot be read, or is not what its name says.
    """
    return _read(files, calibration_id(identity))


def list_calibrations(files: Files) -> tuple[Calibration, ...]:
    """Every calibration, in order of their ids.

    Raises:
        DamagedFileError: One cannot be read, or is not what its name says.
    """
    names = (path.rpartition("/")[2] for path in files.list(FOLDER))
    found = (_read(files, name.removesuffix(".json")) for name in names if name.endswith(".json"))
    return tuple(one for one in found if one is not None)


def closest_calibration(files: Files, identity: AuditIdentity) -> Calibration | None:
    """The one that fits, else the one that differs in the fewest things, which a verdict then names; None of none."""
    known = list_calibrations(files)
    return min(known, key=lambda one: (len(one.matches(identity)), -one.n), default=None)


def _read(files: Files, name: str) -> Calibration | None:
    path = f"{FOLDER}/{name}.json"
    why = "its name is not that of what it holds"
    try:
        found = Calibration.model_validate_json(files.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        found, why = None, str(error.errors()[0]["msg"])
    if found is None or calibration_id(found.identity) != name:
        raise DamagedFileError(
            f"{files.native(path)} is damaged: {why}.",
            hint="remove it, then run raylens audit calibrate again: what was scored is known.",
        )
    return found


def _turn(files: Files, name: str, owner: str) -> Lock:
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return acquire(files, f"{FOLDER}/_locks/{name}", owner, what=f"calibration {name}")
        except BusyError:
            if time.monotonic() > until:
                raise
        time.sleep(random.uniform(0.01, 0.05))  # apart from one another
