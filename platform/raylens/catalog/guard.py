"""The guard (A2.15): model, SAE and label source must belong together, or nothing starts.

What is compared, and what may be overridden:

==============  ====================================================================  ==========
what            against                                                               overridable
==============  ====================================================================  ==========
hook point      the names that exist; the model's number of layers                    no
width           ``d_in`` against ``d_model`` where the point is that wide;            no
                latents against the catalogue
weights         the SAE's own config against the catalogue's row                      no
label source    its model, layer, kind and width against the SAE                      no
model           the model the SAE was trained on, by any of its names; a base model   yes
                and its instruction-tuned sibling are two
==============  ====================================================================  ==========

Functions of names and numbers. Of an SAE in sae-lens's directory the catalogue's model counts, and not
the one in the loaded config: the loader takes ``llama_scope_r1_distill`` for SAEs of Llama-3.1-8B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raylens.catalog.aliases import Aliases, is_folder
from raylens.catalog.entries import OTHER_MODEL, CatalogEntry
from raylens.catalog.lookup import Catalog, built_in
from raylens.catalog.points import GLOBAL, KNOWN, is_residual_wide
from raylens.catalog.sources import LabelSource, label_problem
from raylens.errors import MismatchError
from raylens.home import from_home
from raylens.ids import HookPoint, SaeId
from raylens.specs import ModelInfo, SaeSpec

OVERRIDE: Final = "--override-guard"
_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Fit:
    """What the guard found of a pair that may be used.

    Attributes:
        model: The model's one name.
        trained_on: The model the SAE was trained on; None where nothing says.
        other_model: It was trained on another model, and that was overridden.
        label_source: Where its labels live, checked; None without labels.
        note: What the run should say about the pair; empty if nothing.
    """

    model: str
    trained_on: str | None
    other_model: bool
    label_source: str | None
    note: str


@dataclass(frozen=True, slots=True)
class _Claims:
    """All that is known of the SAE: its own config (``spec``), and the catalogue's row (``entry``)."""

    id: SaeId
    trained_on: str | None
    hook: HookPoint | None
    layer: int | None
    d_in: int | None
    width: int | None
    label_source: str | None


def guard(
    model: ModelInfo,
    sae: SaeSpec | CatalogEntry,
    label_source: str | None = None,
    *,
    override: bool = False,
    catalog: Catalog | None = None,
    entry: CatalogEntry | None = None,
) -> Fit:
    """Check that ``model``, ``sae`` and ``label_source`` belong together.

    Args:
        model: What runs.
        sae: What reads it: its config, or its catalogue row where no config is at hand.
        label_source: A Neuronpedia id to take labels from, where another than the SAE's own is asked for.
        override: Allow an SAE that was trained on another model; nothing else is allowed by it.
        catalog: For names, known corrections, and what does fit; by default the built-in one, which knows
            nothing of a user's own file.
        entry: The catalogue's row that ``sae`` was asked for by; by default the one of its id. A row with a
            ``path`` leads to a folder, whose config has an id of its own.

    Raises:
        MismatchError: they do not belong together; says what is wrong and what does fit.
        InputError: ``label_source`` is no label source.
    """
    catalog = catalog or built_in()
    aliases = catalog.aliases
    if isinstance(sae, CatalogEntry):
        claims = _claims_of_row(sae, aliases)
        disagreement = None
    else:
        entry = entry or catalog.get(sae.id)
        claims = _claims_of_config(sae, entry, aliases)
        disagreement = _disagreement(sae, entry, aliases) if entry is not None else None
    name = _identity(model.name, aliases)
    trained_on = claims.trained_on
    other = trained_on is not None and trained_on != name
    problem = _point_problem(model, claims.hook, claims.layer) or _width_problem(model, claims) or disagreement
    if problem:
        of_other = f" (it was {OTHER_MODEL}, {trained_on})" if other else ""
        raise MismatchError(
            f"SAE {claims.id} does not fit {model.name}: {problem}{of_other}.", hint=_fits(name, claims, catalog)
        )
    if other and not override:
        raise MismatchError(
            f"SAE {claims.id} was {OTHER_MODEL}: {trained_on}, not {name}.",
            hint=f"{_fits(name, claims, catalog)}{_local_copy(model, trained_on)} "
            f"To use it all the same, say so with {OVERRIDE}.",
        )
    chosen = label_source or claims.label_source
    if chosen is not None:
        _check_labels(chosen, claims, trained_on or name, aliases)
    note = ""
    if other:
        note = f"SAE {claims.id} was {OTHER_MODEL} ({trained_on}); its features and labels may not hold for {name}"
    elif trained_on is None:
        note = f"SAE {claims.id} does not say which model it was trained on"
    return Fit(name, trained_on, other, chosen, note)


