"""Two features beside one another, against counting by hand and the SAE's own weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import load_file

from raylens.bundle.paths import sae_path
from raylens.catalog.lookup import built_in
from raylens.errors import InputError, UnknownNameError
from raylens.ids import FeatureId, SaeId
from raylens.labels.feature_pairs import Overlap, decoder_cosine, overlap
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace
from small_cache import CACHE_ID, D_SAE, SAE, make_cache

PICO = SaeId("raylens-pico-res", "layer_3")
PICO_1 = SaeId("raylens-pico-res", "layer_1")


@pytest.fixture
def reader(workspace: Workspace) -> Iterator[CacheReader]:
    make_cache(workspace)
    opened = CacheReader(workspace, CACHE_ID)
    yield opened
    opened.close()


def by_hand(reader: CacheReader, first: int, second: int) -> Overlap:
    """Every window, every token of text."""
    sizes = reader.window_sizes()[1]
    fires: dict[int, set[tuple[int, int]]] = {first: set(), second: set()}
    for feature in fires:
        for window, activity in reader.activations_of(SAE, feature, range(len(sizes))).items():
            fires[feature] |= {(window, int(at)) for at in activity.positions if at > 0}
    return Overlap(len(fires[first]), len(fires[second]), len(fires[first] & fires[second]))


def test_overlap_counts_tokens_of_text(reader: CacheReader) -> None:
    for first in range(D_SAE):
        for second in range(D_SAE):
            found = overlap(reader, FeatureId(SAE, first), FeatureId(SAE, second))
            assert found == by_hand(reader, first, second), (first, second)
    one = overlap(reader, FeatureId(SAE, 1), FeatureId(SAE, 1))
    assert (one.n_both, one.jaccard) == (3, 1.0)
    dead = overlap(reader, FeatureId(SAE, 5), FeatureId(SAE, 5))
    assert (dead.n_first, dead.jaccard) == (0, None), "it fires on BOS alone"
    with pytest.raises(InputError):
        overlap(reader, FeatureId(SAE, 0), FeatureId(SAE, D_SAE))
    with pytest.raises(UnknownNameError):
        overlap(reader, FeatureId(SAE, 0), FeatureId(PICO, 0))


def test_cosines_are_those_of_the_weights() -> None:
    place = sae_path(PICO)
    assert place is not None
    weights = load_file(place / "sae_weights.safetensors")["W_dec"].astype(np.float64)
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    for first, second in ((0, 1), (5, 5), (7, 2000)):
        cosine = decoder_cosine(FeatureId(PICO, first), FeatureId(PICO, second), built_in())
        assert cosine == pytest.approx(float(unit[first] @ unit[second]), abs=1e-5)
    across = decoder_cosine(FeatureId(PICO, 0), FeatureId(PICO_1, 0), built_in())
    assert across is not None, "SAEs of one residual stream"
    assert decoder_cosine(FeatureId(PICO, 0), FeatureId(SAE, 0), built_in()) is None
    with pytest.raises(InputError):
        decoder_cosine(FeatureId(PICO, 10**9), FeatureId(PICO, 0), built_in())
