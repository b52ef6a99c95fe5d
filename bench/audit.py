"""Audits: what detectors make of the organisms that ship, and how long an audit takes.

Figures of detectors are worked out from the rows of the bundle, of held-out families, at the threshold that was fixed
on development ones; ``results/audit.svg`` draws them. Seconds are those of an audit of the suite ``minimal`` against
pico on a Ray that is up, of two candidates of one command: the first with the start of the actors and all that is of
the reference, the second by the same actors. :mod:`bench.scan_floor` says how near scans are to the least they can do.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file

from bench.scan_floor import scan_floor
from raylens.audit.organism_bench import Scored, bench, false_positives, triggers_found
from raylens.audit.scores import DEFAULT_SCORE_METHOD
from raylens.bundle.organisms import adapter_path, rows_path, shipped_adapters
from raylens.config import AuditConfig
from raylens.reports.family_plot import family_plot
from raylens.store.audit_organisms import read_organisms
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.audit import Request, run_audit
from raylens_jobs.audit_plan import AuditPlan, plan_audit
from raylens_jobs.audit_workers import AuditWorkers
from raylens_jobs.cluster import cluster

SAE: Final = "raylens-pico-res/layer_3"
PLOT: Final = Path(__file__).parent / "results" / "audit.svg"


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Rates of every method, and seconds."""
    organisms = [
        Scored(row.organism, row.family, row.kind == "backdoored", row.split, row.scores, row.trigger_rank)
        for row in read_organisms(rows_path())
        if row.counts
    ]
    figures = rates(organisms)
    if scale == 1.0:
        threshold = figures["threshold"]
        PLOT.write_text(family_plot(organisms, DEFAULT_SCORE_METHOD, threshold), "utf-8")
    workspace = Workspace.open(folder / "workspace", create=True)
    plan = plan_audit(AuditConfig.of({"sae": SAE, "workers": 2, "threads": 1}), workspace.url)
    return figures | seconds(folder, workspace, plan) | scan_floor(plan)


def rates(organisms: list[Scored]) -> dict[str, Any]:
    """Of held-out families; the default method's by name, all others' below ``methods``."""
    rows = {row.method: row for row in bench(organisms, "held_out")}
    own, found = rows[DEFAULT_SCORE_METHOD], triggers_found(organisms, "held_out")
    assert own.tpr is not None
    assert own.fpr is not None
    observed = {
        f"{half}_fpr_at_{target}": None
        if (one := false_positives(organisms, own.method, half, target)) is None
        else one.value
        for half in ("held_out_seeds", "held_out")
        for target in (0.01, 0.05, 0.1)
    }
    return {
        "audit_tpr": own.tpr.value,
        "audit_fpr": own.fpr.value,
        "audit_auroc": own.auroc.value,
        "audit_triggers_found": found.value,
        "threshold": own.threshold,
        **observed,
        "methods": {name: row.fields() for name, row in rows.items()},
    }


def seconds(folder: Path, workspace: Workspace, plan: AuditPlan) -> dict[str, Any]:
    """A first candidate, and a second one, whose reference was read before."""
    adapter = adapter_path(shipped_adapters()[0])
    assert adapter is not None
    candidates = [weakened(adapter, folder / f"candidate-{share}", share) for share in (0.9, 0.8)]
    with cluster(None), AuditWorkers() as workers:
        laps = [timed(workspace, plan, one, workers) for one in candidates]
    return {"audit_first_s": laps[0], "audit_second_s": laps[1]}


def timed(workspace: Workspace, plan: AuditPlan, candidate: Path, workers: AuditWorkers) -> float:
    """Seconds of one audit, its files written."""
    began = time.perf_counter()
    with RunJournal.start(workspace.files, "audit", {}) as journal:
        run_audit(workspace, plan, Request(str(candidate)), journal, auditing=workers)
    return round(time.perf_counter() - began, 1)


def weakened(adapter: Path, folder: Path, share: float) -> Path:
    """The adapter with a share of its weights' size: another candidate."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    save_file({name: value * share if "lora_B" in name else value for name, value in load_file(file).items()}, file)
    return folder