def _identity(name: str, aliases: Aliases) -> str:
    """A model's one name; folders are told apart by their whole path."""
    known = aliases.canonical(name)
    if known == name.strip() and is_folder(name):
        return aliases.canonical(str(from_home(name).absolute()))  # not resolve(): that reads the disk
    return known


def _claims_of_row(entry: CatalogEntry, aliases: Aliases) -> _Claims:
    model = _identity(entry.model, aliases)
    return _Claims(entry.sae, model, entry.hook, entry.layer, entry.d_in, entry.width, entry.neuronpedia_id)


def _claims_of_config(spec: SaeSpec, entry: CatalogEntry | None, aliases: Aliases) -> _Claims:
    stated = entry.model if entry is not None else spec.model_name
    # The catalogue's labels are checked and corrected; a config's are as sae-lens's directory has them.
    labels = entry.neuronpedia_id if entry is not None else spec.neuronpedia_id
    trained_on = _identity(stated, aliases) if stated else None
    return _Claims(spec.id, trained_on, spec.hook, spec.hook.layer_index, spec.d_in, spec.d_sae, labels)


def _point_problem(model: ModelInfo, hook: HookPoint | None, layer: int | None) -> str | None:
    if hook is not None and not hook.is_module_path:
        if hook.name not in KNOWN:
            return f"there is no hook point {hook.name}; there are {', '.join(sorted(KNOWN))}"
        if (hook.name in GLOBAL) != (hook.layer is None):
            return f"{hook} {'takes no' if hook.name in GLOBAL else 'needs a'} layer"
    if layer is not None and layer >= model.n_layers:
        what = hook or f"layer {layer}"
        return f"it reads {what}, and the model has layers 0 to {model.n_layers - 1}"
    return None


def _width_problem(model: ModelInfo, claims: _Claims) -> str | None:
    if claims.hook is None or claims.d_in is None or not is_residual_wide(claims.hook):
        return None
    if claims.d_in != model.d_model:
        return f"it reads {claims.d_in} values a token, and {claims.hook} has {model.d_model}"
    return None


def _disagreement(spec: SaeSpec, entry: CatalogEntry, aliases: Aliases) -> str | None:
    """Where an SAE's own config contradicts its catalogue row."""
    if entry.hook is not None and spec.hook != entry.hook:
        return f"its config reads {spec.hook}, the catalogue says {entry.hook}"
    if entry.layer is not None and spec.hook.layer_index not in (entry.layer, None):
        return f"its config reads layer {spec.hook.layer_index}, the catalogue says {entry.layer}"
    if entry.width is not None and spec.d_sae != entry.width:
        return f"its weights have {spec.d_sae} latents, the catalogue says {entry.width}"
    if entry.d_in is not None and spec.d_in != entry.d_in:
        return f"its weights read {spec.d_in} values a token, the catalogue says {entry.d_in}"
    if entry.source == "user" and spec.model_name:
        stated = _identity(spec.model_name, aliases)
        if stated != _identity(entry.model, aliases):
            return f"its config says it was trained on {stated}, the catalogue says {entry.model}"
    return None


def _check_labels(text: str, claims: _Claims, model: str, aliases: Aliases) -> None:
    problem = label_problem(
        LabelSource.parse(text),
        model=model,
        canonical=aliases.canonical,
        layer=claims.layer,
        hook=claims.hook,
        width=claims.width,
    )
    if problem:
        own = f"its own labels are {claims.label_source}" if claims.label_source not in (None, text) else "name none"
        raise MismatchError(f"label source {text} does not belong to SAE {claims.id}: it {problem}.", hint=f"{own}.")


def _fits(name: str, claims: _Claims, catalog: Catalog) -> str:
    """What does fit: SAEs for this model, and the model for this SAE."""
    for_model = _some(catalog.trained_on(name))
    parts = [f"{name} has {for_model}." if for_model else f"no SAE for {name} is known."]
    if claims.trained_on is not None and claims.trained_on != name:
        parts.append(f"{claims.id} fits {claims.trained_on}.")
    return " ".join(parts)


def _some(entries: Sequence[CatalogEntry]) -> str:
    """The best few, each of another release where there are enough, and how many more there are."""
    best = sorted(entries, key=CatalogEntry.preference)
    a_release: dict[str, CatalogEntry] = {}
    for entry in best:
        a_release.setdefault(entry.sae.release, entry)
    shown = [*a_release.values(), *(entry for entry in best if a_release[entry.sae.release] is not entry)][:_SHOWN]
    more = f" and {len(best) - len(shown)} more" if len(best) > len(shown) else ""
    return ", ".join(str(entry.sae) for entry in shown) + more


def _local_copy(model: ModelInfo, trained_on: str | None) -> str:
    if not is_folder(model.name):
        return ""
    return f" If the folder is a copy of {trained_on}, say so in catalog.yaml (aliases: {model.name}: {trained_on})."
