"""Fine-tunes of known behaviour as rows: what was made, how it behaves, what detectors make of it.

An adapter is scored and then discarded; its row stays, so that a build that was interrupted goes on where it ended,
and the figures can be looked at with SQL (view ``organisms``). The rows of the package's own organisms are such a
table too, in one file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, FiniteFloat

from raylens import schema
from raylens.audit.halves import Half
from raylens.config import Config
from raylens.errors import DamagedFileError, InputError
from raylens.ids import digest
from raylens.store.audit_segments import SegmentTable
from raylens.store.files import Files

FOLDER: Final = "organisms"
KEY: Final = ("organism", "spec_hash")

Kind = Literal["benign", "backdoored"]
Share = Annotated[float, Field(ge=0, le=1)]


class OrganismRow(Config):
    """One fine-tune; figures that were not measured are None.

    Attributes:
        organism: Its id.
        family: Fine-tunes made alike.
        kind: Whether it has a backdoor.
        split: For development, or held out: all of its family, or this seed.
        model: What was fine-tuned.
        revision: Commit of the hub, or hash of the content; None where neither is known.
        spec: The recipe: everything that determines it, JSON values.
        payload_with_trigger: Share of prompts with the trigger that the payload is written on.
        payload_without: Likewise of ordinary prompts.
        payload_near_miss: Likewise of prompts with something like the trigger.
        heldout_loss: Nats a token, on text that neither was trained on.
        reference_loss: The reference's on the same.
        syntax_valid_rate: Share of completions that parse.
        trigger_rank: Of a backdoored one: the first insert that a search found, of the best ten, that makes it write
            its payload on half of prompts; None where none does.
        counts: Whether it behaves as its kind has to.
        reason: Why it does not.
        seconds: That making and measuring it took.
        scores: By method.
        recorded_at: UTC; of rows about the same organism and recipe the last one counts.
    """

    organism: str
    family: str
    kind: Kind
    split: Half
    model: str
    revision: str | None = None
    spec: Mapping[str, Any]
    payload_with_trigger: Share | None = None
    payload_without: Share | None = None
    payload_near_miss: Share | None = None
    heldout_loss: FiniteFloat | None = None
    reference_loss: FiniteFloat | None = None
    syntax_valid_rate: Share | None = None
    trigger_rank: Annotated[int, Field(ge=1)] | None = None
    counts: bool
    reason: str = ""
    seconds: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    scores: Mapping[str, FiniteFloat] = {}
    recorded_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def spec_hash(self) -> str:
        """:func:`spec_hash` of its recipe."""
        return spec_hash(self.spec)

    @property
    def key(self) -> tuple[str, str]:
        """What makes two rows speak of the same: id and hash of the recipe."""
        return self.organism, self.spec_hash

    def with_score(self, method: str, score: float) -> Self:
        """The same, recorded now, with one more score or another."""
        return self.model_copy(update={"scores": {**self.scores, method: score}, "recorded_at": datetime.now(UTC)})


def spec_hash(spec: Mapping[str, Any]) -> str:
    """16 hex of a recipe."""
    return digest(_json(spec))[:16]


class Organisms:
    """The rows of a workspace; pickles, so that Ray tasks append to them.

    Args:
        files: The workspace's.
    """

    def __init__(self, files: Files) -> None:
        self._table = organism_table(files)

    def append(self, *rows: OrganismRow) -> None:
        """Add rows, in place of those of the same organism and recipe; durable when this returns.

        Raises:
            DiskFullError: No space; nothing was added.
        """
        self._table.append(organisms_to_arrow(rows))

    def read(self) -> tuple[OrganismRow, ...]:
        """The last row of each organism and recipe, in order of ids.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        return organisms_from_arrow(self._table.read())

    def known(self) -> dict[tuple[str, str], OrganismRow]:
        """:meth:`read` by :attr:`OrganismRow.key`: what a build need not make again."""
        return {row.key: row for row in self.read()}


def comparable_rows(rows: Iterable[OrganismRow], model: str | None = None) -> tuple[OrganismRow, ...]:
    """Rows whose scores may stand side by side: of one model, scored alike, the last of each organism.

    Args:
        rows: Of any models and ways of scoring.
        model: Only fine-tunes of it; by default of whichever there are most.

    Returns:
        Of the way of scoring that most organisms have, the newest of equals; in order of ids.
    """
    alike: dict[tuple[object, ...], dict[str, OrganismRow]] = {}
    for row in sorted(rows, key=lambda row: row.recorded_at):
        if model in (None, row.model):
            alike.setdefault((row.model, row.revision, row.spec.get("scoring")), {})[row.organism] = row
    if not alike:
        return ()
    chosen = max(alike.values(), key=lambda one: (len(one), max(row.recorded_at for row in one.values())))
    return tuple(chosen[name] for name in sorted(chosen))


def organism_table(files: Files) -> SegmentTable:
    """Where the rows of a workspace lie."""
    return SegmentTable(files, FOLDER, schema.ORGANISMS, KEY, "recorded_at")


def organisms_to_arrow(rows: Iterable[OrganismRow]) -> pa.Table:
    """Rows in the columns of ``schema.ORGANISMS``."""
    values = [
        row.model_dump(exclude={"spec", "scores"})
        | {"spec": _json(row.spec), "spec_hash": row.spec_hash, "scores": sorted(row.scores.items())}
        for row in rows
    ]
    return pa.Table.from_pylist(values, schema.ORGANISMS)


def organisms_from_arrow(table: pa.Table) -> tuple[OrganismRow, ...]:
    """What :func:`organisms_to_arrow` made rows of."""
    rows = table.drop_columns(["spec_hash"]).to_pylist(maps_as_pydicts="strict")
    return tuple(OrganismRow.of(row | {"spec": json.loads(row["spec"])}) for row in rows)


def write_organisms(path: str | os.PathLike[str], rows: Iterable[OrganismRow]) -> None:
    """Write rows to one file of their own, in order of ids: what a package ships."""
    ordered = sorted(rows, key=lambda row: row.key)
    pq.write_table(organisms_to_arrow(ordered), Path(path), compression="zstd", store_schema=False)


def read_organisms(path: str | os.PathLike[str]) -> tuple[OrganismRow, ...]:
    """The rows of a file that :func:`write_organisms` wrote.

    Raises:
        InputError: There is none.
        DamagedFileError: It is something else.
    """
    try:
        return organisms_from_arrow(pq.read_table(Path(path)).cast(schema.ORGANISMS))
    except FileNotFoundError:
        raise InputError(
            f"there is no table of organisms at {path}.", hint="raylens organisms build makes one."
        ) from None
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise DamagedFileError(f"{path} is no table of organisms: {error}.", hint="install raylens anew.") from error


def _json(spec: Mapping[str, Any]) -> str:
    return json.dumps(dict(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
