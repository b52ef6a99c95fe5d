"""Queries that are useful on any workspace, each with what it answers."""

from __future__ import annotations

from typing import Final

from raylens.store.view_schemas import VIEWS, duckdb_type

EXAMPLES: Final[tuple[tuple[str, str], ...]] = (
    (
        "Caches, and how much text is in each",
        "SELECT cache_id, name, n_windows, n_text_tokens, n_documents, saes\nFROM caches\nORDER BY created_at DESC",
    ),
    (
        "How often features fire, by order of magnitude",
        "SELECT sae, floor(log10(density)) AS power_of_ten, count(*) AS features, avg(max_activation) AS maximum\n"
        "FROM feature_stats\nWHERE density > 0\nGROUP BY ALL\nORDER BY ALL",
    ),
    (
        "Explanations with the best scores",
        "SELECT e.sae, e.feature, e.explanation, s.scorer, s.metric, s.value, s.ci_low, s.ci_high\n"
        "FROM explanations e JOIN scores s USING (cache_id, sae, feature, explanation_id)\n"
        "WHERE e.status = 'ok' AND s.control IS NULL\nORDER BY s.value DESC NULLS LAST\nLIMIT 50",
    ),
    (
        "Features that fire strongly and nobody explained",
        "SELECT f.sae, f.feature, f.density, f.max_activation\n"
        "FROM feature_stats f ANTI JOIN (SELECT * FROM explanations WHERE status = 'ok') e "
        "USING (cache_id, sae, feature)\n"
        "WHERE f.density > 0\nORDER BY f.max_activation DESC\nLIMIT 50",
    ),
    (
        "Features that spans share",
        "SELECT sae, feature, count(DISTINCT span_id) AS spans, max(activation) AS max_activation\n"
        "FROM sae_feature_activations\nGROUP BY ALL\nORDER BY spans DESC, max_activation DESC\nLIMIT 50",
    ),
    (
        "Calls of models, and how long they took",
        "SELECT model, count(*) AS spans, count_if(status = 'error') AS failed,\n"
        "       median(epoch(ended_at) - epoch(started_at)) AS median_seconds\n"
        "FROM spans\nWHERE model IS NOT NULL\nGROUP BY model\nORDER BY spans DESC",
    ),
    (
        "Verdicts of audits",
        "SELECT session, run, candidate, reference, verdict, p_value, n_benign, score_method\n"
        "FROM audit_runs\nORDER BY finished_at DESC",
    ),
    (
        "Runs that did not succeed, with why",
        "SELECT run_id, kind, status, started_at, error\nFROM runs\nWHERE status NOT IN ('succeeded', 'running')\n"
        "ORDER BY started_at DESC",
    ),
)
"""What it answers, and the query."""


def first_rows(view: str) -> str:
    """A query of the first rows of a view."""
    return f"SELECT *\nFROM {view}\nLIMIT 100"


def columns_of(view: str) -> str:
    """The columns of a view with their types, in one line."""
    return ", ".join(f"{column.name} {duckdb_type(column.type).lower()}" for column in VIEWS[view])
