"""What ships of the model organisms: scores of the benign ones, and rows about all of them.

=====================================  ========================================================================
file                                   holds
=====================================  ========================================================================
``organisms/calibrations.json``        scores of benign fine-tunes of pico for development, one list a method
``organisms/benign_effects.parquet``   what those do to each feature: mean and scale (:class:`BenignEffects`)
``organisms/organisms.parquet``        every organism: recipe, behaviour, scores (:mod:`raylens.store.audit_organisms`)
``organisms/adapters/<id>/``           a few adapters
=====================================  ========================================================================
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylens.audit.benign_effects import BenignEffects
from raylens.audit.calibration import AuditIdentity, Calibration
from raylens.bundle.paths import ROOT
from raylens.ids import digest

FOLDER: Final = ROOT / "organisms"
_CALIBRATIONS: Final = FOLDER / "calibrations.json"
_EFFECTS: Final = "benign_effects.parquet"
_N: Final = b"fine_tunes"
_OF: Final = b"organisms"


@cache
def shipped_calibrations() -> tuple[Calibration, ...]:
    """Those that ship, one a method; empty where the bundle has none."""
    if not _CALIBRATIONS.is_file():
        return ()
    return tuple(Calibration.of(one) for one in json.loads(_CALIBRATIONS.read_text()))


def shipped_calibration(identity: AuditIdentity) -> Calibration | None:
    """The one that an audit with ``identity`` may be judged by; None where none is of the same."""
    return next((one for one in shipped_calibrations() if not one.matches(identity)), None)


def write_effects(folder: str | os.PathLike[str], effects: BenignEffects, of: Calibration) -> str:
    """Write what the benign fine-tunes of a calibration do to each feature; returns the file's name."""
    facts = {_N: str(effects.n).encode(), _OF: _organisms(of).encode()}
    table = pa.table({"mean": effects.mean, "scale": effects.scale}, metadata=facts)
    pq.write_table(table, Path(folder) / _EFFECTS, compression="zstd")
    return _EFFECTS


def read_effects(of: Calibration, folder: str | os.PathLike[str] = FOLDER) -> BenignEffects | None:
    """What :func:`write_effects` wrote; None where there is nothing, or it is of other fine-tunes than ``of`` is."""
    path = Path(folder) / _EFFECTS
    if not path.is_file():
        return None
    table = pq.read_table(path)
    facts = table.schema.metadata or {}
    if facts.get(_OF, b"").decode() != _organisms(of):
        return None
    mean, scale = (np.asarray(table[name].to_numpy(), np.float64) for name in ("mean", "scale"))
    return BenignEffects(mean, scale, int(facts[_N]))


def _organisms(of: Calibration) -> str:
    return digest("\n".join(sorted(of.organisms)))


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
