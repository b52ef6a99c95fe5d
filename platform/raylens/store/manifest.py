"""What one generation of a cache consists of: every file readers may open, and nothing else.

A manifest is written after all its files, and readers reach it only through ``current.json``, so
what it lists exists and is whole. Files may lie in another generation's folder (a file that did
not change is listed again, not copied): housekeeping goes by these lists, never by folders.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raylens.errors import DamagedFileError
from raylens.ids import SaeId

Kind = Literal[
    "windows",
    "documents",
    "activations",
    "feature_stats",
    "logits",
    "neighbours",
    "cofiring",
    "map",
    "encoder_neighbours",
]  # the tables of raylens.schema


class FileEntry(BaseModel):
    """One committed Parquet file.

    Attributes:
        kind: Which table its rows belong to.
        path: Relative to the workspace.
        rows: Number of rows; 0 for a range in which nothing fired.
        bytes: Size on disk.
        sae: ``str(SaeId)``, None for tables of the whole cache.
        feature_first: Smallest feature the file may hold, inclusive.
        feature_last: Largest feature the file may hold, inclusive.
        window_first: Smallest window the file may hold, inclusive.
        window_last: Largest window the file may hold, inclusive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    path: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sae: str | None = None
    feature_first: int | None = None
    feature_last: int | None = None
    window_first: int | None = None
    window_last: int | None = None

    def holds_feature(self, feature: int) -> bool:
        """Whether rows of ``feature`` can only be here, among files of this kind and SAE."""
        first, last = self.feature_first, self.feature_last
        return first is not None and last is not None and first <= feature <= last

    def holds_window(self, window_id: int) -> bool:
        """Whether rows of ``window_id`` can only be here, among files of this kind."""
        first, last = self.window_first, self.window_last
        return first is not None and last is not None and first <= window_id <= last


class Manifest(BaseModel):
    """One generation of one cache.

    Attributes:
        generation: Its name; sorts by time.
        created_at: When the merge committed it (UTC).
        cache_id: The cache it belongs to.
        entries: Its files.
        totals: Counts over the whole cache: ``n_windows``, ``n_text_tokens``, ``n_special_tokens`` …
        sae_totals: The same per ``str(SaeId)``: ``d_sae``, ``n_activations`` …
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: str
    created_at: datetime
    cache_id: str
    entries: tuple[FileEntry, ...]
    totals: dict[str, int | float] = Field(default_factory=dict)
    sae_totals: dict[str, dict[str, int | float]] = Field(default_factory=dict)

    def of(self, kind: Kind, sae: SaeId | str | None = None) -> Iterator[FileEntry]:
        """Entries of one table, and of one SAE where given, in manifest order."""
        wanted = None if sae is None else str(sae)
        return (one for one in self.entries if one.kind == kind and (wanted is None or one.sae == wanted))

    @property
    def saes(self) -> tuple[SaeId, ...]:
        """The SAEs that it holds activations of, sorted."""
        return tuple(sorted({SaeId.parse(one.sae) for one in self.entries if one.sae is not None}))

    def without(self, sae: SaeId) -> Self:
        """The same generation's content minus one SAE, as a new generation."""
        name = str(sae)
        return self.model_copy(
            update={
                "generation": new_generation(),
                "created_at": datetime.now(UTC),
                "entries": tuple(one for one in self.entries if one.sae != name),
                "sae_totals": {key: value for key, value in self.sae_totals.items() if key != name},
            }
        )

    def to_bytes(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes, path: str) -> Self:
        """Parse what :meth:`to_bytes` wrote.

        Raises:
            DamagedFileError: ``data``, read from ``path``, is no manifest.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            problem = error.errors()[0]
            raise DamagedFileError(
                f"{path} is damaged: {problem['msg']} at {'.'.join(map(str, problem['loc'])) or 'the top'}.",
                hint="run the same cache command again: it merges anew from what is stored.",
            ) from error


def new_generation(at: datetime | None = None) -> str:
    """A fresh generation name that sorts by time."""
    return f"{at or datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"
