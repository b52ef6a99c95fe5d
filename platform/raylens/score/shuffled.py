"""The shuffled-explanation control: every feature is scored with the explanation of another.

What a scorer gives to another feature's explanation is what it gives for nothing; a figure means something by how far
it stands above that.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from raylens.score.questions import feature_seed


def givers(explanations: Mapping[int, Hashable], seed: int) -> dict[int, int]:
    """Whose explanation each feature is scored with: the next on a ring, of those that read otherwise.

    Features stand on the ring in an order drawn from ``seed``, each at a place of its own, whatever others there are.
    So another feature changes the control of few, and what was asked about the rest is not asked again. Where no two
    explanations are alike, every one is given once. A feature is left out where all others read like its own.

    Args:
        explanations: Of each feature, anything comparable.
        seed: Of the order.
    """
    ring = sorted(explanations, key=lambda feature: (feature_seed(seed, "shuffled", feature), feature))
    n = len(ring)
    found: dict[int, int] = {}
    for place, feature in enumerate(ring):
        others = (ring[(place + step) % n] for step in range(1, n))
        giver = next((one for one in others if explanations[one] != explanations[feature]), None)
        if giver is not None:
            found[feature] = giver
    return {feature: found[feature] for feature in explanations if feature in found}
