"""Negatives that read like activating examples, against brute force over all pieces."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raylens.config import ExampleConfig
from raylens.errors import DamagedFileError, InputError, RunError
from raylens.examples.universe import Universe
from raylens.ids import SaeId
from raylens.store import piece_index, piece_vectors
from raylens.store.example_reader import Drawn, ExampleReader
from raylens.store.faiss_negatives import FaissNegatives
from raylens.store.housekeeping import du, gc
from raylens.store.manifest import FileEntry, Manifest, new_generation
from raylens.store.piece_index import PieceIndex, build_index, index_path, open_index, use
from raylens.store.piece_vectors import PieceVectors, WindowRange, read_texts, window_ranges
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")
DIM, LENGTH = 16, 4


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms, norms, 1)).astype(np.float16).astype(np.float32)


def stored(workspace: Workspace, vectors: NDArray[np.float32], parts: int = 3) -> PieceIndex:
    """An index of made-up vectors, written as some ranges and read back."""
    of = PieceVectors(workspace.cache("0" * 16), "made up", str(len(vectors)), LENGTH)
    sizes = [len(part) for part in np.array_split(np.arange(len(vectors)), parts)]
    ranges = [WindowRange("w", first, 1, 0) for first in range(parts)]
    first = 0
    for one, size in zip(ranges, sizes, strict=True):
        of.write(one, vectors[first : first + size])
        first += size
    row = build_index(of, ranges, threads=1)
    return PieceIndex(Path(workspace.files.native(index_path(of.folder, ranges))), row)


def universe(n_windows: int, per_window: int = 3, tail: int = 2) -> Universe:
    """Windows of some full pieces and a short one; a document each."""
    sizes = np.full(n_windows, per_window * LENGTH + tail, np.int32)
    return Universe.of(np.arange(n_windows, dtype=np.int32), sizes, LENGTH, seed=1)


def nearest_by_hand(vectors: NDArray[np.float32], numbers: NDArray[np.int64], drawn: Drawn, n: int) -> list[list[int]]:
    """The oracle's hands: silent candidates of each full shown piece, by falling cosine."""
    row_of = {number: row for row, number in enumerate(numbers.tolist())}
    silent = [number for number in drawn.candidates.tolist() if number not in set(drawn.active.tolist())]
    hands = []
    for shown in drawn.shown.tolist():
        if shown in row_of and vectors[row_of[shown]].any():
            cosine = {number: float(vectors[row_of[number]] @ vectors[row_of[shown]]) for number in silent}
            hands.append(sorted(silent, key=lambda number: -cosine[number])[:n])
    return hands


def dealt(hands: list[list[int]], n: int) -> list[int]:
    found: list[int] = []
    for rank in range(max(map(len, hands), default=0)):
        for hand in hands:
            if rank < len(hand) and hand[rank] not in found:
                found.append(hand[rank])
    return found[:n]


@pytest.fixture(scope="module", params=[False, True], ids=["all compared", "in cells"])
def searched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Universe, NDArray[np.float32], PieceIndex]:
    """Pieces, their vectors, and an index of each kind; with cells, a search looks into one of them first."""
    pieces = universe(70)
    vectors = unit(np.random.default_rng(4).standard_normal((int(pieces.full.sum()), DIM)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece_index, "EXACT_PIECES", 100 if request.param else 10_000)
        index = stored(Workspace.open(tmp_path_factory.mktemp("searched"), create=True), vectors)
    assert (index.cells > 0) == request.param
    index.first_reach = 1
    return pieces, vectors, index


@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([0.02, 0.3, 0.9, 0.99]),
    n=st.integers(0, 60),
    test=st.booleans(),
)
def test_they_are_the_nearest_silent_pieces_of_the_right_side(  # A1.06
    searched: tuple[Universe, NDArray[np.float32], PieceIndex], seed: int, density: float, n: int, test: bool
) -> None:
    pieces, vectors, index = searched
    rng = np.random.default_rng(seed)
    active = np.flatnonzero(rng.random(len(pieces)) < density)
    side = pieces.is_test[pieces.places(active)[0]] == test
    shown = rng.permutation(active[side])[:7]
    drawn = Drawn(3, pieces.candidates(test=test), active, shown, n, np.random.default_rng(seed))
    chosen = FaissNegatives(index, pieces)(drawn)
    found = chosen.numbers
    silent = np.setdiff1d(drawn.candidates, active)
    assert len(found) == len(set(found.tolist())) == min(n, len(silent)), "distinct, and as many as there are"
    assert set(found.tolist()) <= set(silent.tolist())
    assert pieces.full[found].all()
    hands = nearest_by_hand(vectors, np.flatnonzero(pieces.full), drawn, n)
    if hands and not index.cells:
        assert found.tolist() == dealt(hands, n)
    if hands:
        assert chosen.n_random == 0, "searched to the end before anything is drawn at random"
    again = FaissNegatives(index, pieces)(replace(drawn, rng=np.random.default_rng(seed)))
    assert again.numbers.tolist() == found.tolist()


