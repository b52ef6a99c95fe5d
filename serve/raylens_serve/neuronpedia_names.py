"""Which SAE a Neuronpedia source is, of which model: those of the workspace, of the bundle, and of the catalogue."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from raylens.catalog.entries import CatalogEntry
from raylens.errors import UnknownNameError
from raylens.ids import SaeId
from raylens.labels.names import NeuronpediaId, local_source
from raylens.labels.workspace_features import WorkspaceFeatures


@dataclass(frozen=True, slots=True)
class Named:
    """An SAE, by the name that Neuronpedia's clients use.

    Attributes:
        source: That name.
        sae: The SAE.
        model: The one name of its model.
    """

    source: NeuronpediaId
    sae: SaeId
    model: str

    def is_of(self, source_set: str) -> bool:
        """Whether a client means it by a set of sources: what follows the layer, or the SAE's release."""
        return not source_set or source_set in {
            self.source.source,
            self.source.source.partition("-")[2],
            self.sae.release,
        }


class SourceNames:
    """Looks sources up.

    Args:
        features: The workspace's.
        served: SAEs that texts can be read with: of weights that the catalogue lists twice, these count.
    """

    def __init__(self, features: WorkspaceFeatures, served: Collection[str] = ()) -> None:
        self._features, self._catalog, self._served = features, features.catalog, served

    def near(self, model: str) -> list[Named]:
        """The SAEs of the workspace and of the bundle that go by a model of Neuronpedia's."""
        sources = self._features.own.sources().values()
        mine = [Named(one.source, one.sae, self._features.model_of(one)) for one in sources]
        held = {one.sae for one in mine}
        found = [one for one in (*mine, *self._bundled) if one.source.model == model]
        return sorted((one for one in found if one in mine or one.sae not in held), key=lambda one: one.source)

    def find(self, model: str, source: str) -> Named:
        """The SAE of one source.

        Raises:
            UnknownNameError: There is none; says which sources of the model there are.
        """
        near = self.near(model)
        if found := next((one for one in near if one.source.source == source), None):
            return found
        if entry := self._elsewhere.get(f"{model}/{source}"):
            return Named(NeuronpediaId(model, source), entry.sae, entry.model)
        known = [str(one.source) for one in near] or [name for name in self._elsewhere if name.startswith(f"{model}/")]
        raise UnknownNameError.among("source", f"{model}/{source}", known)

    @cached_property
    def _bundled(self) -> tuple[Named, ...]:
        entries = (entry for entry in self._catalog.entries if entry.source == "bundle")
        return tuple(Named(_name(entry), entry.sae, entry.model) for entry in entries)

    @cached_property
    def _elsewhere(self) -> dict[str, CatalogEntry]:
        """SAEs of the catalogue by the Neuronpedia id of their labels; of several a served one, else the first."""
        named = [entry for entry in self._catalog.entries if entry.neuronpedia_id is not None]
        named.sort(key=lambda entry: (str(entry.sae) not in self._served, entry.sae), reverse=True)
        return {str(entry.neuronpedia_id): entry for entry in named}


def _name(entry: CatalogEntry) -> NeuronpediaId:
    known = entry.neuronpedia_id
    return NeuronpediaId.parse(known) if known else local_source(entry.sae, entry.model, entry.layer)
