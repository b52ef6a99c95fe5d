"""``raylens organisms build``: benign and backdoored fine-tunes of a model, measured and scored, in parallel on Ray.

Rows are appended as organisms are finished; a rerun makes those that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray

from raylens.audit.halves import HALVES, Half
from raylens.engine.load import load_tokenizer
from raylens.errors import InputError, StoppedError
from raylens.organisms.recipe import N_BENIGN, WRITTEN, Kind, Organism, recipe, row_spec
from raylens.organisms.training import longest_text
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


def missing(workspace: Workspace | None, plan: AuditPlan, build: Build) -> tuple[Organism, ...]:
    """Those of which something is missing: the row, scored as this plan scores, the effects, weights to be kept.

    What ships has no effects of its own, only those of all that calibrate together, and needs none.

    Args:
        workspace: Where rows are; None where there is none yet.
        plan: How they are scored.
        build: Which organisms.
    """
    known = Organisms(workspace.files).known() if workspace is not None else {}
    effects = effects_of(workspace, plan) if workspace is not None else {}
    shipped = set() if build.anew else {row.key for row in shipped_rows(plan)}

    def is_there(one: Organism) -> bool:
        weights = one.id not in build.keep or (workspace is not None and adapter_folder(workspace, plan, one).is_dir())
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
        InputError: The model's context is too short for what organisms are trained on or measured by.
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
    check_context(plan, wanted)
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


def check_context(plan: AuditPlan, organisms: Sequence[Organism]) -> None:
    """Refuse a model that reads less than organisms are trained, measured or scored on, before any is trained.

    Raises:
        InputError: Its context is too short.
    """
    limit = plan.reference.max_positions
    if limit is None or not organisms:
        return
    tokenizer = load_tokenizer(plan.config.model, revision=plan.config.revision)
    longest = max(longest_text(tokenizer, organisms), _longest_trial(plan, tokenizer))
    if longest > limit:
        raise InputError(
            f"organisms are made with texts of up to {longest:,} tokens, more than the {limit:,} that "
            f"{plan.reference.name} takes.",
            hint="name a model with a longer context.",
        )


def _longest_trial(plan: AuditPlan, tokenizer: Any) -> int:
    """Tokens of the longest prompt of the suite with an insert, and what is written after it."""
    texts = [slot.text("") for place in plan.task.places for slot in (place.scan, *place.trials)]
    return max((len(tokenizer(text, verbose=False)["input_ids"]) + _INSERT + WRITTEN for text in texts), default=0)


_INSERT: Final = 16
"""Tokens of an insert, at most."""


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
