"""Examples of 100 features out of 24 M activations: 40 to explain, 50 to score and 50 silent ones, with text.

The cache is that of ``queries``. One process, one thread, files in the page cache; the best of a few
rounds counts, each with a reader of its own, so that nothing parsed is reused. Beside it: what the
same costs a feature with a tenth of the activations, which shows that nothing is scanned.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from bench.queries import SAE, make
from raylens.config import ExampleConfig
from raylens.examples.excerpt import ExampleSets
from raylens.store.example_reader import ExampleReader
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

FEATURES: Final = 100
ROUNDS: Final = 5
SIZES: Final = {"24m": ("0" * 15 + "3", 24_000_000), "2m": ("0" * 15 + "4", 2_400_000)}


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Seconds for all features, at both sizes."""
    pa.set_cpu_count(1)
    workspace = Workspace.open(folder / "workspace", create=True)
    figures: dict[str, Any] = {}
    for size, (cache_id, rows) in SIZES.items():
        figures |= {f"{key}_{size}": value for key, value in make(workspace, cache_id, int(rows * scale)).items()}
        laps = [timed(workspace, cache_id) for _ in range(ROUNDS)]
        figures |= {f"examples_s_{size}": round(min(lap for lap, _ in laps), 4), f"excerpts_{size}": laps[0][1]}
        figures[f"laps_{size}"] = [round(lap, 3) for lap, _ in laps]
    return figures


def timed(workspace: Workspace, cache_id: str) -> tuple[float, int]:
    """Seconds for 100 features spread over all densities, and how many excerpts they came to."""
    reader = CacheReader(workspace, cache_id)
    table = reader.table("feature_stats", SAE, ["n_windows"])
    assert table is not None
    often = np.flatnonzero(table["n_windows"].to_numpy() >= 400)
    features = often[np.linspace(0, len(often) - 1, FEATURES).round().astype(int)].tolist()
    examples = ExampleReader(reader, SAE, ExampleConfig())
    began = time.perf_counter()
    found = [sets for _, sets in examples.sets(features, parts=("train", "test", "test_negatives"))]
    texts = 0
    for sets in found:
        assert isinstance(sets, ExampleSets), sets
        for excerpts in (sets.train, sets.test, sets.train_negatives, sets.test_negatives):
            texts += sum(len(one.text) > 0 for one in excerpts)
    seconds = time.perf_counter() - began
    reader.close()
    return seconds, texts