@pytest.mark.parametrize("cells", [False, True])
def test_every_example_gives_its_share(  # A1.06
    local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, cells: bool
) -> None:
    """Others fill all negatives from the first example's neighbourhood."""
    monkeypatch.setattr(piece_index, "EXACT_PIECES", 100 if cells else 10_000)
    rng = np.random.default_rng(0)
    pieces = universe(400)
    topic = rng.integers(0, 10, int(pieces.full.sum()))
    centres = unit(rng.standard_normal((10, 64)))
    vectors = unit(centres[topic] + 0.02 * rng.standard_normal((len(topic), 64)))
    numbers = np.flatnonzero(pieces.full)
    candidates = pieces.candidates(test=False)
    own = np.isin(numbers, candidates)
    # Strongest first: thirty of topic 0, then one each of the others.
    shown = np.concatenate([numbers[own & (topic == 0)][:30], *(numbers[own & (topic == t)][:1] for t in range(1, 10))])
    drawn = Drawn(0, candidates, np.sort(shown), shown, 39, rng)
    found = FaissNegatives(stored(local_workspace, vectors), pieces)(drawn).numbers
    counts = np.bincount(topic[np.searchsorted(numbers, found)], minlength=10)
    assert counts.sum() == 39
    assert (counts >= 1).all(), "each of ten topics has an example, and gives a negative"
    nine = replace(drawn, shown=shown[-10:], n=30)
    found = FaissNegatives(stored(local_workspace, vectors), pieces)(nine).numbers
    counts = np.bincount(topic[np.searchsorted(numbers, found)], minlength=10)
    assert counts.tolist() == [3] * 10, "equal shares of ten equal examples"


def test_examples_without_a_vector_are_stood_in_for(local_workspace: Workspace) -> None:
    rng = np.random.default_rng(2)
    pieces = universe(60)
    numbers = np.flatnonzero(pieces.full)
    vectors = unit(rng.standard_normal((len(numbers), DIM)))
    short = np.flatnonzero(~pieces.full)
    candidates = pieces.candidates(test=True)
    source = FaissNegatives(stored(local_workspace, vectors), pieces)
    active = np.union1d(short, candidates[:1])
    one = Drawn(5, candidates, active, short[:4], 6, rng)
    by_stand_in = replace(one, shown=candidates[:1])
    found = source(one)
    assert found.numbers.tolist() == dealt(nearest_by_hand(vectors, numbers, by_stand_in, 6), 6)
    assert found.n_random == 0
    drawn = source(replace(one, active=short))
    assert len(set(drawn.numbers.tolist())) == 6
    assert drawn.n_random == 6, "nothing to compare with"


def test_a_text_without_known_tokens_asks_for_nothing(local_workspace: Workspace) -> None:
    pieces = universe(60)
    numbers = np.flatnonzero(pieces.full)
    vectors = unit(np.random.default_rng(3).standard_normal((len(numbers), DIM)))
    candidates = pieces.candidates(test=False)
    vectors[np.searchsorted(numbers, candidates[0])] = 0
    source = FaissNegatives(stored(local_workspace, vectors), pieces)
    drawn = Drawn(1, candidates, candidates[:2], candidates[:2], 5, np.random.default_rng(0))
    want = nearest_by_hand(vectors, numbers, drawn, 5)
    assert len(want) == 1
    assert source(drawn).numbers.tolist() == want[0]


