"""Exporting a patch: edits as hooks, weights that may stand for them, each measured, and the best of them written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import torch

from raylens import __version__
from raylens.api.edits import FeatureMax, PatchSpec
from raylens.engine.adapter_merge import factors as adapter_factors
from raylens.engine.candidates import Candidate
from raylens.engine.load import LoadedModel, tokenizer_fingerprint
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError
from raylens.workbench.edits import LoadedEdit, find_feature, load_edits
from raylens.workbench.feature_scale import sample_scale
from raylens.workbench.patch_adapter import require_place, write_patch
from raylens.workbench.patch_choice import choose, exact_form, is_fitted, near_forms, plain_forms
from raylens.workbench.patch_divergence import Variant, measure, target_name
from raylens.workbench.patch_factors import Changes, Factors, applied
from raylens.workbench.patch_fit import joined
from raylens.workbench.patch_forms import Form, in_forward_order, require_last_writer, why_not_exact
from raylens.workbench.patch_record import Measured, PatchedAdapter, PatchedModel, PatchRecord
from raylens.workbench.patch_text import CTX_LEN, FITTED_TO, MEASURED_ON, N_TOKENS, PatchText, read_text, states

NOISE: Final = 1e-3
"""Nats: what an exact form may diverge by in 16 bits. One that does more is not called exact."""
STRONGEST: Final = 100.0
"""Of a vector that is added, in lengths of the stream's."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """How a patch is exported.

    Attributes:
        text: To measure on.
        fit_text: To fit biases and predictions to; must not be what is measured on.
        n_tokens: Of either, about.
        ctx_len: Tokens of a window.
        approximate: Also export edits of some tokens only, as ones of all tokens.
        form: Which to write; None for the best.
        fit: Also try forms that are fitted to ``fit_text``.
        report: Called with what is done, predictions done and how many there are.
    """

    text: str = MEASURED_ON
    fit_text: str = FITTED_TO
    n_tokens: int = N_TOKENS
    ctx_len: int = CTX_LEN
    approximate: bool = False
    form: str | None = None
    fit: bool = True
    report: Callable[[str, int, int], None] = field(default=lambda _what, _done, _all: None)


@dataclass(frozen=True, slots=True, eq=False)
class Patchable:
    """What a patch is made for.

    Attributes:
        loaded: The model that is edited; of a fine-tune with its adapter merged in.
        base: What an adapter is loaded on: the same, or what the fine-tune's adapter is for.
        candidate: The fine-tune, where it is an adapter.
        included: Whether the exported adapter shall hold that one too.
    """

    loaded: LoadedModel
    base: LoadedModel
    candidate: Candidate | None = None
    included: bool = True


def export_patch(
    subject: Patchable,
    spec: PatchSpec,
    saes: Mapping[str, LoadedSae],
    default: str | None,
    out: Path,
    settings: ExportSettings = ExportSettings(),
    maxima: Mapping[str, FeatureMax] | None = None,
) -> PatchRecord:
    """Export a patch as an adapter.

    Args:
        subject: The model.
        spec: The patch.
        saes: By id: those that the patch names.
        default: Of these, whose features ``f_3_17`` are.
        out: A new folder, or that of an earlier patch.
        settings: How.
        maxima: Of features whose strengths are in units of it, by how edits name them; others are measured on a sample.

    Returns:
        What ``patch.json`` says.

    Raises:
        InputError: Nothing stands for an edit; it acts on some tokens only; it is absurdly strong; or ``out`` is taken.
        MismatchError: The patch does not fit the model.
        UnknownNameError: The model lacks a point, an SAE a feature, or there is no such form.
        RunError: What comes of an edit is not finite.
    """
    require_place(out)
    loaded = subject.loaded
    known = known_maxima(loaded, spec, saes, default, maxima or {})
    edits, names = loaded_edits(loaded, spec, saes, default, known)
    for edit in edits:
        require_last_writer(loaded, edit.hook)
    reasons = [reason for edit in edits if (reason := why_not_exact(loaded, edit))]
    partly = next((edit for edit in edits if edit.where != "all"), None)
    if partly is not None and not settings.approximate:
        raise InputError(
            f"no weights act on some tokens only, and an edit at {partly.hook} is of {_those(partly)}.",
            hint="--approximate exports what comes nearest, with how far it is off.",
        )
    more = _candidate_factors(subject)
    text = read_text(loaded, settings.text, settings.n_tokens, settings.ctx_len)
    require_sane(loaded, edits, text)
    if not reasons:
        forms = [exact_form(loaded, edits)]
    elif settings.fit:
        fit_text = read_text(loaded, settings.fit_text, settings.n_tokens, settings.ctx_len)
        forms = near_forms(loaded, edits, fit_text, partial(settings.report, "fitting"))
    else:
        forms = plain_forms(loaded, edits)
    measured = _measured(loaded, edits, names, forms, text, settings)
    chosen = choose(measured, settings.form)
    changes = next(form.changes for form in forms if form.name == chosen.name)
    why = reasons[0] if reasons else ""
    if not reasons and chosen.kl.value > NOISE:
        why = f"it should be exact, and diverges by {chosen.kl.value:.2g} nats"
    record = PatchRecord(
        raylens=__version__,
        created_at=datetime.now(UTC),
        spec=spec.model_copy(update={"model": loaded.name if subject.candidate is None else subject.base.name}),
        model=patched_model(subject.base),
        adapter=_patched_adapter(subject),
        saes={name: sae.fingerprint for name, sae in saes.items()},
        maxima=dict(known),
        form=chosen.name,
        exact=not why,
        why_not=why,
        fitted_to=settings.fit_text if is_fitted(chosen.name) else None,
        measured=measured,
        weights="",
    )
    return write_patch(out, subject.base, joined(more, changes), record)


def known_maxima(
    loaded: LoadedModel,
    spec: PatchSpec,
    saes: Mapping[str, LoadedSae],
    default: str | None,
    given: Mapping[str, FeatureMax],
) -> dict[str, FeatureMax]:
    """Maxima of features whose strengths are in units of it: those that are given, and others from a sample of text."""
    found: dict[str, FeatureMax] = {}
    for edit in spec.edits:
        if edit.feature is None or edit.unit != "max" or edit.method not in ("add", "clamp"):
            continue
        if edit.feature in given:
            found[edit.feature] = given[edit.feature]
        elif edit.feature not in found:
            sae, index = find_feature(edit, saes, default)
            (found[edit.feature],) = sample_scale(loaded, sae).of([index])
    return found


def loaded_edits(
    loaded: LoadedModel,
    spec: PatchSpec,
    saes: Mapping[str, LoadedSae],
    default: str | None,
    maxima: Mapping[str, FeatureMax],
) -> tuple[list[LoadedEdit], list[str]]:
    """Edits of a patch in forward order, and the name of what each is about; raises as :func:`export_patch`."""
    values: dict[tuple[str, int], float] = {}
    for edit in spec.edits:
        if edit.feature is not None and edit.feature in maxima:
            sae, index = find_feature(edit, saes, default)
            values[str(sae.id), index] = maxima[edit.feature].value

    def largest(sae: LoadedSae, index: int) -> float:
        if (str(sae.id), index) not in values:
            raise InputError(
                f"the maximum of {sae.id}/{index} is not known.", hint="give the strength as an activation."
            )
        return values[str(sae.id), index]

    made = load_edits(loaded, spec, saes, default, largest)
    names = {id(one): target_name(one, edit.direction or "") for one, edit in zip(made, spec.edits, strict=True)}
    ordered = in_forward_order(loaded, made)
    return ordered, [names[id(one)] for one in ordered]


def patched_model(loaded: LoadedModel) -> PatchedModel:
    """What an adapter is for."""
    return PatchedModel(
        name=loaded.name,
        revision=loaded.revision,
        tokenizer=tokenizer_fingerprint(loaded.tokenizer),
        d_model=loaded.d_model,
        n_layers=loaded.n_layers,
    )


def require_sane(loaded: LoadedModel, edits: Sequence[LoadedEdit], text: PatchText) -> None:
    """Refuse to add what drowns the stream.

    Raises:
        InputError: A vector is many times as long as what it is added to.
    """
    adding = [edit for edit in edits if edit.method in ("add", "clamp")]
    if not adding:
        return
    batch = next(iter(text.batches(loaded)))
    held = states(loaded, batch, nullcontext(), list(dict.fromkeys(edit.hook for edit in adding)))
    for edit in adding:
        length = abs(edit.value) * (1.0 if edit.sae is None else float(edit.sae.decoder_norms[edit.feature]))
        usual = float(held[edit.hook].norm(dim=-1).median())
        if length > STRONGEST * usual:
            raise InputError(
                f"an edit at {edit.hook} adds a vector {length / usual:,.0f} times as long as what is there.",
                hint=f"lower its strength: {STRONGEST:.0f} times is the most.",
            )


def _measured(
    loaded: LoadedModel,
    edits: Sequence[LoadedEdit],
    names: Sequence[str],
    forms: Sequence[Form],
    text: PatchText,
    settings: ExportSettings,
) -> Measured:
    n_all = sum(window.n_text_tokens - 1 for window in text.windows)
    variants = {form.name: variant_of(loaded, form.changes) for form in forms}
    report = partial(_report_measured, settings, n_all)
    return measure(loaded, edits, variants, text, settings.n_tokens, names, report)


def variant_of(loaded: LoadedModel, changes: Changes) -> Variant:
    """The model with changes hooked in."""
    rank = max(factors.rank for factors in changes.values())
    biased = any(factors.bias is not None for factors in changes.values())
    return Variant(loaded, partial(applied, loaded, changes), len(changes), rank, biased)


def _report_measured(settings: ExportSettings, n_all: int, done: int) -> None:
    settings.report("measuring", done, n_all)


def _candidate_factors(subject: Patchable) -> Changes:
    """What the fine-tune's own adapter does, where it is to be included."""
    if subject.candidate is None or subject.candidate.adapter is None or not subject.included:
        return {}
    try:
        found = adapter_factors(subject.candidate.adapter)
    except InputError as error:
        raise InputError(error.message, hint="export the patch alone: --patch-only.") from error
    with torch.no_grad():
        return {name: Factors(a, b, bias) for name, (a, b, bias) in found.items()}


def _patched_adapter(subject: Patchable) -> PatchedAdapter | None:
    if subject.candidate is None or subject.candidate.adapter is None:
        return None
    adapter = subject.candidate.adapter
    return PatchedAdapter(name=adapter.name, fingerprint=adapter.fingerprint, included=subject.included)


def _those(edit: LoadedEdit) -> str:
    return {"prompt": "the prompt's", "generated": "those that are written", "firing": "those where it fires"}[
        edit.where
    ]
