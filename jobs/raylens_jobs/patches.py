"""``raylens patch``: patches as adapters, in this process: model, fine-tune and SAEs are found, checked and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from raylens.api.edits import FeatureMax, PatchSpec
from raylens.catalog import Catalog
from raylens.engine.candidates import load_candidate, locate_candidate
from raylens.engine.load import describe_model, load_model
from raylens.engine.sae_choice import choose
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError, RaylensError
from raylens.ids import ShortFeature
from raylens.store.reader import CacheReader
from raylens.store.selection import feature_of_any_cache, readables
from raylens.store.workspace import Workspace
from raylens.workbench.patch_adapter import require_place
from raylens.workbench.patch_export import ExportSettings, Patchable, export_patch
from raylens.workbench.patch_import import ImportedPatch, require_fits
from raylens.workbench.patch_record import PatchRecord
from raylens.workbench.patch_verify import Verification, verify_patch
from raylens_jobs.named_saes import named_saes


@dataclass(frozen=True, slots=True)
class PatchedSubject:
    """What a patch is for, as it is asked for.

    Attributes:
        model: Bundle, folder or hub id.
        adapter: A fine-tune of it, a LoRA, that the patch is made for.
        patch_only: Keep that fine-tune out of the exported adapter.
        saes: SAEs whose features are edited; by default those that edits name, or the catalogue's first of a layer.
        override_guard: Allow SAEs of another model.
        revision: Of the model on the hub.
        dtype: As :func:`raylens.engine.load.load_model`.
        device: Likewise.
    """

    model: str
    adapter: str | None = None
    patch_only: bool = False
    saes: tuple[str, ...] = ()
    override_guard: bool = False
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"


def run_export(
    asked: PatchedSubject,
    spec: PatchSpec,
    out: Path,
    settings: ExportSettings,
    catalog: Catalog,
    maxima: Mapping[str, FeatureMax],
    say: Callable[[str], None] = lambda _: None,
) -> PatchRecord:
    """Export a patch; what is wrong with names, shapes and places is said before anything is loaded.

    Args:
        asked: The model, and what goes with it.
        spec: The patch.
        out: A new folder, or that of an earlier patch.
        settings: How it is measured and chosen.
        catalog: Knows SAEs.
        maxima: Of features whose strengths are in units of it, by how edits name them.
        say: Told what a person should know of a choice.

    Raises:
        InputError, MismatchError, UnknownNameError, RunError: As :func:`raylens.workbench.patch_export.export_patch`.
    """
    require_place(out)
    require_fits(spec, describe_model(asked.model, revision=asked.revision), catalog.aliases)
    subject, saes = _loaded(asked, spec, catalog, say)
    return export_patch(subject, spec, saes, spec.sae, out, settings, maxima)


def run_verify(
    asked: PatchedSubject,
    folder: Path,
    found: ImportedPatch,
    catalog: Catalog,
    say: Callable[[str], None] = lambda _: None,
    report: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[PatchRecord, Verification]:
    """Load an exported patch by plain peft and measure it again.

    Args:
        asked: As :func:`run_export`; a fine-tune that the patch was made for is that of its record by default.
        folder: Where it lies.
        found: What was read of it.
        catalog: Knows SAEs.
        say: Told what a person should know of a choice.
        report: Called with predictions done, and how many there are.

    Raises:
        InputError, MismatchError, UnknownNameError, RunError: As :func:`raylens.workbench.patch_verify.verify_patch`.
    """
    record = found.record
    if record is None:
        raise InputError(f"{folder} holds edits and no adapter.", hint="raylens patch export makes one of them.")
    require_fits(record.spec, describe_model(asked.model, revision=asked.revision), catalog.aliases)
    subject, saes = _loaded(asked, record.spec, catalog, say)
    return record, verify_patch(subject, record, folder, saes, record.spec.sae, report)


def cached_maxima(workspace: Workspace, spec: PatchSpec) -> dict[str, FeatureMax]:
    """Maxima of features whose strengths are in units of it, of those that a cache of the workspace holds."""
    found: dict[str, FeatureMax] = {}
    for edit in spec.edits:
        if edit.feature is None or edit.unit != "max":
            continue
        try:
            one, index = feature_of_any_cache(readables(workspace), _whole(edit.feature, spec.sae))
            peaks = CacheReader(workspace, one.cache_id).peaks(one.sae, index)
        except RaylensError:  # no cache holds it, or none that can be read
            continue
        if len(peaks) and peaks[0] > 0:
            found[edit.feature] = FeatureMax(value=float(peaks[0]), source=f"cache {one.cache_id}")
    return found


def _loaded(
    asked: PatchedSubject, spec: PatchSpec, catalog: Catalog, say: Callable[[str], None]
) -> tuple[Patchable, dict[str, LoadedSae]]:
    candidate = None
    if asked.adapter is not None:
        candidate = locate_candidate(asked.adapter, base=asked.model)
        if candidate.adapter is None:
            raise InputError(f"{asked.adapter} is a whole model and no adapter.", hint="name it as --model.")
    info = describe_model(asked.model, revision=asked.revision)
    refs = asked.saes or named_saes(spec, catalog, asked.model)
    choices = choose(refs, info, catalog, override=asked.override_guard, say=say)
    base = load_model(asked.model, dtype=asked.dtype, device=asked.device, revision=asked.revision)
    loaded = base if asked.adapter is None else load_candidate(asked.adapter, base)
    saes = [choice.load(str(loaded.device)) for choice, _ in choices]
    subject = Patchable(loaded, base, candidate, included=not asked.patch_only)
    return subject, {str(sae.id): sae for sae in saes}


def _whole(feature: str, sae: str | None) -> str:
    if sae is None or not feature.startswith("f_"):
        return feature
    return f"{sae}/{ShortFeature.parse(feature).index}"
