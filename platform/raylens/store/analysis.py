"""A feature analysis: what a cache says of the features of one SAE, as tables that go from one workspace to another.

Statistics, logits, neighbours, map, the strongest windows with their text, explanations and scores; no weights and no
other activations. Windows and documents are numbered anew, densely and in their old order, so that what was taken in
and is given out again is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from raylens import schema
from raylens.ids import SaeId, digest
from raylens.store.findings import FindingKind

NOTE: Final = "analysis"
"""Key of ``cache.json`` under which the header of what was taken in is kept."""
FORMAT: Final = "raylens-features"
VERSION: Final = 1
TOP: Final = 20
"""Windows of a feature, where nothing else is said."""
MOST_TOP: Final = 1000

PASS: Final = pa.field("pass", pa.int16())
"""Of explanations and scores: which of the header's passes a row is of."""

TABLES: Final[Mapping[str, pa.Schema]] = {
    "documents": schema.DOCUMENTS,
    "windows": schema.WINDOWS,
    "activations": schema.ACTIVATIONS,
    "feature_stats": schema.FEATURE_STATS,
    "logits": schema.LOGITS,
    "neighbours": schema.NEIGHBOURS,
    "encoder_neighbours": schema.NEIGHBOURS,
    "cofiring": schema.COFIRING,
    "map": schema.MAP,
    "explanations": pa.schema([PASS, *schema.EXPLANATIONS]),
    "scores": pa.schema([PASS, *schema.SCORES]),
}
REQUIRED: Final = ("documents", "windows", "activations", "feature_stats", "explanations", "scores")
"""Tables that are there in any case, if without rows; the others where a cache has them."""

_Count = Annotated[int, Field(ge=0, le=2**62)]


class Strict(BaseModel):
    """What a colleague's file says: of these types, and nothing besides."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pass(Strict):
    """One way in which features were explained or scored.

    Attributes:
        kind: Which.
        settings: What determines its result; nothing that may be secret.
    """

    kind: FindingKind
    settings: dict[str, Any]


class AnalysisHeader(Strict):
    """What the tables are about.

    Attributes:
        format: Always ``raylens-features``.
        version: Of the tables.
        sae: Which SAE.
        d_sae: Its width.
        spec: What is known of it: hook, layer, architecture, fingerprint …
        model: That was read.
        revision: Of it.
        ctx_len: Tokens of a window, as the cache was asked for.
        prefix_ids: Before each window.
        packed: Whether windows run across documents.
        cache_id: Of the cache that all of this was counted in.
        cache_name: What that was called.
        n_windows: Windows of it, likewise all below.
        n_text_tokens: That statistics are of.
        n_special_tokens: Besides.
        n_activations: Stored in it.
        top: Windows of a feature that came along, at most.
        passes: Of explanations and scores.
    """

    format: Literal["raylens-features"] = FORMAT
    version: Literal[1] = VERSION
    sae: Annotated[str, Field(min_length=1, max_length=400)]
    d_sae: Annotated[int, Field(ge=1, le=2**24)]
    spec: dict[str, Any]
    model: Annotated[str, Field(max_length=1000)] | None
    revision: Annotated[str, Field(max_length=200)] | None
    ctx_len: Annotated[int, Field(ge=1, le=2**15)] | None
    prefix_ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=64)]
    packed: bool
    cache_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    cache_name: Annotated[str, Field(max_length=200)]
    n_windows: _Count
    n_text_tokens: _Count
    n_special_tokens: _Count
    n_activations: _Count
    top: Annotated[int, Field(ge=1, le=MOST_TOP)]
    passes: Annotated[list[Pass], Field(max_length=1000)]

    @property
    def sae_id(self) -> SaeId:
        """The SAE."""
        return SaeId.parse(self.sae)


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """A header and its tables; all in memory, about 2 kB a window.

    Attributes:
        header: What they are about.
        tables: By name, of :data:`TABLES`: documents and windows in order of their ids; activations by (feature, peak
            descending, window, position); ``feature_stats`` with a row for each feature in order; all others in order
            of feature.
    """

    header: AnalysisHeader
    tables: Mapping[str, pa.Table]

    def content(self) -> str:
        """Hex SHA-256 of all of it."""
        found = {name: digest(_bytes(table)) for name, table in sorted(self.tables.items())}
        return digest({"header": self.header.model_dump(mode="json"), "tables": found})


def _bytes(table: pa.Table) -> bytes:
    """Bytes of a table, the same for equal ones: what lies in memory where a value is missing does not count."""
    columns: dict[str, pa.Array] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if column.null_count:
            columns[f"{name} is there"] = column.is_valid()
            zero = "" if pa.types.is_string(column.type) else pa.scalar(0).cast(column.type)
            column = column.fill_null(zero)
        columns[name] = column
    plain = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        for batch in plain.combine_chunks().to_batches():
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()
