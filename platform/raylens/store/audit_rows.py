"""Finished audits as rows for SQL: three Parquet files a run, listed by its ``run.json``.

They lie in a folder named by what they were made of, so a run that is made anew takes no file away from a query that
has begun; :mod:`raylens.store.audit_housekeeping` removes them once nothing names them any more.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from raylens.audit.artefacts import Artefacts, Completion, PromptResult
from raylens.ids import digest
from raylens.store.audit_manifest import RunFile
from raylens.store.audit_paths import RunPlace
from raylens.store.files import Files
from raylens.store.parquet import layout_of, write_table
from raylens.store.view_schemas import AUDITS


def audit_tables(artefacts: Artefacts, made: RunFile) -> dict[str, pa.Table]:
    """The rows of one run, in the columns of :data:`raylens.store.view_schemas.AUDITS`.

    Args:
        artefacts: Its JSON.
        made: Its ``run.json``, for the times.
    """
    rows: dict[str, list[dict[str, Any]]] = {
        "audit_runs": [_run_row(artefacts, made)],
        "audit_prompts": [_prompt_row(one) for one in artefacts.suite_results.results],
        "audit_effects": _effect_rows(artefacts),
    }
    names = {"session": made.session, "run": made.run}
    return {view: pa.Table.from_pylist([names | row for row in rows[view]], AUDITS[view]) for view in AUDITS}


def write_rows(files: Files, place: RunPlace, artefacts: Artefacts, made: RunFile) -> RunFile:
    """Write the rows of a run; returns its ``run.json`` with where they are, which makes them exist.

    Raises:
        DiskFullError: No space; no run names what was written.
    """
    name = digest({"made": made.model_dump(mode="json", include={"started_at", "finished_at", "files"})})[:16]
    tables = audit_tables(artefacts, made)
    listed = made.model_copy(update={"rows": name, "tables": {view: one.num_rows for view, one in tables.items()}})
    for view, table in tables.items():
        if path := listed.row_file(place, view):
            write_table(files, path, table, layout_of(AUDITS[view]))
    return listed


def _run_row(artefacts: Artefacts, made: RunFile) -> dict[str, Any]:
    about, evidence = artefacts.decision, artefacts.interp_evidence
    row = {
        **about.decision.model_dump(),
        "title": about.title,
        "reference": about.reference.name,
        "reference_revision": about.reference.revision,
        "candidate": about.candidate.name,
        "candidate_revision": about.candidate.revision,
        "candidate_kind": about.candidate.kind,
        "sae": about.sae,
        "suite": about.suite.name,
        "suite_digest": about.suite.digest,
        "n_prompts": about.suite.n_prompts,
        "n_forms": about.suite.n_forms,
        **made.model_dump(include={"started_at", "finished_at", "seconds"}),
    }
    if evidence is not None:
        row |= evidence.coverage.model_dump(exclude={"line"})
        row |= {
            "coverage": evidence.coverage.line,
            "n_tested": evidence.n_tested,
            "n_significant": evidence.n_significant,
            "stability_jaccard": evidence.stability.jaccard,
        }
    return row


def _prompt_row(result: PromptResult) -> dict[str, Any]:
    row = result.model_dump(include={"id", "variant", "number", "tags", "prompt", "logit_kl", "feature_difference"})
    for name, said in (("reference", result.reference), ("candidate", result.candidate)):
        row |= {f"{name}_text": said.text, f"{name}_tokens": said.n_tokens}
        row |= {f"{name}_passed": _checks(said, "pass"), f"{name}_failed": _checks(said, "fail")}
    return row


def _checks(said: Completion, status: str) -> int:
    return sum(check.status == status for check in said.checks)


def _effect_rows(artefacts: Artefacts) -> list[dict[str, Any]]:
    evidence = artefacts.interp_evidence
    if evidence is None:
        return []
    return [
        {
            **feature.model_dump(exclude={"index", "neighbours"}),
            "sae": evidence.sae,
            "feature": feature.index,
            "rank": rank,
            "neighbours": json.dumps([one.model_dump() for one in feature.neighbours], ensure_ascii=False),
        }
        for rank, feature in enumerate(evidence.features, 1)
    ]
