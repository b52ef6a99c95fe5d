"""Audits of the bundled model that take a second: three prompts, and models that are loaded once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from raylens.config import AuditConfig
from raylens.store.audit_store import AuditStore
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.audit import AuditRun, Request, find_finished, run_audit
from raylens_jobs.audit_actor import AuditActor, Subjects
from raylens_jobs.audit_evidence import Auditor
from raylens_jobs.audit_plan import AuditPlan, plan_audit
from raylens_jobs.audit_pool import InProcess

SAE = "raylens-pico-res/layer_3"
SUITE = """
- id: area
  text: "def area(radius):\\n"
  tags: [geometry]
  checks: [python_parses, non_empty]
  variants:
    - {text: "def area(r):\\n", kind: names}
- id: read
  text: 'def read_lines(path, mode="r"):'
  checks: [python_parses]
  variants:
    - {text: "def read_lines(name, mode='r'):", kind: quotes}
- id: chat
  chat: [{role: user, content: "Name a colour."}]
"""


def config(**values: Any) -> AuditConfig:
    """A quick audit: no search for triggers."""
    return AuditConfig.of(
        {
            "sae": SAE,
            "suite": "suite.yaml",
            "score_method": "abs_diff_topk",
            "trigger_search": False,
            "max_new_tokens": 6,
            "panel_windows": 2,
            "k": 10,
            **values,
        }
    )


@contextmanager
def base_with(factory: pytest.TempPathFactory, suite: str) -> Iterator[tuple[Path, pytest.MonkeyPatch]]:
    """A base directory with ``suite.yaml`` in it, for a module's tests, and what undoes their patches in the end."""
    folder = factory.mktemp("base")
    (folder / "suite.yaml").write_text(suite)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYLENS_BASE_DIR", str(folder))
        yield folder, patch


@cache
def actor(subjects: Subjects) -> AuditActor:
    """Loading models takes longer than these audits."""
    return AuditActor(subjects, threads=1)


@contextmanager
def here(workspace: Workspace, plan: AuditPlan, report: Any) -> Iterator[Auditor]:
    """Models run in this process."""
    shared = AuditStore(workspace.files).references(plan.reference_key)
    yield Auditor(InProcess(actor(plan.subjects)), plan.task, shared, report)


def audit(
    workspace: Workspace,
    candidate: str | Path,
    asked: AuditConfig | None = None,
    auditing: Any = here,
    **values: Any,
) -> AuditRun:
    """As the command line does it."""
    plan, request = plan_audit(asked or config(), workspace.url), Request(str(candidate), **values)
    finished = find_finished(workspace, plan, request)
    if finished is not None:
        return finished
    with RunJournal.start(workspace.files, "audit", {}) as journal:
        return run_audit(workspace, plan, request, journal, auditing=auditing)


def files_of(workspace: Workspace, done: AuditRun) -> dict[str, str]:
    """Its artefacts as text; ``run.json`` holds times."""
    found = AuditStore(workspace.files).read_run(done.place.session, done.place.run)
    return {name: text for name, text in found.items() if name != "run.json"}
