"""The one answer to "can features of this model be read?", for the CLI, the app and HTTP alike.

====================  =====================================================  =====================================
status                when                                                   what it offers
====================  =====================================================  =====================================
``supported``         SAEs were trained on it                                those
``other-model``       only siblings of it have SAEs                          theirs, on explicit order (A0.04)
``api-only``          nobody outside its maker has the weights               ablation, counterfactuals (A0.06)
``unknown``           no SAE and no sibling is known                         close matches
``unnamed``           a span without a model attribute                       naming the model (A0.23)
====================  =====================================================  =====================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raylens.catalog.entries import OTHER_MODEL, CatalogEntry
from raylens.catalog.lookup import Catalog
from raylens.catalog.remote import FALLBACK, api_only
from raylens.errors import UnknownNameError

Status = Literal["supported", "other-model", "api-only", "unknown", "unnamed"]


@dataclass(frozen=True, slots=True)
class Support:
    """Whether features of a model can be read, why, and what to do.

    Attributes:
        model: Canonical name; None where none was given.
        status: See the module.
        reason: One sentence.
        hint: What to do next.
        entries: SAEs trained on the model.
        related: SAEs trained on another model of its shape and ancestor.
        fallback: What needs no activations, where nothing else is left.
    """

    model: str | None
    status: Status
    reason: str
    hint: str
    entries: tuple[CatalogEntry, ...] = ()
    related: tuple[CatalogEntry, ...] = ()
    fallback: tuple[str, ...] = ()

    def row(self) -> dict[str, object]:
        """A JSON-able form."""
        return {
            "model": self.model,
            "status": self.status,
            "reason": self.reason,
            "hint": self.hint,
            "fallback": list(self.fallback),
            "saes": [entry.row() | {"fit": "exact"} for entry in self.entries]
            + [entry.row() | {"fit": OTHER_MODEL} for entry in self.related],
        }


def support(catalog: Catalog, model: str | None) -> Support:
    """Answer for one model, by any of its names; never raises."""
    if model is None or not model.strip():
        return Support(
            None,
            "unnamed",
            "no model is named, so nobody knows whose activations to read.",
            "set the model attribute of the span, or name a model.",
            fallback=FALLBACK,
        )
    name = catalog.aliases.canonical(model)
    own, related = catalog.trained_on(name), catalog.related(name)
    if own:
        reason = f"SAEs trained on {name}: {len(own)}."
        best = min(own, key=CatalogEntry.preference)
        return Support(name, "supported", reason, f"raylens cache --model {name} --sae {best.sae}", own, related)
    if remote := api_only(model):
        return Support(remote.name, "api-only", f"{remote.reason}.", remote.hint, fallback=FALLBACK)
    if related:
        models = ", ".join(dict.fromkeys(entry.model for entry in related))
        return Support(
            name,
            "other-model",
            f"no SAE was trained on {name}; those of its shape were {OTHER_MODEL}: {models}.",
            "use the model they were trained on, or order it with --override-guard and check their quality first.",
            related=related,
        )
    names = {*catalog.models, *(alias for known in catalog.models for alias in catalog.aliases.of(known))}
    unknown = UnknownNameError.among("model", model, names)
    return Support(name, "unknown", f"no SAE is known for {name}.", unknown.hint, fallback=FALLBACK)


def supported_models(catalog: Catalog) -> list[dict[str, object]]:
    """The live list of models and their releases (A0.07): JSON-able rows, one a model and release.

    What is near at hand (the bundle, the user's own) comes first, then by model and release.
    """
    summaries = sorted(catalog.summaries(), key=lambda s: (s.source == "sae-lens", s.model.casefold(), s.release))
    return [summary.row() | {"aliases": list(catalog.aliases.of(summary.model))} for summary in summaries]
