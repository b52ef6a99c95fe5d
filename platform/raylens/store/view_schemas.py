"""Columns of every view: what SQL can count on, whether or not anything is stored yet.

Tables about one cache get ``cache_id`` in front, tables about one SAE ``cache_id`` and ``sae``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from raylens import schema
from raylens.store import edges, label_cache
from raylens.store.findings import SCHEMAS, FindingKind
from raylens.store.trace_views import TRACES

_TEXT: Final = pa.string()
_TIME: Final = pa.timestamp("us", tz="UTC")

CACHE_ID: Final = pa.field("cache_id", _TEXT)
SAE: Final = pa.field("sae", _TEXT)

BY_CACHE: Final[Mapping[str, pa.Schema]] = {"documents": schema.DOCUMENTS, "windows": schema.WINDOWS}
"""Tables of a whole cache, as stored."""

BY_SAE: Final[Mapping[str, pa.Schema]] = {
    "activations": schema.ACTIVATIONS,
    "feature_stats": schema.FEATURE_STATS,
    "logits": schema.LOGITS,
    "neighbours": schema.NEIGHBOURS,
    "encoder_neighbours": schema.NEIGHBOURS,
    "cofiring": schema.COFIRING,
    "map": schema.MAP,
}
"""Tables of one SAE in a cache, as stored."""

FINDINGS: Final[Mapping[FindingKind, pa.Schema]] = SCHEMAS
"""Tables about features that explainers and scorers write, as stored."""

CACHES: Final = pa.schema(
    [
        CACHE_ID,
        ("name", _TEXT),  # given with --name
        ("generation", _TEXT),  # null before the first merge
        ("created_at", _TIME),  # of the generation
        ("n_windows", pa.int64()),
        ("n_text_tokens", pa.int64()),
        ("n_special_tokens", pa.int64()),
        ("n_documents", pa.int64()),
        ("saes", pa.list_(_TEXT)),
        ("info", _TEXT),  # JSON: identity, model, tokenizer
    ]
)

RUNS: Final = pa.schema(
    [
        ("run_id", _TEXT),
        ("kind", _TEXT),
        ("status", _TEXT),
        ("started_at", _TIME),
        ("finished_at", _TIME),
        ("heartbeat_at", _TIME),
        CACHE_ID,
        ("host", _TEXT),
        ("pid", pa.int64()),
        ("config", _TEXT),  # JSON
        ("progress", _TEXT),  # JSON
        ("figures", _TEXT),  # JSON
        ("error", _TEXT),
        ("raylens", _TEXT),
    ]
)

PEOPLE: Final[Mapping[str, pa.Schema]] = {
    "labels": pa.schema(
        [
            SAE,
            ("feature", pa.int32()),
            ("label", _TEXT),  # null where there is only a star
            ("source", _TEXT),  # "human"
            ("bucket", _TEXT),
            ("author", _TEXT),
            ("starred", pa.bool_()),
            ("updated_at", _TIME),
        ]
    ),
    "notes": pa.schema(
        [
            SAE,
            ("feature", pa.int32()),
            ("note_id", _TEXT),
            ("note", _TEXT),
            ("author", _TEXT),
            ("created_at", _TIME),
        ]
    ),
}
"""What people say of features (:mod:`raylens.store.labels`); not about a cache, but about an SAE."""

ELSEWHERE: Final[Mapping[str, pa.Schema]] = {str(name): table for name, table in label_cache.SCHEMAS.items()}
"""Labels from elsewhere (:mod:`raylens.store.label_cache`), by the model and source of whoever gave them."""

AUDITS: Final[Mapping[str, pa.Schema]] = {
    "audit_runs": schema.AUDIT_RUNS,
    "audit_prompts": schema.AUDIT_PROMPTS,
    "audit_effects": schema.AUDIT_EFFECTS,
}
"""Finished runs of audits (:mod:`raylens.store.audit_rows`), as stored."""

ORGANISMS: Final[Mapping[str, pa.Schema]] = {"organisms": schema.ORGANISMS}
"""Fine-tunes of known behaviour (:mod:`raylens.store.audit_organisms`), as stored."""

EDGES: Final[Mapping[str, pa.Schema]] = {"edges": edges.EDGES}
"""What caused features (:mod:`raylens.store.edges`), as stored."""

PATCHES: Final = pa.schema(
    [
        ("patch_id", _TEXT),
        ("session", _TEXT),
        ("name", _TEXT),
        ("model", _TEXT),
        SAE,  # of features named in short
        ("enabled", pa.bool_()),
        ("place", pa.int32()),  # of the edit in the patch
        ("feature", _TEXT),  # as the edit names it; null of a direction
        ("direction", _TEXT),
        ("hook", _TEXT),  # of a direction
        ("method", _TEXT),
        ("strength", pa.float64()),
        ("unit", _TEXT),
        ("tokens", _TEXT),
        ("created_at", _TIME),
    ]
)
"""Edits of patches of the workbench (:mod:`raylens.store.patches`)."""

VIEWS: Final[Mapping[str, pa.Schema]] = {
    **{name: pa.schema([CACHE_ID, *table]) for name, table in BY_CACHE.items()},
    **{name: pa.schema([CACHE_ID, SAE, *table]) for name, table in BY_SAE.items()},
    **{name: pa.schema([CACHE_ID, SAE, *table]) for name, table in FINDINGS.items()},
    "caches": CACHES,
    "runs": RUNS,
    **PEOPLE,
    **ELSEWHERE,
    **AUDITS,
    **ORGANISMS,
    **EDGES,
    **TRACES,
    "patches": PATCHES,
}
"""All views by name, each with its columns in order."""


def duckdb_type(kind: pa.DataType) -> str:
    """DuckDB's name of a column's type."""
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"{duckdb_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({duckdb_type(kind.key_type)}, {duckdb_type(kind.item_type)})"
    return _DUCKDB_TYPES[kind]


_DUCKDB_TYPES: Final[Mapping[pa.DataType, str]] = {
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    _TIME: "TIMESTAMP WITH TIME ZONE",
}
