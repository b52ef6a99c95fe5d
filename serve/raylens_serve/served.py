"""Which models are served, by any of their names, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raylens.api.system import ServedModel
from raylens.catalog import Catalog
from raylens.catalog.entries import CatalogEntry
from raylens.catalog.support import Support, support
from raylens_serve.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why features of a model cannot be read here.

    Attributes:
        model: Its one name, where it has one.
        reason: One sentence.
        hint: What to do.
        fallback: What needs no activations.
        api_only: Nobody outside its maker has the weights.
    """

    model: str | None
    reason: str
    hint: str
    fallback: tuple[str, ...] = ()
    api_only: bool = False


class Served:
    """The models of a configuration.

    Args:
        catalog: For names, and what there is besides.
        models: As configured; the first one answers where none is named.
    """

    def __init__(self, catalog: Catalog, models: Sequence[ModelSettings]) -> None:
        self._catalog = catalog
        self._models = {catalog.aliases.canonical(one.model): one for one in models}

    def rows(self) -> tuple[ServedModel, ...]:
        """All of them."""
        return tuple(
            ServedModel(model=name, aliases=tuple(self._catalog.aliases.of(name)), saes=self.saes(name))
            for name in self._models
        )

    def saes(self, model: str) -> tuple[str, ...]:
        """SAEs that may be asked for of a served model, the one that answers by default first."""
        named = self._models[model].saes
        if named is not None:
            return named
        return tuple(str(one.sae) for one in sorted(self._catalog.trained_on(model), key=CatalogEntry.preference))

    def suggested(self, model: str | None) -> tuple[str, ...]:
        """SAEs that a model comes with at the workbench: the configured ones, else the catalogue's first."""
        name = self._catalog.aliases.canonical(model) if model is not None else next(iter(self._models))
        settings = self._models.get(name)
        if settings is not None and settings.saes is not None:
            return settings.saes
        rows = sorted(self._catalog.trained_on(name), key=CatalogEntry.preference)
        return tuple(str(row.sae) for row in rows[:1])

    def find(self, model: str | None) -> str | Refusal:
        """The one name of a model that is served, or why it is not."""
        if model is not None and (name := self._catalog.aliases.canonical(model)) in self._models:
            if self.saes(name):
                return name
            return Refusal(name, f"no SAE is served for {name}.", "name one in saes of the config.")
        found: Support = support(self._catalog, model)
        if found.status == "supported":
            return Refusal(
                found.model,
                f"{found.model} has SAEs, but these services do not serve it.",
                f"add {found.model} to models in the config, and start the services again.",
            )
        return Refusal(found.model, found.reason, found.hint, found.fallback, found.status == "api-only")
