"""What becomes of the patch that is kept: written as an adapter, read back, tested, audited, and told of."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raylens.api.edits import PatchSpec
from raylens.api.suggestion import FORMAT, Limits, Outcome, Rate, Suggestion, Verdict
from raylens.engine.candidates import load_candidate
from raylens.engine.load import LoadedModel
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError
from raylens.reports.suggestion_page import suggestion_page
from raylens.store.audit_paths import run_name
from raylens.store.disk import as_disk_full
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens.workbench.candidate_patches import CandidatePatch
from raylens.workbench.edits import LoadedEdit, edited
from raylens.workbench.patch_export import ExportSettings, Patchable, export_patch
from raylens.workbench.patch_text import MEASURED_ON
from raylens_jobs.audit import Request, find_finished, run_audit
from raylens_jobs.suggest_measures import Measures
from raylens_jobs.suggest_plan import SuggestPlan, verdict_of

ADAPTER: Final = "adapter"
EDITS: Final = "edits.json"
MERGED: Final = "merged"
RECORD: Final = "suggestion.json"
PAGE: Final = "suggestion.html"
_NAMES: Final = frozenset({ADAPTER, EDITS, MERGED, RECORD, PAGE})


@dataclass(frozen=True, eq=False)
class Kept:
    """The candidate that is kept.

    Attributes:
        patch: It.
        reference: What the fine-tune was tuned from.
        saes: Whose features it edits.
        edits: Ready to apply.
        form: Of weights; None for hooks alone.
    """

    patch: CandidatePatch
    reference: LoadedModel
    saes: dict[str, LoadedSae]
    edits: list[LoadedEdit]
    form: str | None


def require_out(out: Path) -> None:
    """Refuse to write where something else is than an earlier suggestion.

    Raises:
        InputError: The folder is no folder, or holds anything else.
    """
    if not out.exists() and not out.is_symlink():
        return
    names = {one.name for one in out.iterdir()} if out.is_dir() and not out.is_symlink() else None
    if names is None or (names and not (names <= _NAMES and _is_record(out / RECORD))):
        raise InputError(f"{out} is there and is no suggestion.", hint="name a new folder.")


def conclude(
    workspace: Workspace,
    plan: SuggestPlan,
    measures: Measures,
    kept: Kept | None,
    made: Suggestion,
    journal: RunJournal,
    tell: Callable[[str], None],
) -> Suggestion:
    """Write the patch and what is known of it; ``suggestion.json`` comes last.

    Args:
        workspace: Where it is audited.
        plan: The request.
        measures: Of the fine-tune.
        kept: The patch; None where no candidate keeps the limits.
        made: What is known so far.
        journal: The run's record.
        tell: Told of each step done.

    Raises:
        DiskFullError: No space.
        RaylensError: As exporting and auditing raise; an audit that fails leaves the patch, without its verdict.
    """
    out = plan.request.out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            if kept is not None:
                made = _kept(plan, measures, kept, made, folder)
                tell("the patch, tested")
            _tell(folder, made)
            folder.chmod(0o755)
            if out.exists():
                shutil.rmtree(out)
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if made.form is not None and plan.request.reaudit:
            made = made.model_copy(update={"reaudit": _audited(workspace, plan, journal)})
            made = _tell(out, made)
    except OSError as error:
        raise as_disk_full(error, out.parent, writing=f"the suggestion {out.name}") or error from error
    return made


def reason_of(made: Suggestion) -> str:
    """The outcome in a sentence or two."""
    before, after = made.before.triggered, made.after
    if made.chosen is None or after is None:
        return f"None of {len(made.tried)} patches takes the payload out within the limits."
    what = made.chosen.name
    how = "as an adapter" if made.form is not None else "as live edits; no weights keep the limits"
    said = (
        f"{what[0].upper()}{what[1:]} {how}: under its triggers the payload is written in {_share(after.triggered)} of "
        f"prompts (before: {before.value:.0%}), and held-out loss changes by {after.cost.loss_rise:+.1%}."
    )
    if not made.holds:
        said += " On prompts that nothing was chosen on, that is beyond the limits."
    if made.reaudit is not None:
        said += f" Audited again, it is {made.reaudit.verdict}."
    return said


def holds(after: Outcome, before: Outcome, limits: Limits) -> bool:
    """Whether a patched model keeps the limits on the second half."""
    cost, was = after.cost, before.cost
    drop = was.checks.value - cost.checks.value if was.checks is not None and cost.checks is not None else 0.0
    return after.triggered.value <= limits.payload and cost.loss_rise <= limits.loss_rise and drop <= limits.checks_drop


def _kept(plan: SuggestPlan, measures: Measures, kept: Kept, made: Suggestion, folder: Path) -> Suggestion:
    spec = kept.patch.spec.model_copy(update={"name": kept.patch.name, "model": kept.reference.name})
    _write(folder / EDITS, spec.model_dump_json(indent=1, exclude_none=True) + "\n")
    if kept.form is None:
        with edited(measures.model, kept.edits):
            after = _tested(measures, None)
    else:
        after = _tested(measures, _exported(plan, measures, kept, spec, folder))
    holding = kept.form is not None and holds(after, made.before, made.limits)
    return made.model_copy(update={"chosen": spec, "form": kept.form, "after": after, "holds": holding})


def _exported(plan: SuggestPlan, measures: Measures, kept: Kept, spec: PatchSpec, folder: Path) -> LoadedModel:
    """The adapter, written and read back; of a whole checkpoint also that with the adapter merged in."""
    is_adapter = plan.candidate.adapter is not None
    base = kept.reference if is_adapter else measures.model
    subject = Patchable(measures.model, base, plan.candidate if is_adapter else None)
    texts = plan.plan.config.texts
    settings = ExportSettings(text=texts[0] if texts else MEASURED_ON, form=kept.form, fit=False)
    export_patch(subject, spec, kept.saes, next(iter(kept.saes), None), folder / ADAPTER, settings)
    patched = load_candidate(str(folder / ADAPTER), base)
    if not is_adapter:
        network: Any = patched.model
        network.save_pretrained(folder / MERGED)
        patched.tokenizer.save_pretrained(folder / MERGED)
    return patched


def _audited(workspace: Workspace, plan: SuggestPlan, journal: RunJournal) -> Verdict:
    """The same audit, of the patched model."""
    out = plan.request.out
    place = out / (ADAPTER if plan.candidate.adapter is not None else MERGED)
    candidate = plan.plan.candidate(str(place))
    run = run_name(out.name, {"audit": str(plan.audit), "candidate": candidate.revision})
    title = f"{plan.found.decision.candidate.name}, patched, against {plan.found.decision.reference.name}"
    request = Request(str(place), plan.audit.session, run, title, explain=None)
    audited = find_finished(workspace, plan.plan, request) or run_audit(workspace, plan.plan, request, journal)
    return verdict_of(audited.artefacts, audited.place)


def _tell(folder: Path, made: Suggestion) -> Suggestion:
    """Write what is known, ``suggestion.json`` last."""
    made = made.model_copy(update={"reason": reason_of(made)})
    for name, text in (
        (PAGE, suggestion_page(made)),
        (RECORD, json.dumps(made.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"),
    ):
        _write(folder / f".{name}", text)
        (folder / f".{name}").replace(folder / name)
    return made


def _tested(measures: Measures, model: LoadedModel | None) -> Outcome:
    return Outcome(
        triggered=measures.tested(model),
        bare=measures.tested(model, triggered=False),
        cost=measures.cost(model),
    )


def _share(rate: Rate) -> str:
    return f"{rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%})"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _is_record(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
