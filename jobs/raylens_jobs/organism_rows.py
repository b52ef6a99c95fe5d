"""What the rows of organisms come to: calibrations of audits, and what the bundle ships."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from raylens.audit.calibration import BenignScore, Calibration
from raylens.bundle.organisms import rows_path, write_effects
from raylens.errors import InputError
from raylens.organisms.recipe import Organism, recipe, row_spec, weights_name
from raylens.store.audit_calibrations import change_calibration
from raylens.store.audit_effects import Effect, Effects
from raylens.store.audit_organisms import OrganismRow, Organisms, read_organisms, spec_hash, write_organisms
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import AuditPlan
from raylens_jobs.benign_effects import METHOD, fit_of, recalibrate, standardised

ADAPTERS: Final = "organisms/adapters"


def row_key(one: Organism, plan: AuditPlan) -> tuple[str, str]:
    """Of the row of an organism that was scored as this plan scores."""
    return one.id, spec_hash(row_spec(one, plan.scoring))


def recipe_key(organism: str, spec: Mapping[str, Any]) -> tuple[str, str]:
    """Of an organism, however it is scored."""
    return organism, spec_hash({name: value for name, value in spec.items() if name != "scoring"})


def shipped_rows(plan: AuditPlan) -> list[OrganismRow]:
    """Rows of the bundle of the recipe's organisms that were scored as this plan scores, in the recipe's order."""
    if not rows_path().is_file():
        return []
    known = {row.key: row for row in read_organisms(rows_path()) if row.revision == plan.reference.revision}
    return [known[key] for one in recipe() if (key := row_key(one, plan)) in known]


def adopt_shipped(workspace: Workspace, plan: AuditPlan) -> None:
    """Put beside a workspace's own rows those of the bundle that it has none of, so that a build goes on from them."""
    rows = Organisms(workspace.files)
    known = rows.known()
    rows.append(*(row for row in shipped_rows(plan) if row.key not in known))


def rows_of(workspace: Workspace, plan: AuditPlan) -> list[OrganismRow]:
    """Rows of the recipe's organisms that were scored as this plan scores, in the recipe's order."""
    known = Organisms(workspace.files).known()
    return [known[key] for one in recipe() if (key := row_key(one, plan)) in known]


def calibrating(rows: Sequence[OrganismRow]) -> list[OrganismRow]:
    """Those that calibrate: benign ones for development that behave as such."""
    return [row for row in rows if row.kind == "benign" and row.split == "development" and row.counts]


def calibrate_from_rows(workspace: Workspace, plan: AuditPlan) -> list[Calibration]:
    """Store the benign scores of development organisms, a calibration a method.

    Before that, rows get what could not be worked out while they were made: ``benign_standardised``.
    """
    rows = rows_of(workspace, plan)
    effects = effects_of(workspace, plan)
    Organisms(workspace.files).append(*standardised(rows, calibrating(rows), list(effects.values()), plan))
    names = {one.id for one in recipe()}
    kept = []
    for one in calibrations_from_rows(plan, rows_of(workspace, plan)):
        if one.identity.method != METHOD:
            # What somebody registered stays; organisms are those that count now.
            made = change_calibration(
                workspace.files, one.identity, lambda before, one=one: _beside(before, one, names)
            )
            kept += [made] if made is not None else []
    standard = recalibrate(workspace, plan)
    return [*kept, *([standard] if standard is not None else [])]


def effects_of(workspace: Workspace, plan: AuditPlan) -> dict[str, Effect]:
    """What is kept of the recipe's organisms, by id; none of what another recipe made under the same id."""
    made = {one.id: one.spec_hash for one in recipe()}
    found = Effects(workspace.files, plan.identity(METHOD)).read(made)
    return {one.organism: one for one in found if one.made == made[one.organism]}


def _beside(before: Calibration | None, own: Calibration, names: Collection[str]) -> Calibration:
    others = () if before is None else tuple(one for one in before.scores if one.organism not in names)
    return own.model_copy(update={"scores": (*others, *own.scores)})


def calibrations_from_rows(plan: AuditPlan, rows: Sequence[OrganismRow]) -> list[Calibration]:
    """Benign scores of development organisms of this plan's reference, a calibration a method."""
    benign = [row for row in calibrating(rows) if row.spec.get("scoring") == plan.scoring]
    found = []
    for method in sorted({name for row in benign for name in row.scores}):
        scores = tuple(
            BenignScore(organism=row.organism, family=row.family, score=row.scores[method])
            for row in benign
            if method in row.scores
        )
        found.append(Calibration(identity=plan.identity(method), scores=scores))
    return found


def export_organisms(workspace: Workspace, plan: AuditPlan, folder: Path, adapters: Sequence[str] = ()) -> list[str]:
    """Write what others need to audit with these organisms: what the bundle ships of them.

    Args:
        workspace: With their rows.
        plan: How they were scored.
        folder: Gets ``calibrations.json``, ``benign_effects.parquet``, ``organisms.parquet`` and ``adapters/<id>/``;
            made where missing.
        adapters: Organisms whose adapters were kept and go along.

    Returns:
        Paths written, relative to ``folder``.

    Raises:
        InputError: There are no rows, or an adapter was not kept.
    """
    rows = rows_of(workspace, plan)
    if not rows:
        raise InputError("no organism is scored with these settings.", hint="raylens organisms build makes them.")
    kept = {one.id: adapter_folder(workspace, plan, one) for one in recipe() if one.id in adapters}
    if lost := [name for name in adapters if name not in kept or not (kept[name] / "adapter_config.json").is_file()]:
        raise InputError(f"the adapter of {lost[0]} was not kept.", hint="build it again with --keep.")
    folder.mkdir(parents=True, exist_ok=True)
    found = calibrations_from_rows(plan, rows)
    (folder / "calibrations.json").write_text(
        json.dumps([one.model_dump(mode="json") for one in found], indent=1) + "\n"
    )
    write_organisms(folder / "organisms.parquet", rows)
    written = ["calibrations.json", "organisms.parquet"]
    standard = next((one for one in found if one.identity.method == METHOD), None)
    fit = None if standard is None else fit_of((one.organism for one in standard.scores), workspace, plan)
    if standard is not None and fit is not None:
        written.append(write_effects(folder, fit, standard))
    for name, source in kept.items():
        target = folder / "adapters" / name
        target.mkdir(parents=True, exist_ok=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(source / file, target / file)
            written.append(f"adapters/{name}/{file}")
    return written


def adapter_folder(workspace: Workspace, plan: AuditPlan, one: Organism) -> Path:
    """Where an organism's weights are while they are needed, and stay where they are kept."""
    return Path(workspace.files.native(ADAPTERS)) / weights_name(one, plan.reference.revision)
