"""How long a warm query takes, and how little that grows with the cache.

Two merged caches of the same kind, of 10 M and 100 M activations, are made through the store's own
writers. Asked, in one process and one thread, of the densest and of the median feature: its top 20
windows with text, and 20 windows of a narrow activation interval, at several quantiles of its peaks.
Rounds alternate between the caches, so that a busy machine slows both sides of the ratio.

The data: activations of the cache in the workspace ``RAYLENS_BENCH_TEMPLATE``, repeated with jitter
so that peaks do not tie; without one, a TopK-32 SAE of 1536 latents made up over the standard library's text.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens import schema
from raylens.bundle.stdlib import read_stdlib
from raylens.ids import SaeId
from raylens.store.compact import merge_documents, merge_windows, n_window_files
from raylens.store.examples import Example
from raylens.store.merge import merge_ranges, merge_statistics, plan_merge
from raylens.store.parquet import TableFile
from raylens.store.publish import finish_merge
from raylens.store.reader import CacheReader
from raylens.store.shards import ShardRow, completed, write_shard
from raylens.store.windows import (
    WindowsShard,
    read_documents_shard,
    read_windows_shard,
    windows_shards,
    write_windows_shard,
)
from raylens.store.workspace import CacheStore, Workspace

SAE: Final = SaeId("bench-res", "layer_3")
SIZES: Final = {"10m": ("0" * 15 + "1", 10_000_000), "100m": ("0" * 15 + "2", 100_000_000)}
"""Cache id and activations of each cache."""

Timing = tuple[float, float]
"""Seconds of one query by the clock, and of the processor."""

D_SAE, TOP_K, TEXT_TOKENS, SHARD_WINDOWS, DOCUMENT_WINDOWS = 1536, 32, 127, 512, 12
K: Final = 20
QUANTILES: Final = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
ROUNDS: Final = 15


@dataclass(frozen=True, slots=True)
class Piece:
    """One shard's worth of windows and activations; windows and documents are numbered from 0 in it.

    Attributes:
        windows: ``schema.WINDOWS``.
        documents: ``schema.DOCUMENTS``.
        specials: Special tokens in the windows.
        feature: ``[n]`` int32; the five arrays are in order of (window, position, feature).
        window: ``[n]`` int32.
        position: ``[n]`` int16.
        activation: ``[n]`` float32.
        special: ``[n]`` bool.
    """

    windows: pa.Table
    documents: pa.Table
    specials: int
    feature: NDArray[np.int32]
    window: NDArray[np.int32]
    position: NDArray[np.int16]
    activation: NDArray[np.float32]
    special: NDArray[np.bool_]

    def first(self, rows: int) -> Piece:
        """The fewest whole windows with at least ``rows`` activations; all where it has fewer."""
        if len(self.feature) <= rows:
            return self
        n = int(self.window[rows - 1]) + 1
        end = int(np.searchsorted(self.window, n))
        windows = self.windows.slice(0, n)
        return Piece(
            windows=windows,
            documents=self.documents.slice(0, int(windows["doc_id"][-1].as_py()) + 1),
            specials=round(self.specials * n / self.windows.num_rows),
            feature=self.feature[:end],
            window=self.window[:end],
            position=self.position[:end],
            activation=self.activation[:end],
            special=self.special[:end],
        )


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Make both caches, ask, and give the slower feature's medians, with everything they come from."""
    pa.set_cpu_count(1)
    workspace = Workspace.open(folder / "workspace", create=True)
    figures: dict[str, Any] = {}
    for size, (cache_id, rows) in SIZES.items():
        figures |= {f"{key}_{size}": value for key, value in make(workspace, cache_id, int(rows * scale)).items()}
    asked: dict[tuple[str, str, str], list[Timing]] = {}
    readers = {size: CacheReader(workspace, cache_id) for size, (cache_id, _) in SIZES.items()}
    subjects = {(size, which): pick for size, reader in readers.items() for which, pick in picked(reader).items()}
    bounds = {(size, which): intervals(readers[size], feature) for (size, which), feature in subjects.items()}
    for lap in range(ROUNDS + 1):
        for (size, which), feature in subjects.items():
            laps = round_of(readers[size], feature, bounds[size, which])
            for question, seconds in laps.items():
                # The first lap opens files and fills the page cache.
                asked.setdefault((question, size, which), []).extend(seconds if lap else [])
    for reader in readers.values():
        reader.close()
    for (size, which), feature in subjects.items():
        rows = CacheReader(workspace, SIZES[size][0]).feature(readers[size].saes[0], feature)
        figures |= {f"{which}_{size}_{key}": rows[key] for key in ("feature", "n_active", "n_windows", "density")}
    return figures | summary(asked)


