"""How the latents of an SAE are cut into ranges: the unit of merging, and the name of the file to open.

A fixed function of the width alone, so that shards written years apart agree on it.
"""

from __future__ import annotations

from typing import Final

from raylens.errors import InputError

MAX_RANGES: Final = 256
MIN_LATENTS: Final = 16


def range_width(d_sae: int) -> int:
    """Latents in each range but the last: 16, or what it takes to have at most 256 ranges.

    Raises:
        InputError: ``d_sae`` is not positive.
    """
    if d_sae < 1:
        raise InputError(f"an SAE of {d_sae} latents has no features.", hint="its width must be at least 1.")
    return max(MIN_LATENTS, -(-d_sae // MAX_RANGES))


def feature_ranges(d_sae: int) -> list[tuple[int, int]]:
    """Half-open ``(low, high)`` ranges of features that cover ``0 … d_sae - 1`` in order.

    1536 latents are 96 ranges of 16; 131 072 are 256 of 512. The last may be shorter.
    """
    width = range_width(d_sae)
    return [(low, min(low + width, d_sae)) for low in range(0, d_sae, width)]


def range_of(d_sae: int, feature: int) -> int:
    """Index, in :func:`feature_ranges`, of the range that holds ``feature``.

    Raises:
        InputError: The SAE has no such feature.
    """
    if not 0 <= feature < d_sae:
        raise InputError(f"there is no feature {feature}.", hint=f"features of this SAE are 0 to {d_sae - 1}.")
    return feature // range_width(d_sae)
