"""Calibrations out of a file: scores of benign fine-tunes that somebody else made."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from raylens.audit.calibration import AuditIdentity, Calibration
from raylens.errors import InputError
from raylens.store.base_dir import inside_base

MAX_BYTES: Final = 64 << 20
_HINT: Final = "name a calibrations.json of raylens organisms export, or a file of a workspace's folder calibrations."


@dataclass(frozen=True, slots=True)
class CalibrationFile:
    """What a file holds.

    Attributes:
        path: It; what benign fine-tunes do to each feature may lie beside it.
        shown: As it was named.
        calibrations: At least one.
    """

    path: Path
    shown: str
    calibrations: tuple[Calibration, ...]

    def of(self, identity: AuditIdentity) -> Calibration | None:
        """The one that an audit with ``identity`` may be judged by."""
        return next((one for one in self.calibrations if not one.matches(identity)), None)

    def require(self, identity: AuditIdentity) -> Calibration:
        """As :meth:`of`.

        Raises:
            InputError: There is none; the differences of the one that differs least are named.
        """
        found = self.of(identity)
        if found is not None:
            return found
        alike = [one for one in self.calibrations if one.identity.method == identity.method]
        if not alike:
            methods = ", ".join(sorted({one.identity.method for one in self.calibrations}))
            raise InputError(
                f"calibration {self.shown} has no scores of {identity.method}, but of {methods}.",
                hint="choose one of these with --score-method, or name another file.",
            )
        differing = min((one.matches(identity) for one in alike), key=len)
        raise InputError(
            f"calibration {self.shown} is of something else: {'; '.join(differing)}.",
            hint="audit with the settings that it was made with, or leave --calibration out.",
        )


def load_calibrations(path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> CalibrationFile:
    """Read a JSON file of one calibration, or of a list of them.

    Args:
        path: Inside the base directory.
        base: See :func:`raylens.store.base_dir.inside_base`.

    Raises:
        InputError: It lies outside, is not there, is too large, or holds no calibrations.
    """
    shown = os.fspath(path)
    file = inside_base(shown, "calibration", base)
    if not file.is_file():
        raise InputError(f"calibration {shown} is not a file.", hint=_HINT)
    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"calibration {shown} is larger than {MAX_BYTES >> 20} MiB.", hint=_HINT)
    try:
        held = json.loads(file.read_bytes())
        listed = held if isinstance(held, list) else [held]
        found = tuple(Calibration.model_validate(one) for one in listed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"calibration {shown} is none: {where or 'it'}: {first['msg']}.", hint=_HINT) from None
    except (ValueError, RecursionError):
        raise InputError(f"calibration {shown} is not JSON.", hint=_HINT) from None
    except OSError as error:
        raise InputError(f"calibration {shown} cannot be read: {error.strerror}.", hint=_HINT) from None
    if not found:
        raise InputError(f"calibration {shown} is empty.", hint=_HINT)
    return CalibrationFile(file, shown, found)
