"""What is said of an audit's features: from elsewhere, from the workspace's own explainers, and by its people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from raylens.catalog import Catalog
from raylens.ids import SaeId
from raylens.labels.client import LabelClient
from raylens.labels.explanations import Explanation, read_explanation
from raylens.labels.feature_labels import FeatureLabel, label_features
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId, label_source
from raylens.labels.own_features import Own, OwnFeatures
from raylens.labels.proxies import Decoder
from raylens.labels.settings import LabelSettings
from raylens.specs import SaeSpec
from raylens.store.workspace import Workspace


class FeatureLabels:
    """Looks features of one SAE up, in all that is known of it.

    Args:
        workspace: Where caches, explanations and kept labels are.
        catalog: For Neuronpedia ids.
        sae: Whose features.
        settings: Whether Neuronpedia may be asked; by default as the environment says.
    """

    def __init__(
        self, workspace: Workspace, catalog: Catalog, sae: SaeSpec, settings: LabelSettings | None = None
    ) -> None:
        self._own = OwnFeatures(workspace, catalog)
        self._source = label_source(sae.id, catalog, own=sae.neuronpedia_id)
        self._here = _here(self._own, sae.id)
        self._client = LabelClient(LabelStore(workspace.files), settings or LabelSettings.from_environment())

    @property
    def source(self) -> NeuronpediaId | None:
        """Its Neuronpedia id, where it has one."""
        return self._source

    def of(
        self, features: Iterable[int], decoder: Decoder | None, *, hide_low_similarity: bool = False
    ) -> list[FeatureLabel]:
        """What is said of features, in their order: an explanation, or a proxy."""
        return label_features(features, self._look, self._explained, decoder, hide_low_similarity=hide_low_similarity)

    def close(self) -> None:
        """Keep what was learnt, and let go of connections."""
        self._client.close()

    def _look(self, features: Iterable[int]) -> Mapping[int, Iterable[Explanation]]:
        wanted = list(features)
        found: dict[int, list[Explanation]] = {feature: [] for feature in wanted}
        if self._here is not None:
            for feature in wanted:
                said = (read_explanation(one) for one in self._own.explanations(self._here.source, feature))
                found[feature] += [one for one in said if one is not None]
        if self._source is not None:
            for feature, looked in self._client.labels(self._source, wanted).items():
                found[feature] += looked.explanations
        return found

    def _explained(self) -> list[int]:
        known = self._own.explained(self._here.source) if self._here is not None else []
        kept = self._client.store.explained(self._source) if self._source is not None else np.empty(0, np.int64)
        return sorted({*known, *kept.tolist()})


def _here(own: OwnFeatures, sae: SaeId) -> Own | None:
    return next((one for one in own.sources().values() if one.sae == sae), None)
