"""Which features are worth a look first: an honest, documented guess, not a measure of quality.

A feature is *interesting* here if it is neither rare nor always on, if its strongest windows agree on
the token it peaks on, if they come from different documents, and if that token alone does not decide
whether it fires. The last part tells "``self`` after ``return``" from "every ``self``".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from raylens.ids import SaeId
    from raylens.store.examples import Example
    from raylens.store.reader import CacheReader

TYPICAL_DENSITY: Final = 0.003
SPREAD_DECADES: Final = 0.75
WINDOWS_LOOKED_AT: Final = 10
_MIN_WINDOWS: Final = 20
_CANDIDATES: Final = 120
_TOKEN_ALONE: Final = 0.8
"""How much a feature loses whose token alone decides: such features are read at a glance, and there are many."""

FORMULA: Final = (
    "frequency × agreement × breadth × context, each from 0 to 1. "
    "Frequency: a bell over log10(density), highest at 0.3 % of tokens, 0.75 decades wide. "
    "Of its ten strongest windows: agreement is the share that peaks on the most common token, "
    "breadth the share of different documents, context 1 less 0.8 of the share of that token's occurrences "
    "there on which it fires. Features in fewer than 20 windows are left out, and only the 120 of the most "
    "typical frequency are compared"
)


def frequency(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[n]`` shares of tokens → ``[n]`` in 0 … 1, highest at ``TYPICAL_DENSITY``; 0 for what never fires."""
    import numpy as np

    with np.errstate(divide="ignore"):
        decades = np.log10(density / TYPICAL_DENSITY)
    return np.exp(-0.5 * (decades / SPREAD_DECADES) ** 2)


def peak_token(example: Example) -> str:
    """The text of the token on which a window's activation is largest, special tokens left out."""
    at = int((example.activations == example.peak).argmax())
    # Of several tokens that spell one character only the last has its text.
    return next(filter(None, example.tokens[at:]), "")


def appeal(examples: Sequence[Example]) -> float:
    """Agreement × breadth × context of a feature's strongest windows, in 0 … 1; 0 where there are none."""
    if not examples:
        return 0.0
    common, times = Counter(map(peak_token, examples)).most_common(1)[0]
    agreement = times / len(examples)
    breadth = len({example.doc_id for example in examples}) / len(examples)
    fires = [
        bool(activation > 0)
        for example in examples
        for token, activation in zip(example.tokens, example.activations, strict=True)
        if token == common
    ]
    return agreement * breadth * (1 - _TOKEN_ALONE * sum(fires) / len(fires))


def most_interesting(
    reader: CacheReader, sae: SaeId, statistics: pa.Table, limit: int | None = None
) -> list[tuple[int, float]]:
    """Features of one SAE with their interest, the highest first.

    Args:
        reader: The cache.
        sae: Whose features.
        statistics: Rows of ``schema.FEATURE_STATS`` to choose from.
        limit: At most this many.

    Returns:
        Pairs of feature and interest in 0 … 1; at most 120, and none of interest 0.
    """
    import numpy as np

    features = statistics["feature"].to_numpy()
    how_frequent = frequency(statistics["density"].to_numpy())
    how_frequent[statistics["n_windows"].to_numpy() < _MIN_WINDOWS] = 0.0
    order = np.argsort(-how_frequent, kind="stable")[:_CANDIDATES]
    tops = [reader.top_windows(sae, int(features[at]), WINDOWS_LOOKED_AT) for at in order if how_frequent[at] > 0]
    # One read for all: their windows share row groups.
    examples = iter(reader.examples([activity for top in tops for activity in top]))
    scored = [
        (int(features[at]), float(how_frequent[at]) * appeal([next(examples) for _ in top]))
        for at, top in zip(order, tops, strict=False)
    ]
    found = [pair for pair in scored if pair[1] > 0 and math.isfinite(pair[1])]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:limit]
