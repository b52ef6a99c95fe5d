"""What fine-tunes do to each feature, kept for :mod:`raylens.audit.benign_effects` to standardise others by.

::

    calibrations/effects/<id>/…       fine-tunes of one reference on one suite; the id is that of their calibration
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens import schema
from raylens.audit.calibration import AuditIdentity
from raylens.store.audit_calibrations import FOLDER, calibration_id
from raylens.store.audit_segments import SegmentTable
from raylens.store.files import Files

if TYPE_CHECKING:
    from scipy.sparse import csr_array

EFFECTS_FOLDER: Final = f"{FOLDER}/effects"


@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """Mean differences of one fine-tune, where there are any.

    Attributes:
        organism: Its id.
        family: Fine-tunes made alike.
        made: Hash of its recipe, or its revision: which weights of that name they are of.
        features: int32 ``[m]``, ascending.
        differences: float64 ``[m]``.
    """

    organism: str
    family: str
    made: str
    features: NDArray[np.int32]
    differences: NDArray[np.float64]

    @classmethod
    def of(cls, organism: str, family: str, made: str, effects: NDArray[np.floating]) -> Self:
        """From mean differences of every feature: ``[d_sae]``."""
        (moved,) = effects.nonzero()
        return cls(organism, family, made, moved.astype(np.int32), effects[moved].astype(np.float64))


class Effects:
    """Fine-tunes' effects under one way of auditing; pickles, so that Ray tasks append to them.

    Args:
        files: The workspace's.
        identity: Of the scores that are standardised by them.
    """

    def __init__(self, files: Files, identity: AuditIdentity) -> None:
        self._table = effects_table(files, calibration_id(identity))

    def append(self, *rows: Effect) -> None:
        """Add fine-tunes, in place of what was there of the same; durable when this returns.

        Raises:
            DiskFullError: No space; nothing was added.
        """
        now = datetime.now(UTC)
        values = [
            {
                "organism": row.organism,
                "family": row.family,
                "made": row.made,
                "features": row.features,
                "differences": row.differences,
                "recorded_at": now,
            }
            for row in rows
        ]
        self._table.append(pa.Table.from_pylist(values, schema.EFFECTS))

    def read(self, organisms: Collection[str] | None = None) -> tuple[Effect, ...]:
        """The last of each fine-tune, in order of ids; with ``organisms`` only of these.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        found = []
        for row in self._table.read().to_pylist():
            if organisms is None or row["organism"] in organisms:
                features = np.array(row["features"], np.int32)
                differences = np.array(row["differences"], np.float64)
                found.append(Effect(row["organism"], row["family"], row["made"], features, differences))
        return tuple(found)


def effects_table(files: Files, name: str) -> SegmentTable:
    """Where effects of one way of auditing lie."""
    return SegmentTable(files, f"{EFFECTS_FOLDER}/{name}", schema.EFFECTS, ("organism",), "recorded_at")


def effects_tables(files: Files) -> list[SegmentTable]:
    """All of them."""
    return [effects_table(files, name) for name in files.folders(EFFECTS_FOLDER)]


def matrix(effects: Iterable[Effect], d_sae: int) -> csr_array:
    """Effects as rows: float64 ``[fine-tunes, d_sae]``.

    Raises:
        ValueError: One has a feature that the SAE does not.
    """
    from scipy.sparse import csr_array  # SQL and housekeeping start without it

    rows = list(effects)
    starts = np.cumsum([0, *(len(row.features) for row in rows)])
    columns = np.concatenate([np.empty(0, np.int32), *(row.features for row in rows)])
    values = np.concatenate([np.empty(0), *(row.differences for row in rows)])
    if len(columns) and columns.max() >= d_sae:
        raise ValueError(f"feature {columns.max()} of an SAE of {d_sae} latents")
    return csr_array((values, columns, starts), shape=(len(rows), d_sae))
