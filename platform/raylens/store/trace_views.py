"""The views ``spans`` and ``sae_feature_activations``: what stands, out of the log of traces, by DuckDB alone.

Each goes over the log twice: over the few narrow columns that say which events stand, and over those asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from raylens.schema import SAE_FEATURE_ACTIVATIONS, SPANS, TRACE_EVENTS
from raylens.store.files import Files
from raylens.store.trace_log import TraceLog

LOG: Final = "log of traces"
"""A view of all events, under a name that SQL of users cannot say."""
LOG_COLUMNS: Final = pa.schema([field for field in TRACE_EVENTS if field.name != "digest"])

TRACES: Final[Mapping[str, pa.Schema]] = {"spans": SPANS, "sae_feature_activations": SAE_FEATURE_ACTIVATIONS}
"""The views, each with its columns."""

QUERIES: Final[Mapping[str, str]] = {
    "spans": f"""
        SELECT {", ".join(SPANS.names)}
        FROM "{LOG}"
        JOIN (SELECT span_id, max(sequence) AS sequence FROM "{LOG}" WHERE event <> 'extraction' GROUP BY span_id)
        USING (span_id, sequence)
        WHERE event = 'span'
    """,
    "sae_feature_activations": f"""
        WITH
            last AS (SELECT span_id, model, sae, max(sequence) AS sequence FROM "{LOG}"
                     WHERE event = 'extraction' GROUP BY ALL),
            deleted AS (SELECT span_id, max(sequence) AS deletion FROM "{LOG}" WHERE event = 'deletion' GROUP BY ALL)
        SELECT
            span_id, model, sae, layer, unnest(features) AS feature,
            TRY_CAST(unnest(activations) AS FLOAT) AS activation, unnest(positions) AS position,
            n_tokens, n_dropped, extracted_at
        FROM "{LOG}" JOIN last USING (span_id, model, sae, sequence) LEFT JOIN deleted USING (span_id)
        WHERE event = 'extraction' AND (deletion IS NULL OR deletion < sequence)
    """,
}
"""Over :data:`LOG`."""


def log_files(files: Files) -> list[str]:
    """The files of the log, relative to the workspace.

    Raises:
        DamagedFileError: Some commits are missing.
    """
    return [one.path for one in TraceLog(files).commits.covering()]
