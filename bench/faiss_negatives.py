"""Hard negatives for 100 features over 100 000 windows, by the source that jobs use, once the index exists.

400 000 pieces in 384 dimensions, about 2 000 topics: vectors are made up, everything from the files of vectors
on is real. A feature fires in one piece of a thousand to one of five, most of them of a few topics, so that
what its examples resemble is largely active, as it is in practice. One process, one thread, as a Ray task has.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylens.examples.universe import Universe
from raylens.store.example_reader import Drawn
from raylens.store.faiss_negatives import FaissNegatives
from raylens.store.piece_index import PieceIndex, build_index, index_path
from raylens.store.piece_vectors import WINDOWS_PER_SHARD, PieceVectors, WindowRange
from raylens.store.workspace import Workspace

WINDOWS, PIECES_PER_WINDOW, LENGTH, DIM, FEATURES = 100_000, 4, 32, 384, 100
SHOWN, WANTED, TOPICS_PER_FEATURE, COMPARED = 50, 50, 5, 5


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Seconds for the negatives of all features, what share of the true nearest they had to choose from, and memory."""
    n_windows = max(8 * WINDOWS_PER_SHARD, int(WINDOWS * scale))
    rng = np.random.default_rng(22)
    n_topics = n_windows // 50
    topics = rng.standard_normal((n_topics, DIM), np.float32)
    topic = np.repeat(rng.integers(0, n_topics, n_windows), PIECES_PER_WINDOW)
    vectors = PieceVectors(Workspace.open(folder / "w", create=True).cache("0" * 16), "made up", "1", LENGTH)
    ranges = [
        WindowRange("windows", first, min(WINDOWS_PER_SHARD, n_windows - first), 0)
        for first in range(0, n_windows, WINDOWS_PER_SHARD)
    ]
    for one in ranges:
        own = topic[one.first * PIECES_PER_WINDOW : (one.first + one.n_windows) * PIECES_PER_WINDOW]
        made = topics[own] + rng.standard_normal((len(own), DIM), np.float32)
        vectors.write(one, made / np.linalg.norm(made, axis=1, keepdims=True))
    began = time.perf_counter()
    row = build_index(vectors, ranges, threads=os.cpu_count() or 1)
    build_s = time.perf_counter() - began
    import faiss

    faiss.omp_set_num_threads(1)
    universe = Universe.of(
        np.arange(n_windows, dtype=np.int32) // 4, np.full(n_windows, PIECES_PER_WINDOW * LENGTH), LENGTH, seed=22
    )
    candidates = universe.candidates(test=False), universe.candidates(test=True)
    drawn = [_drawn(universe, candidates, topic, feature, rng) for feature in range(FEATURES)]
    before, began, cpu = _anonymous_bytes(), time.perf_counter(), time.process_time()
    index = PieceIndex(Path(vectors.cache.files.native(index_path(vectors.folder, ranges))), row)
    source, n_random = FaissNegatives(index, universe), 0
    for sides in drawn:
        for one in sides:
            found = source(one)
            n_random += found.n_random
            assert len(found.numbers) == WANTED
            assert not np.isin(found.numbers, one.active).any()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {
        "faiss_negatives_s": round(seconds, 2),
        "cpu_s": round(cpu_s, 2),
        "faiss_recall": round(_recall(index, vectors, ranges, [sides[0] for sides in drawn[:COMPARED]]), 4),
        "faiss_memory_ratio": round((_anonymous_bytes() - before) / row.bytes, 3),
        "index_build_s": round(build_s, 1),
        "index_mb": row.bytes // 1_000_000,
        "pieces": row.pieces,
        "cells": row.cells,
        "filled": n_random,
    }


def _drawn(
    universe: Universe,
    candidates: tuple[NDArray[np.int64], NDArray[np.int64]],
    topic: NDArray[np.int64],
    feature: int,
    rng: np.random.Generator,
) -> list[Drawn]:
    """What the source is asked about one feature, for explainers and for scorers."""
    n = len(universe)
    n_active = int(10 ** rng.uniform(-3, np.log10(0.2)) * n)
    liked = np.flatnonzero(np.isin(topic, rng.choice(topic, TOPICS_PER_FEATURE)))
    favourite = rng.choice(liked, min(len(liked) * 4 // 5, n_active // 2), replace=False)
    active = np.union1d(favourite, rng.choice(n, n_active - len(favourite), replace=False))
    sides: list[Drawn] = []
    for some in candidates:
        shown = rng.permutation(np.intersect1d(active, some, assume_unique=True))[:SHOWN]
        sides.append(Drawn(feature, some, active, shown, WANTED, np.random.default_rng(feature)))
    return sides


def _recall(index: PieceIndex, vectors: PieceVectors, ranges: list[WindowRange], drawn: list[Drawn]) -> float:
    """Share of the true nearest pieces that a search finds at its first reach."""
    everything = np.concatenate([vectors.read(one) for one in ranges])
    shares: list[float] = []
    for one in drawn:
        silent = np.setdiff1d(one.candidates, one.active)
        allowed = np.zeros(index.pieces, np.bool_)
        allowed[silent] = True
        queries = index.vectors(one.shown[:10])
        parts = np.array_split(everything[silent], 20)
        cosine = np.concatenate([queries @ part.astype(np.float32).T for part in parts], axis=1)
        truth = silent[np.argsort(-cosine, axis=1)[:, :WANTED]]
        hands = index.nearest(queries, allowed, WANTED, index.reaches[0])
        shares += [len(np.intersect1d(hand, best)) / WANTED for hand, best in zip(hands, truth, strict=True)]
    return float(np.mean(shares))


def _anonymous_bytes() -> int:
    """This process's own memory; pages of a mapped file are not part of it."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no smaps_rollup here")