def test_cells_find_nearly_all_of_the_true_nearest(local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_index, "EXACT_PIECES", 1000)
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((60, 32))
    vectors = unit(centres[rng.integers(0, 60, 6000)] + 0.7 * rng.standard_normal((6000, 32)))
    index = stored(local_workspace, vectors)
    assert index.cells > piece_index.FIRST_REACH
    assert index.reaches == [64, index.cells]
    queries, allowed = vectors[:40], rng.random(6000) < 0.5
    truth = np.argsort(np.where(allowed, -(queries @ vectors.T), np.inf), axis=1)[:, :20]

    def recall(reach: int) -> float:
        hands = index.nearest(queries, allowed, 20, reach)
        assert all(allowed[hand].all() for hand in hands)
        return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / 20 for a, b in zip(hands, truth, strict=True)]))

    assert recall(index.reaches[0]) > 0.9
    assert recall(index.reaches[-1]) == 1.0


# ------------------------------------------------------------------------------------------ of a cache


def config(**values: Any) -> ExampleConfig:
    return ExampleConfig(
        **{"example_ctx_len": LENGTH, "center_examples": False, "n_non_activating": 8, "min_examples": 10, **values}
    )


@pytest.fixture
def reader(local_workspace: Workspace, build: Callable[..., Any]) -> CacheReader:
    corpus = build(local_workspace, shard_windows=(40, 41, 39), d_sae=24, density=0.05)
    corpus.cache.write_info({"identity": {"pack": False}, "prefix_ids": [0], "name": None})
    corpus.merge()
    return CacheReader(local_workspace, corpus.cache.cache_id)


def embedded(reader: CacheReader, embed: Callable[[list[str]], NDArray[np.float32]]) -> PieceVectors:
    vectors = PieceVectors(reader.cache, "made up", "1", LENGTH)
    ranges = window_ranges(reader.manifest)
    for one in ranges:
        vectors.write(one, embed(read_texts(reader.cache, one, LENGTH, 1)))
    build_index(vectors, ranges, threads=1)
    use(vectors, None)
    return vectors


def by_letters(texts: list[str]) -> NDArray[np.float32]:
    counts = np.array([[text.count(str(digit)) for digit in range(10)] for text in texts], np.float32)
    return unit(counts.reshape(-1, 10) + 0.01)


def test_texts_are_those_of_the_full_pieces(reader: CacheReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_vectors, "WINDOWS_PER_SHARD", 64)
    examples = ExampleReader(reader, SAE, config())
    ranges = window_ranges(reader.manifest)
    assert [(one.first, one.n_windows) for one in ranges] == [(0, 64), (64, 56)]
    texts = [text for one in ranges for text in read_texts(reader.cache, one, LENGTH, 1)]
    numbers = np.flatnonzero(examples.universe.full)
    assert texts == [excerpt.text for excerpt in examples.excerpts(numbers)]
    assert len(texts) == len(numbers) < len(examples.universe)


