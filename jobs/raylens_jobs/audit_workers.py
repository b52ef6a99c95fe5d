"""Where an audit's models run: actors on Ray, of one audit or of several one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Self

from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens_jobs.audit_evidence import Auditor, audit_pool
from raylens_jobs.audit_plan import AuditPlan
from raylens_jobs.audit_pool import RayPool
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.workers import choose_workers

Report = Callable[[int, int], None]
Auditing = Callable[[Workspace, AuditPlan, Report], AbstractContextManager[Auditor]]


@contextmanager
def on_ray(workspace: Workspace, plan: AuditPlan, report: Report) -> Iterator[Auditor]:
    """Actors of one audit: one a GPU, else one a core. They end with the block."""
    with AuditWorkers() as workers, workers(workspace, plan, report) as work:
        yield work


class AuditWorkers:
    """Actors of several audits with the same reference and settings: a second candidate costs no start of its own.

    They start with the first audit, and again after one has given its cores back; they end with the block. Called as
    :func:`on_ray` is.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._pool: RayPool | None = None
        self._plan: AuditPlan | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def __call__(self, workspace: Workspace, plan: AuditPlan, report: Report) -> Iterator[Auditor]:
        """The actors, for one audit.

        Raises:
            ValueError: It is of another reference, or measured otherwise, than the one before.
        """
        if self._plan is None:
            self._stack.enter_context(cluster(plan.config.address))
            probe_shared(workspace)
            self._plan = plan
        elif plan is not self._plan:
            raise ValueError("workers of one plan are asked to audit by another")
        if self._pool is None or self._pool.is_released:
            self._pool = self._stack.enter_context(audit_pool(plan.subjects, choose_workers(plan.config)))
        yield Auditor(self._pool, plan.task, AuditStore(workspace.files).references(plan.reference_key), report)