def summary(asked: dict[tuple[str, str, str], list[Timing]]) -> dict[str, Any]:
    """Medians and 95th percentiles in milliseconds; growth is a ratio of medians, slower feature each.

    CPU time stands beside: it says what a query costs where the wall clock also shows who else is busy.
    """
    figures: dict[str, Any] = {}
    for question in ("top20", "interval20", "wide_interval20"):
        slowest = {size: np.zeros(2) for size in SIZES}
        for size in SIZES:
            for which in ("densest", "median"):
                p50, p95 = np.quantile(asked[question, size, which], [0.5, 0.95], axis=0) * 1000
                figures[f"{question}_ms_{size}_{which}"] = round(float(p50[0]), 3)
                figures[f"{question}_p95_ms_{size}_{which}"] = round(float(p95[0]), 3)
                figures[f"{question}_cpu_ms_{size}_{which}"] = round(float(p50[1]), 3)
                slowest[size] = np.maximum(slowest[size], p50)
            figures[f"{question}_ms_{size}"] = round(float(slowest[size][0]), 3)
        wall, cpu = slowest["100m"] / slowest["10m"]
        figures |= {f"{question}_growth": round(float(wall), 4), f"{question}_cpu_growth": round(float(cpu), 4)}
    return figures


def picked(reader: CacheReader) -> dict[str, int]:
    """The densest feature, and the one in the middle of those that fire."""
    table = reader.table("feature_stats", reader.saes[0], ["n_active"])
    assert table is not None
    active = table["n_active"].to_numpy()
    living = np.argsort(active, kind="stable")[int((active == 0).sum()) :]
    return {"densest": int(living[-1]), "median": int(living[len(living) // 2])}


def intervals(reader: CacheReader, feature: int) -> list[tuple[float, float]]:
    """An interval of peaks at each quantile, each with 2 % of the feature's windows, or 40 where that is more."""
    everywhere = reader.top_windows(reader.saes[0], feature, int(reader.manifest.totals["n_windows"]))
    peaks = np.sort([activity.peak for activity in everywhere])
    width = min(max(2 * K, len(peaks) // 50), len(peaks) - 1)
    lows = [min(int(quantile * len(peaks)), len(peaks) - 1 - width) for quantile in QUANTILES]
    return [(float(peaks[low]), float(peaks[low + width])) for low in lows]


def round_of(reader: CacheReader, feature: int, bounds: list[tuple[float, float]]) -> dict[str, list[Timing]]:
    """Seconds of each query, answers with their text included."""
    sae = reader.saes[0]
    # A shrunken cache may have fewer; from 10 M activations on, every answer has all 20.
    expected = min(K, len(reader.top_windows(sae, feature, 3 * K)) // 3)

    def top() -> list[Example]:
        return reader.examples(reader.top_windows(sae, feature, K))

    def between(low: float, high: float) -> list[Example]:
        return reader.examples(reader.windows_in_interval(sae, feature, low, high, K, seed=0))

    def timed(ask: Callable[[], list[Example]]) -> Timing:
        began, cpu = time.perf_counter(), time.process_time()
        found = ask()
        seconds = time.perf_counter() - began, time.process_time() - cpu
        assert expected <= len(found) <= K, f"a query gave {len(found)} windows of {K}"
        return seconds

    return {
        "top20": [timed(top) for _ in bounds],
        "interval20": [timed(partial(between, low, high)) for low, high in bounds],
        "wide_interval20": [timed(partial(between, bounds[0][0], bounds[-1][1]))],
    }


def make(workspace: Workspace, cache_id: str, rows: int) -> dict[str, Any]:
    """Write and merge a cache of at least ``rows`` activations, whole windows."""
    began = time.perf_counter()
    template = os.environ.get("RAYLENS_BENCH_TEMPLATE")
    pieces = repeated(Path(template)) if template else made_up()
    cache = workspace.cache(cache_id)
    identity = {"made": "by a benchmark", "pack": False}
    info = {"identity": identity, "model": "bench", "name": None, "ctx_len": TEXT_TOKENS + 1, "prefix_ids": [0]}
    cache.write_info(info)
    cache.write_sae(SAE, {})
    windows: list[WindowsShard] = []
    shards: list[ShardRow] = []
    left, n_windows, n_docs, d_sae = rows, 0, 0, D_SAE
    with cache.lock("bench") as lock:
        while left > 0:
            d_sae, whole = next(pieces)
            piece = whole.first(left)
            texts = shifted(shifted(piece.windows, "window_id", n_windows), "doc_id", n_docs)
            documents = shifted(piece.documents, "doc_id", n_docs)
            row = write_windows_shard(cache, len(windows), texts, documents, n_special_tokens=piece.specials)
            windows.append(row)
            shards.append(
                write_shard(
                    cache,
                    SAE,
                    f"{len(shards):08d}",
                    d_sae=d_sae,
                    window_first=n_windows,
                    n_windows=row.n_windows,
                    n_text_tokens=row.n_text_tokens,
                    n_special_tokens=row.n_special_tokens,
                    feature=piece.feature,
                    window_id=piece.window + np.int32(n_windows),
                    position=piece.position,
                    activation=piece.activation,
                    special=piece.special,
                )
            )
            left -= len(piece.feature)
            n_windows += row.n_windows
            n_docs += documents.num_rows
        written = time.perf_counter()
        plan = plan_merge(SAE, shards)
        ranges = merge_ranges(cache, plan, range(plan.n_ranges))
        entries = [*ranges, merge_statistics(cache, plan), merge_documents(cache, windows)]
        entries += [merge_windows(cache, windows, index) for index in range(n_window_files(windows))]
        finish_merge(cache, lock, windows=windows, merges=[plan], entries=entries)
    n_rows, n_bytes = sum(entry.rows for entry in ranges), sum(entry.bytes for entry in ranges)
    return {
        "rows": n_rows,
        "windows": n_windows,
        "bytes_per_activation": round(n_bytes / n_rows, 4),
        "write_s": round(written - began, 1),
        "merge_s": round(time.perf_counter() - written, 1),
    }


def shifted(table: pa.Table, column: str, by: int) -> pa.Table:
    place = table.schema.get_field_index(column)
    moved = table[column].to_numpy() + np.int32(by)
    return table.set_column(place, table.schema.field(place), pa.array(moved, pa.int32()))


def repeated(folder: Path) -> Iterator[tuple[int, Piece]]:
    """Width of a real SAE, and the shards of its cache one after the other, over and over with new jitter."""
    workspace = Workspace.open(folder)
    cache = workspace.cache(workspace.caches()[0])
    saes = sorted(cache.saes())
    sae = saes[len(saes) // 2]
    rows = {row.window_first: row for row in completed(cache, sae).values()}
    paired = [(shard, rows[shard.window_first]) for shard in windows_shards(cache) if shard.window_first in rows]
    assert paired, f"{folder} keeps no shards of {sae}"
    random, turn = np.random.default_rng(0), 0
    while True:
        for shard, row in paired:
            piece = template_piece(cache, cache.shard_path(sae, row.name), shard)
            noise = np.float32(0.05) * random.standard_normal(len(piece.feature), np.float32)
            jittered = replace(piece, activation=piece.activation * np.exp(noise)) if turn else piece
            yield row.d_sae, jittered
        turn += 1


def template_piece(cache: CacheStore, path: str, shard: WindowsShard) -> Piece:
    """One real shard, back in token order."""
    with TableFile(cache.files, path, remedy="name another workspace.") as file:
        feature, window, position, activation, special = (column.to_numpy() for column in file.read().columns)
    order = np.argsort((window.astype(np.int64) << 16) + position, kind="stable")
    return Piece(
        windows=shifted(
            shifted(read_windows_shard(cache, shard.index), "window_id", -shard.window_first),
            "doc_id",
            -shard.doc_first,
        ),
        documents=shifted(read_documents_shard(cache, shard.index), "doc_id", -shard.doc_first),
        specials=shard.n_special_tokens,
        feature=feature[order],
        window=window[order] - np.int32(shard.window_first),
        position=position[order],
        activation=activation[order],
        special=special[order],
    )


def made_up() -> Iterator[tuple[int, Piece]]:
    """Shards of a TopK SAE that never was.

    Features fire on 40 % of the tokens to 0.2 %, the median on about 0.8 %. Each window has some
    features of its own, which fire there often and strongly; BOS fires the same few, very strongly.
    """
    random = np.random.default_rng(0)
    text = "".join(file.text for file in read_stdlib())
    rank = random.permutation(D_SAE) / D_SAE
    frequency = 0.4 * np.exp(-5.1 * rank**0.4)
    strength = random.lognormal(0.0, 0.5, D_SAE)
    sink = np.sort(random.choice(D_SAE, TOP_K, replace=False))
    index = 0
    while True:
        windows, documents = texts(random, text, index)
        # A gamma factor of mean 1, the more uneven the rarer the feature.
        factor = random.standard_gamma(np.broadcast_to(0.15 + 10 * frequency, (SHARD_WINDOWS, D_SAE)))
        factor /= 0.15 + 10 * frequency
        token, feature = systematic(random, frequency * factor)
        window, position = np.divmod(token, TEXT_TOKENS + 1)
        on_text = position > 0
        window, position, feature = window[on_text], position[on_text], feature[on_text]
        level = strength[feature] * np.sqrt(0.2 + factor[window, feature])
        activation = level * (0.2 + random.standard_exponential(len(feature)))
        starts = np.searchsorted(window, np.arange(SHARD_WINDOWS))
        at = np.repeat(starts, TOP_K)
        position = np.insert(position, at, 0)
        yield (
            D_SAE,
            Piece(
                windows=windows,
                documents=documents,
                specials=SHARD_WINDOWS,
                feature=np.insert(feature, at, np.tile(sink, SHARD_WINDOWS)).astype(np.int32),
                window=np.insert(window, at, np.repeat(np.arange(SHARD_WINDOWS), TOP_K)).astype(np.int32),
                position=position.astype(np.int16),
                activation=np.insert(activation, at, np.tile(60 * strength[sink], SHARD_WINDOWS)).astype(np.float32),
                special=position == 0,
            ),
        )
        index += 1


def systematic(random: np.random.Generator, wanted: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Exactly ``TOP_K`` different features on every token, each as often as wanted: systematic sampling (Madow, 1949).

    Args:
        random: Draws one number a token.
        wanted: ``[windows, D_SAE]`` how often each feature fires in each window, up to a factor a window.

    Returns:
        ``[n]`` tokens, rising, BOS's place in each window counted, and ``[n]`` features, rising within a token.
    """
    share = wanted
    for _ in range(4):  # a share above 1 would fire twice; what is cut off goes to the others
        share = np.minimum(share * (TOP_K / share.sum(axis=1, keepdims=True)), 0.95)
    edges = np.cumsum(share, axis=1)
    edges *= TOP_K / edges[:, -1:]
    n_windows, n_tokens = len(wanted), TEXT_TOKENS + 1
    # All windows in one search: each takes the next TOP_K of the number line.
    line = (edges + TOP_K * np.arange(n_windows)[:, None]).ravel()
    drawn = random.random((n_windows, n_tokens, 1)) + np.arange(TOP_K) + TOP_K * np.arange(n_windows)[:, None, None]
    cell = np.minimum(np.searchsorted(line, drawn.ravel(), side="right"), n_windows * D_SAE - 1)
    feature = (cell % D_SAE).reshape(n_windows * n_tokens, TOP_K)
    twice = np.zeros(feature.shape, bool)
    twice[:, 1:] = feature[:, 1:] == feature[:, :-1]
    token = np.repeat(np.arange(n_windows * n_tokens), TOP_K).reshape(feature.shape)
    return token[~twice], feature[~twice]


def texts(random: np.random.Generator, text: str, index: int) -> tuple[pa.Table, pa.Table]:
    """Windows of BOS and 127 tokens over the next 450 characters or so each, and their documents."""
    lengths = random.integers(1, 7, (SHARD_WINDOWS, TEXT_TOKENS))
    offsets = np.zeros((SHARD_WINDOWS, TEXT_TOKENS + 1), np.int32)
    offsets[:, 2:] = np.cumsum(lengths[:, :-1], axis=1)
    sizes = lengths.sum(axis=1)
    begin = (index * SHARD_WINDOWS * 450 + np.cumsum(sizes) - sizes) % (len(text) - 1024)
    ids = np.zeros_like(offsets)
    ids[:, 1:] = np.minimum(random.zipf(1.3, lengths.shape), 4095)
    split = np.arange(0, offsets.size + 1, TEXT_TOKENS + 1, dtype=np.int32)
    number = np.arange(SHARD_WINDOWS)
    windows = pa.table(
        [
            number.astype(np.int32),
            (number // DOCUMENT_WINDOWS).astype(np.int32),
            (number % DOCUMENT_WINDOWS * TEXT_TOKENS).astype(np.int32),
            pa.ListArray.from_arrays(split, ids.ravel()),
            pa.ListArray.from_arrays(split, offsets.ravel()),
            [text[start : start + size] for start, size in zip(begin.tolist(), sizes.tolist(), strict=True)],
        ],
        schema=schema.WINDOWS,
    )
    n_docs = -(-SHARD_WINDOWS // DOCUMENT_WINDOWS)
    rows = [
        {"source": "stdlib", "domain": "bench", "path": f"bench/module_{index}_{doc}.py", "split": "train"}
        | {"doc_id": doc, "n_tokens": int((number // DOCUMENT_WINDOWS == doc).sum()) * TEXT_TOKENS}
        for doc in range(n_docs)
    ]
    return windows, pa.Table.from_pylist(rows, schema.DOCUMENTS)
