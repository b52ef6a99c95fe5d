"""Which SAEs the edits of a patch need."""

from __future__ import annotations

from raylens.api.edits import PatchSpec
from raylens.catalog import Catalog
from raylens.catalog.entries import CatalogEntry
from raylens.errors import UnknownNameError
from raylens.ids import FeatureId, ShortFeature


def named_saes(spec: PatchSpec, catalog: Catalog, model: str) -> tuple[str, ...]:
    """SAEs that edits name, and of a layer alone the one that the catalogue would suggest.

    Raises:
        UnknownNameError: None of a layer is known.
    """
    name = catalog.aliases.canonical(model)
    rows = sorted(catalog.trained_on(name), key=CatalogEntry.preference)
    found: dict[str, None] = dict.fromkeys([spec.sae] if spec.sae is not None else [])
    for feature in (edit.feature for edit in spec.edits if edit.feature is not None):
        if not feature.startswith("f_"):
            found[str(FeatureId.parse(feature).sae)] = None
        elif spec.sae is None:
            layer = ShortFeature.parse(feature).layer
            row = next((row for row in rows if row.layer == layer), None)
            if row is None:
                layers = ", ".join(map(str, sorted({row.layer for row in rows if row.layer is not None})))
                there = f"the catalogue has SAEs of its layers {layers}. " if layers else ""
                raise UnknownNameError(
                    f"no SAE of layer {layer} of {name} is known.", hint=f"{there}Name one with --sae."
                )
            found[str(row.sae)] = None
    return tuple(found)
