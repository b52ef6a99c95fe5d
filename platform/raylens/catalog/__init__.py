"""Which SAE fits which model: the catalogue, and the guard that refuses what does not fit.

Nothing here imports torch, except ``raylens catalog refresh``, which reads sae-lens's directory.
A user's own file is read by :mod:`raylens.catalog.user`.
"""

from __future__ import annotations

from raylens.catalog.aliases import Aliases
from raylens.catalog.entries import OTHER_MODEL, CatalogEntry, ReleaseSummary
from raylens.catalog.guard import Fit, guard
from raylens.catalog.lookup import Catalog
from raylens.catalog.remote import FALLBACK, ApiOnly, api_only
from raylens.catalog.support import Support, support, supported_models

__all__ = [
    "FALLBACK",
    "OTHER_MODEL",
    "Aliases",
    "ApiOnly",
    "Catalog",
    "CatalogEntry",
    "Fit",
    "ReleaseSummary",
    "Support",
    "api_only",
    "guard",
    "support",
    "supported_models",
]
