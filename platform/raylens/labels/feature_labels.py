"""What a report says of each feature: an explanation, or an honest proxy for one (A2.06, A2.14).

Explanations come from elsewhere or from the workspace's own explainers; it is all one here. A proxy always comes
with its cosine, says so where that is low, and stands under a field name of its own, so that no program takes it for
an explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raylens.labels.best import best
from raylens.labels.explanations import Explanation
from raylens.labels.proxies import LOW_MARK, Decoder, Neighbour, nearest_explained


@dataclass(frozen=True, slots=True)
class FeatureLabel:
    """What is said of one feature.

    Attributes:
        feature: Its index.
        explanation: What was said of it, if anything was.
        neighbours: Without an explanation: the nearest features that have one, each with it; the nearest first.
        shows_low: Whether the text of a neighbour of low similarity may be shown as proxy.
    """

    feature: int
    explanation: Explanation | None = None
    neighbours: tuple[tuple[Neighbour, Explanation], ...] = ()
    shows_low: bool = True

    @property
    def nearest(self) -> Neighbour | None:
        """The nearest neighbour, of a feature without an explanation."""
        return self.neighbours[0][0] if self.neighbours else None

    @property
    def proxy(self) -> str | None:
        """The nearest neighbour's explanation, marked where it is far away; None where it may not be shown then."""
        if not self.neighbours:
            return None
        nearest, said = self.neighbours[0]
        if not nearest.is_low:
            return said.description
        return f"{said.description} {LOW_MARK}" if self.shows_low else None

    def fields(self) -> dict[str, Any]:
        """As JSON shows it; the same keys for every feature."""
        one, nearest = self.explanation, self.nearest
        return {
            "explanation": one.description if one else None,
            "explanation_type": one.type_name if one else None,
            "explanation_model": one.model if one else None,
            "explanation_score": one.score if one else None,
            "proxy_explanation": self.proxy,
            "proxy_explanation_cosine": nearest.cosine if nearest else None,
            "proxy_low_similarity": nearest.is_low if nearest else None,
            "neighbours": [
                {"feature": near.feature, "cosine": near.cosine, "explanation": said.description}
                for near, said in self.neighbours
            ],
        }


Look = Callable[[Iterable[int]], Mapping[int, Iterable[Explanation]]]
"""Features → what is said of them; those of which nothing is may be left out."""


def label_features(
    features: Iterable[int],
    look: Look,
    explained: Callable[[], Iterable[int]],
    decoder: Decoder | None,
    *,
    n_neighbours: int = 3,
    hide_low_similarity: bool = False,
) -> list[FeatureLabel]:
    """What is said of some features, in their order.

    ::

        def look(features):
            return {index: one.explanations for index, one in client.labels(source, features).items()}

        label_features(top, look, lambda: client.store.explained(source), decoder)

    Args:
        features: Which.
        look: Called with them, and then with their neighbours.
        explained: Features of the SAE that something is said of, which is all a neighbour can be; called after the
            first look, which may have found more.
        decoder: The SAE's, as :mod:`raylens.labels.proxies` takes it; None for no proxies.
        n_neighbours: Neighbours listed at most.
        hide_low_similarity: Show no text of a proxy of low similarity; its neighbours stay listed.

    Raises:
        InputError: A feature is beyond the decoder.
    """
    wanted = list(features)
    found = look(wanted)
    direct = {feature: best(found.get(feature, ())) for feature in wanted}
    bare = [feature for feature, one in direct.items() if one is None]
    near: Mapping[int, tuple[Neighbour, ...]] = {}
    said: dict[int, Explanation] = {}
    if decoder is not None and bare:
        near = nearest_explained(decoder, bare, explained(), k=n_neighbours)
        there = sorted({one.feature for listed in near.values() for one in listed})
        said = {feature: one for feature, some in look(there).items() if (one := best(some)) is not None}
    return [
        FeatureLabel(
            feature,
            direct[feature],
            tuple((one, said[one.feature]) for one in near.get(feature, ()) if one.feature in said),
            shows_low=not hide_low_similarity,
        )
        for feature in wanted
    ]
