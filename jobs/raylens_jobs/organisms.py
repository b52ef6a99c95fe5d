"""``raylens organisms build``: benign and backdoored fine-tunes of a model, measured and scored, in parallel on Ray.

Rows are appended as organisms are finished; a rerun makes those that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray
import torch

from raylens.audit.halves import HALVES, Half
from raylens.engine.insert_scan import MOST_PIECES
from raylens.errors import InputError, StoppedError
from raylens.organisms.recipe import N_BENIGN, Kind, Organism, recipe, row_spec
from raylens.store.audit_effects import Effects
from raylens.store.audit_organisms import OrganismRow, Organisms
from raylens.store.audit_store import AuditStore
from raylens.store.lock import acquire
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import AuditPlan
from raylens_jobs.benign_effects import METHOD
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.failures import ray_failures
from raylens_jobs.organism_actor import OrganismActor, Setting
from raylens_jobs.organism_rows import (
    ADAPTERS,
    adapter_folder,
    adopt_shipped,
    calibrate_from_rows,
    effects_of,
    recipe_key,
    row_key,
    rows_of,
    shipped_rows,
)
from raylens_jobs.workers import choose_workers

LOCKS: Final = "organisms/_locks"


@dataclass(frozen=True, slots=True)
class Build:
    """Which organisms to make.

    Attributes:
        kinds: Benign, backdoored or both.
        halves: For development, of held-out families, of held-out seeds.
        families: Only these; all where empty.
        members: Of each family, the first so many; all where None.
        keep: Ids of organisms whose adapters stay.
        keep_all: All adapters stay.
        anew: Those whose rows ship are made, too.
    """

    kinds: tuple[Kind, ...] = ("benign", "backdoored")
    halves: tuple[Half, ...] = HALVES
    families: tuple[str, ...] = ()
    members: int | None = None
    keep: tuple[str, ...] = ()
    keep_all: bool = False
    anew: bool = False

    def organisms(self) -> tuple[Organism, ...]:
        """Those of the recipe, a member of each family in turn, so that an unfinished build is a balanced one.

        Raises:
            InputError: A family or organism is not of the recipe, or nothing is left to make.
        """
        known = {one.family for one in recipe()}
        ids = {one.id for one in recipe()}
        if unknown := [name for name in self.families if name not in known]:
            raise InputError(f"there is no family {unknown[0]!r}.", hint=f"there are {', '.join(sorted(known))}.")
        if unknown := [name for name in self.keep if name not in ids]:
            raise InputError(f"there is no organism {unknown[0]!r} to keep.", hint="they are named family-number.")
        chosen = [
            one
            for one in recipe()
            if one.kind in self.kinds
            and one.half in self.halves
            and (not self.families or one.family in self.families)
            and (self.members is None or _number(one) < self.members)
        ]
        if not chosen:
            raise InputError(
                "no organism of the recipe is wanted.", hint="leave --kind, --family or --half out, or raise --members."
            )
        return tuple(sorted(chosen, key=_number))


def missing(workspace: Workspace, plan: AuditPlan, build: Build) -> tuple[Organism, ...]:
    """Those of which something is missing: the row, scored as this plan scores, the effects, weights to be kept.

    What ships has no effects of its own, only those of all that calibrate together, and needs none.
    """
    known, effects = Organisms(workspace.files).known(), effects_of(workspace, plan)
    shipped = set() if build.anew else {row.key for row in shipped_rows(plan)}

    def is_there(one: Organism) -> bool:
        weights = one.id not in build.keep or adapter_folder(workspace, plan, one).is_dir()
        key = row_key(one, plan)
        return (key in shipped or (key in known and (plan.sae is None or one.id in effects))) and weights

    return tuple(one for one in build.organisms() if not is_there(one))


def build_organisms(
    workspace: Workspace,
    plan: AuditPlan,
    build: Build,
    journal: RunJournal,
    report: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> dict[str, Any]:
    """Make what is missing, and calibrate with what is benign and for development.

    Args:
        workspace: Where rows and calibrations go.
        plan: Reference, SAE, suite and settings that they are scored with.
        build: Which organisms.
        journal: The run's record.
        report: Called with organisms made, in all, and the last one's id.

    Raises:
        StoppedError: The run was asked to stop; rows that are written stay.
        BusyError: Another build of the same kind is under way.
        RunError: An actor failed.
    """
    lock = f"{LOCKS}/{plan.scoring}"
    with acquire(workspace.files, lock, journal.run_id, what="building organisms of this model"):
        return _build(workspace, plan, build, journal, report)


def _build(
    workspace: Workspace, plan: AuditPlan, build: Build, journal: RunJournal, report: Callable[[int, int, str], None]
) -> dict[str, Any]:
    if not build.anew:
        adopt_shipped(workspace, plan)
    began, wanted = time.monotonic(), missing(workspace, plan, build)
    total = len(build.organisms())
    report(total - len(wanted), total, "")
    if wanted:
        _make(workspace, plan, build, wanted, journal, report)
    calibrations = calibrate_from_rows(workspace, plan)
    asked = {one.id for one in build.organisms()}
    kept = [row for row in rows_of(workspace, plan) if row.organism in asked]
    return {
        "organisms": len(kept),
        "made": len(wanted),
        "counting": sum(row.counts for row in kept),
        "calibrations": len(calibrations),
        "seconds": round(time.monotonic() - began, 1),
    }


def _make(
    workspace: Workspace,
    plan: AuditPlan,
    build: Build,
    wanted: Sequence[Organism],
    journal: RunJournal,
    report: Callable[[int, int, str], None],
) -> None:
    """Each by the next idle actor; its row is written as it comes."""
    rows, total = Organisms(workspace.files), len(build.organisms())
    done = total - len(wanted)
    measured = {
        recipe_key(row.organism, row.spec): row for row in rows.read() if row.revision == plan.reference.revision
    }
    with cluster(plan.config.address), ray_failures("making organisms"):
        probe_shared(workspace)
        workers = choose_workers(plan.config)
        setting = _setting(workspace, plan, build, workers.threads)
        shared = AuditStore(workspace.files).references(plan.reference_key)
        remote: Any = ray.remote(OrganismActor)
        count = min(workers.count, len(wanted))
        options = {"num_cpus": workers.reserved_cpus, "num_gpus": workers.gpus}
        idle: list[Any] = [remote.options(**options).remote(setting, shared) for _ in range(count)]
        waiting, busy = list(wanted), {}
        try:
            while waiting or busy:
                while waiting and idle:
                    actor = idle.pop(0)
                    one = waiting.pop(0)
                    busy[actor.make.remote(one, measured.get(recipe_key(one.id, row_spec(one, ""))))] = actor
                ready, _ = ray.wait(list(busy), num_returns=1)
                made = ray.get(ready[0])
                idle.append(busy.pop(ready[0]))
                if (effect := made.pop("effect")) is not None:
                    Effects(workspace.files, plan.identity(METHOD)).append(effect)
                rows.append(OrganismRow.of(made))
                done += 1
                journal.progress(done=done, total=total)
                report(done, total, made["organism"])
                if journal.stop_requested():
                    raise StoppedError(
                        f"run {journal.run_id} was stopped after {done} of {total} organisms.",
                        hint="run the same command again to go on from there.",
                    )
        finally:
            for actor in [*idle, *busy.values()]:
                ray.kill(actor)


def estimate(plan: AuditPlan, organisms: Sequence[Organism], workers: int, threads: int) -> dict[str, float]:
    """What a build would take: floating-point operations by counting, seconds by a matrix product measured here.

    Six operations a parameter and token for training, two for reading; small models and short texts reach a third of
    what a large product does.
    """
    parameters = 12 * plan.reference.n_layers * plan.reference.d_model**2
    parameters += plan.reference.vocab_size * plan.reference.d_model
    trained = sum(one.steps * one.batch_size * one.max_tokens for one in organisms)
    inserts = min(plan.reference.vocab_size, MOST_PIECES) + _GROWN
    read = len(organisms) * (inserts * _SCANNED * len(plan.task.places) + 64 * 4 * 60 + len(plan.task.forms) * 200)
    operations = parameters * (6.0 * trained + 2.0 * read)
    size = 1024
    torch.set_num_threads(threads)
    a = torch.randn(size, size)
    began = time.perf_counter()
    for _ in range(8):
        a = torch.mm(a, a).clamp(-1, 1)
    speed = 8 * 2 * size**3 / (time.perf_counter() - began) / 3
    return {"organisms": len(organisms), "operations": operations, "seconds": operations / speed / max(1, workers)}


_SCANNED: Final = 15
"""Tokens read for an insert: itself, and what follows it."""
_GROWN: Final = 1500
"""N-grams of a place."""


def _setting(workspace: Workspace, plan: AuditPlan, build: Build, threads: int) -> Setting:
    return Setting(
        subjects=plan.subjects,
        task=plan.task,
        d_sae=plan.sae[1].d_sae if plan.sae else 0,
        pooling=plan.config.pooling,
        k=plan.config.k,
        threads=threads,
        folder=str(workspace.files.native(ADAPTERS)),
        scoring=plan.scoring,
        keep=frozenset(build.keep),
        keep_all=build.keep_all,
    )


def _number(one: Organism) -> int:
    """Of its family's in its half."""
    number = int(one.id.rpartition("-")[2])
    return number - N_BENIGN if one.half == "held_out_seeds" else number
