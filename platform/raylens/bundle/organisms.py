"""What ships of the model organisms: scores of the benign ones, and rows about all of them.

=====================================  ========================================================================
file                                   holds
=====================================  ========================================================================
``organisms/calibrations.json``        scores of benign fine-tunes of pico for development, one list a method
``organisms/organisms.parquet``        every organism: recipe, behaviour, scores (:mod:`raylens.store.audit_organisms`)
``organisms/adapters/<id>/``           a few adapters
=====================================  ========================================================================
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

from raylens.audit.calibration import AuditIdentity, Calibration
from raylens.bundle.paths import ROOT

FOLDER: Final = ROOT / "organisms"
_CALIBRATIONS: Final = FOLDER / "calibrations.json"


@cache
def shipped_calibrations() -> tuple[Calibration, ...]:
    """Those that ship, one a method; empty where the bundle has none."""
    if not _CALIBRATIONS.is_file():
        return ()
    return tuple(Calibration.of(one) for one in json.loads(_CALIBRATIONS.read_text()))


def shipped_calibration(identity: AuditIdentity) -> Calibration | None:
    """The one that an audit with ``identity`` may be judged by; None where none is of the same."""
    return next((one for one in shipped_calibrations() if not one.matches(identity)), None)


def rows_path() -> Path:
    """Rows about all organisms, a Parquet file."""
    return FOLDER / "organisms.parquet"


def adapter_path(organism: str) -> Path | None:
    """The folder of a shipped adapter; None where that organism's is not shipped."""
    folder = FOLDER / "adapters" / organism
    return folder if (folder / "adapter_config.json").is_file() else None


def shipped_adapters() -> tuple[str, ...]:
    """Ids of organisms whose adapters ship."""
    root = FOLDER / "adapters"
    return tuple(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ()
