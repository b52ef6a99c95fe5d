"""All that is said of an SAE's features: by the workspace's explainers and people, and elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from raylens.catalog import Catalog
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


class Lookup:
    """Looks up what is said of the features of one SAE.

    Neuronpedia is asked only where ``NEURONPEDIA_EXPLANATIONS_MODE`` says so.

    Args:
        workspace: Where explanations, people's labels and kept ones are.
        own: Its features; shared where several look.
        here: The SAE in it; None where no cache holds it.
        source: Where its labels live elsewhere; None where that is not known.
        settings: Whether Neuronpedia may be asked; by default as the environment says.
        others: The SAE in further caches: what a latent means follows from its weights, whatever text was read.
    """

    def __init__(
        self,
        workspace: Workspace,
        own: OwnFeatures,
        here: Own | None,
        source: NeuronpediaId | None,
        settings: LabelSettings | None = None,
        others: Sequence[Own] = (),
    ) -> None:
        self.here, self.source = here, source
        self.held = (*others, here) if here is not None else tuple(others)
        self.unanswered: set[int] = set()
        """Features looked up that Neuronpedia was asked for and did not answer."""
        self._own = own
        self._client = LabelClient(LabelStore(workspace.files), settings or LabelSettings.from_environment())

    @classmethod
    def of_sae(cls, workspace: Workspace, catalog: Catalog, sae: SaeSpec) -> Lookup:
        """Of an SAE that may be in the workspace or not."""
        own = OwnFeatures(workspace, catalog)
        held, source = own.held(sae.id), label_source(sae.id, catalog, own=sae.neuronpedia_id)
        return cls(workspace, own, held[-1] if held else None, source, others=held[:-1])

    @property
    def asks(self) -> bool:
        """Whether Neuronpedia may be asked for what is missing."""
        return self.source is not None and self._client.settings.mode == "remote_fallback"

    def look(self, features: Iterable[int]) -> Mapping[int, list[Explanation]]:
        """Everything that is said of features, each of them in the answer."""
        wanted = list(features)
        found: dict[int, list[Explanation]] = {feature: [] for feature in wanted}
        for cache in self.held:
            for feature, said in self._own.explanations_in(cache, wanted).items():
                read = (read_explanation(one) for one in said)
                found[feature] += [one for one in read if one is not None]
        if self.source is not None:
            for feature, looked in self._client.labels(self.source, wanted).items():
                found[feature] += looked.explanations
                (self.unanswered.add if self.asks and looked.why else self.unanswered.discard)(feature)
        return found

    def explained(self) -> list[int]:
        """Features of which something is said."""
        known = {feature for cache in self.held for feature in self._own.explained_in(cache)}
        kept = self._client.store.explained(self.source) if self.source is not None else np.empty(0, np.int64)
        return sorted({*known, *kept.tolist()})

    def labels(
        self, features: Iterable[int], decoder: Decoder | None, *, hide_low_similarity: bool = False
    ) -> list[FeatureLabel]:
        """What is said of features, in their order: an explanation, or a proxy."""
        return label_features(features, self.look, self.explained, decoder, hide_low_similarity=hide_low_similarity)

    def close(self) -> None:
        """Keep what was learnt, and let go of connections."""
        self._client.close()