def test_one_index_serves_every_seed_and_share(reader: CacheReader) -> None:
    embedded(reader, by_letters)
    for seed, share in ((1, 0.5), (2, 0.5), (2, 0.2)):
        index = open_index(reader.cache, reader.manifest, None, LENGTH)
        examples = ExampleReader(
            reader, SAE, config(seed=seed, test_share=share), lambda one, i=index: FaissNegatives(i, one.universe)
        )
        usable = 0
        for feature, sets in examples.sets(range(24)):
            if not hasattr(sets, "train"):
                continue
            usable += 1
            active = set(examples.active_numbers(feature).tolist())
            for silent, test in ((sets.train_negatives, False), (sets.test_negatives, True)):  # pyright: ignore[reportAttributeAccessIssue]
                taken = [int(examples.universe.first[one.window_id]) + one.start // LENGTH for one in silent]
                assert len(taken) == len(set(taken)) == 8
                assert not active & set(taken)
                assert all(examples.universe.is_test[one.window_id] == test for one in silent)
                assert not any(one.is_active for one in silent)
        assert usable > 5


def test_a_missing_or_damaged_file_is_said(reader: CacheReader, local_workspace: Workspace) -> None:
    with pytest.raises(InputError, match="no index of its pieces of 4 tokens by the bundled embedding"):
        open_index(reader.cache, reader.manifest, None, LENGTH)
    vectors = embedded(reader, by_letters)
    ranges = window_ranges(reader.manifest)
    path = index_path(vectors.folder, ranges)
    with pytest.raises(InputError, match="by other/model"):
        open_index(reader.cache, reader.manifest, "other/model", LENGTH)
    whole = local_workspace.files.read_bytes(path)
    local_workspace.files.commit(path, b"x" * len(whole))
    with pytest.raises(DamagedFileError, match="missing or damaged"):
        open_index(reader.cache, reader.manifest, None, LENGTH)
    local_workspace.files.commit(path, whole[:-1])
    with pytest.raises(InputError, match="no index"):
        open_index(reader.cache, reader.manifest, None, LENGTH)
    local_workspace.files.delete(f"{vectors.folder}/{ranges[0].name}.npy")
    assert vectors.rows(ranges) == [None]
    with pytest.raises(RunError, match="1 of 1 ranges"):
        build_index(vectors, ranges, threads=1)
    with pytest.raises(DamagedFileError, match=r"\.npy is missing or damaged"):
        vectors.read(ranges[0])
    with pytest.raises(RunError, match="merged anew"):
        FaissNegatives(stored(local_workspace, by_letters(["1", "2"]), 1), universe(9))


def test_an_index_in_an_object_store_is_copied_once_to_this_machine(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    cache = workspace.cache("0" * 16)
    entry = FileEntry(kind="windows", path="windows", rows=70, bytes=1, window_first=0, window_last=69)
    now = datetime.now(UTC)
    manifest = Manifest(generation=new_generation(), created_at=now, cache_id=cache.cache_id, entries=(entry,))
    vectors, ranges = PieceVectors(cache, "made up", "1", LENGTH), window_ranges(manifest)
    written = unit(np.random.default_rng(0).standard_normal((90, DIM)))
    vectors.write(ranges[0], written)
    assert np.array_equal(vectors.read(ranges[0]), written)
    build_index(vectors, ranges, threads=1)
    use(vectors, "a/model")
    for _ in range(2):
        index = open_index(cache, manifest, "a/model", LENGTH)
        assert np.array_equal(index.vectors(np.arange(90)), written)
        copies = list((tmp_path / "own").rglob("*.faiss"))
        assert len(copies) == (0 if workspace.files.local else 1)
        for copy in copies:
            assert copy.parent.stat().st_mode & 0o077 == 0, "nobody else may put an index there"


def test_pieces_of_windows_that_are_merged_anew_are_collected(
    reader: CacheReader, local_workspace: Workspace, build: Callable[..., Any]
) -> None:
    vectors = embedded(reader, by_letters)
    own = {one.path for one in local_workspace.files.scan(vectors.folder)}
    assert sum(row.bytes for row in du(local_workspace) if row.kind == "pieces") > 0
    local_workspace.files.commit(f"{vectors.folder}/99999999-orphan.npy", b"no row")
    later = datetime.now(UTC) + timedelta(days=2)
    removed = gc(local_workspace, now=later).removals
    assert [(one.path.rpartition("/")[2], one.reason) for one in removed if "/pieces/" in one.path] == [
        ("99999999-orphan.npy", "file without a row")
    ]
    corpus = build(local_workspace, seed=5, shard_windows=(40, 41, 39, 5), d_sae=24, density=0.05)
    corpus.merge()
    removed = {one.path for one in gc(local_workspace, now=later).removals if one.reason == "superseded pieces"}
    assert removed == {path for path in own if not path.endswith("settings.json")}
    assert not [one for one in removed if local_workspace.files.exists(one)]
