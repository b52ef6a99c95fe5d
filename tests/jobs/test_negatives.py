"""Negatives from every source, over a real cache and a real local Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_runs import SAE, Made
from raylens.bundle.embedding import embed
from raylens.bundle.paths import embedding_path
from raylens.config import ExampleConfig, ExplainConfig
from raylens.errors import InputError, StoppedError
from raylens.examples.excerpt import ExampleSets
from raylens.ids import SaeId
from raylens.store import piece_vectors
from raylens.store.example_reader import ExampleReader
from raylens.store.housekeeping import gc
from raylens.store.manifest import FileEntry, new_generation
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal, request_stop
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from raylens_jobs import piece_index
from raylens_jobs.negatives import negative_source
from raylens_jobs.piece_index import ensure_index
from raylens_jobs.weight_tables import weight_tables

FEATURES = range(0, 400, 8)
ONE = SaeId.parse(SAE)


def config(**values: Any) -> ExplainConfig:
    return ExplainConfig(**{"min_examples": 20, "n_non_activating": 12, "non_activating_source": "faiss", **values})


@pytest.fixture
def copy(undisturbed: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The undisturbed cache, in ranges so short that there are three."""
    monkeypatch.setattr(piece_vectors, "WINDOWS_PER_SHARD", 64)
    shutil.copytree(undisturbed.workspace.files.native(""), tmp_path / "workspace")
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def journal(copy: Workspace) -> Iterator[RunJournal]:
    with RunJournal.start(copy.files, "explain", {}) as journal:
        yield journal


@pytest.fixture
def ensure(
    copy: Workspace, journal: RunJournal, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ExplainConfig], list[tuple[int, int]]]:
    """Make the index, by one actor to save time; returns what was reported."""
    one = lambda of, _, plain=piece_index.embedders, **how: plain(of, 1, **how)  # noqa: E731
    monkeypatch.setattr(piece_index, "embedders", one)

    def run(config: ExplainConfig) -> list[tuple[int, int]]:
        told: list[tuple[int, int]] = []
        assert ensure_index(config, copy, copy.caches()[0], journal, lambda *counts: told.append(counts))
        return told

    return run


def drawn(workspace: Workspace, config: ExampleConfig) -> tuple[ExampleReader, dict[int, ExampleSets]]:
    """Example sets with negatives of the configured source, every one of them checked."""
    reader = CacheReader(workspace, workspace.caches()[0])
    examples = ExampleReader(reader, ONE, config, negative_source(reader, ONE, config))
    found = {feature: one for feature, one in examples.sets(FEATURES) if isinstance(one, ExampleSets)}
    for feature, sets in found.items():
        active = set(examples.active_numbers(feature).tolist())
        for silent, test in ((sets.train_negatives, False), (sets.test_negatives, True)):
            taken = [int(examples.universe.first[one.window_id]) + one.start // 32 for one in silent]
            n_silent = len(np.setdiff1d(examples.universe.candidates(test=test), list(active)))
            assert len(taken) == len(set(taken)) == min(12, n_silent)
            assert not active & set(taken)
            assert not any(one.is_active for one in silent)
            assert all(len(one.tokens) == 32 and examples.universe.is_test[one.window_id] == test for one in silent)
    return examples, found


def alikeness(sets: ExampleSets) -> float:
    """Of each negative the cosine to the activating excerpt that it resembles most, on average."""
    shown, silent = (embed([one.text for one in some]) for some in (sets.test, sets.test_negatives))
    return float((silent @ shown.T).max(axis=1).mean())


def test_negatives_read_like_what_activates(copy: Workspace, journal: RunJournal, ray_cluster: None) -> None:  # A1.06
    assert ensure_index(config(), copy, copy.caches()[0], journal, lambda *_: None)
    _, found = drawn(copy, config(center_examples=False))
    assert len(found) > 10
    assert not any(sets.n_random for sets in found.values())
    _, at_random = drawn(copy, config(center_examples=False, non_activating_source="random"))
    nearer = [alikeness(found[feature]) - alikeness(at_random[feature]) for feature in found]
    assert np.mean(nearer) > 0.05
    assert np.mean(np.array(nearer) > 0) > 0.9
    again = drawn(copy, config(center_examples=False))[1]
    places = [
        [[(one.window_id, one.start) for one in sets.test_negatives] for sets in some.values()]
        for some in (found, again)
    ]
    assert places[0] == places[1]


@pytest.mark.parametrize("kind", ["co-occurrence", "decoder", "encoder"])
def test_negatives_come_from_where_relatives_fire(copy: Workspace, kind: str) -> None:  # A1.07
    asked = config(non_activating_source="neighbours", neighbours_type=kind)
    examples, found = drawn(copy, asked)
    table, column = {"co-occurrence": ("cofiring", "other")}.get(
        kind, ("neighbours" if kind == "decoder" else "encoder_neighbours", "neighbour")
    )
    with connect(copy) as connection:
        rows = connection.execute(
            f"SELECT feature, list({column} ORDER BY rank) FROM {table} WHERE sae = ? GROUP BY feature", [SAE]
        ).fetchall()
    relatives = dict(rows)
    exact = 0
    for feature, sets in found.items():
        theirs = np.concatenate([examples.active_numbers(other) for other in relatives[feature]])
        taken = [
            int(examples.universe.first[one.window_id]) + one.start // 32
            for one in (*sets.train_negatives, *sets.test_negatives)
        ]
        inside = int(np.isin(taken, theirs).sum())
        assert inside >= len(taken) - sets.n_random
        exact += inside == len(taken)
    assert exact > 5


def test_a_cache_merged_before_gets_encoder_neighbours_by_the_next_merge(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = copy.cache(copy.caches()[0])
    whole = cache.manifest()
    assert whole is not None
    older = tuple(entry for entry in whole.entries if entry.kind != "encoder_neighbours")
    with cache.lock("as it was") as lock:
        cache.publish(whole.model_copy(update={"generation": new_generation(), "entries": older}), lock)
    gc(copy, grace_s=0, now=datetime.now(UTC) + timedelta(hours=1))
    assert not any(copy.files.exists(entry.path) for entry in whole.of("encoder_neighbours"))
    asked = config(non_activating_source="neighbours", neighbours_type="encoder")
    with pytest.raises(InputError, match="has no encoder_neighbours of raylens-pico-res/layer_3") as caught:
        drawn(copy, asked)
    assert "run raylens merge again" in caught.value.hint
    # The merge's own task, in this process: it makes the one table that is missing.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    info = cache.info()
    task: Callable[..., list[FileEntry]] = weight_tables._function  # pyright: ignore[reportAttributeAccessIssue]
    made = task(copy.url, cache.cache_id, SAE, info["model"], info["revision"], cache.saes()[ONE])
    assert all(entry in older for entry in made if entry.kind != "encoder_neighbours")
    assert [entry for entry in made if entry.kind == "encoder_neighbours"] == list(whole.of("encoder_neighbours", SAE))


def test_only_what_is_missing_is_made(
    copy: Workspace, ensure: Callable[..., list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = copy.files
    assert ensure(config())[-1] == (3, 3)

    def stored() -> dict[str, tuple[float, int]]:
        return {one.path: (one.modified, one.size) for one in files.scan(f"caches/{copy.caches()[0]}/pieces")}

    first = stored()
    (index,) = (path for path in first if path.endswith(".faiss"))
    bytes_of = {path: files.read_bytes(path) for path in first}
    # As a killed run leaves it: a file without its row, another not whole, and no index.
    rows = sorted(path for path in first if path.endswith(".json") and "/0" in path)
    files.delete(rows[0])
    files.commit(rows[1].replace(".json", ".npy"), b"half")
    files.delete(index.replace(".faiss", ".json"))
    assert ensure(config(seed=5, test_share=0.3))[-1] == (3, 3)
    again = stored()
    assert {path: files.read_bytes(path) for path in again} == bytes_of
    touched = {path for path in again if again[path] != first[path] and "used-" not in path}
    whole = rows[2].removesuffix(".json")
    assert touched
    assert not any(path.startswith(whole) for path in touched), "a range that was whole is not made again"
    monkeypatch.setattr(piece_index, "cluster", None)  # not even Ray is started
    assert ensure(config(seed=9)) == []
    assert piece_index.ensure_index(config(non_activating_source="random"), copy, "", None, print) is None  # pyright: ignore[reportArgumentType]


def test_a_stopped_run_keeps_what_is_embedded(
    copy: Workspace, journal: RunJournal, ensure: Callable[..., list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        piece_index, "embedders", lambda *of, plain=piece_index.embedders, **how: plain(of[0], 1, **how)
    )
    request_stop(copy.files, journal.run_id)
    journal.beat()
    with pytest.raises(StoppedError, match="when 2 of 3 ranges of windows were embedded"):
        ensure(config())
    folder = f"caches/{copy.caches()[0]}/pieces"
    assert sum(one.path.endswith(".npy") for one in copy.files.scan(folder)) == 2


def test_an_embedding_model_that_cannot_be_used_is_one_sentence(
    copy: Workspace, ensure: Callable[..., list[tuple[int, int]]], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("nobody/no-such-embedding", "nobody/no-such-embedding"),
        ("no-such-embedding", "no-such-embedding"),
        (str(tmp_path / "empty"), "there are no safetensors"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            ensure(config(embedding_model=name))
        assert "bundled embedding" in caught.value.hint
        assert "\n" not in str(caught.value)
    assert not list(copy.files.scan(f"caches/{copy.caches()[0]}/pieces"))
    with pytest.raises(InputError, match="no index of its pieces of 32 tokens"):
        drawn(copy, config())
    with pytest.raises(InputError, match="has no piece of 4096 tokens"):
        ensure(config(example_ctx_len=4096))


@pytest.mark.slow
def test_sentence_transformers_embeds_as_the_bundle_does(  # A1.06
    copy: Workspace, ensure: Callable[..., list[tuple[int, int]]], tmp_path: Path
) -> None:
    """The bundled embedding is in sentence-transformers format: read by either, it finds the same negatives."""
    shutil.copytree(embedding_path(), tmp_path / "model")
    chosen = config(embedding_model=str(tmp_path / "model"))
    ensure(config())
    ensure(chosen)
    found = [
        {
            feature: {(one.window_id, one.start) for one in (*sets.train_negatives, *sets.test_negatives)}
            for feature, sets in drawn(copy, one)[1].items()
        }
        for one in (config(), chosen)
    ]
    assert len(list(copy.files.folders(f"caches/{copy.caches()[0]}/pieces"))) == 2
    common = sum(len(found[0][feature] & found[1][feature]) for feature in found[0])
    assert common > 0.98 * sum(map(len, found[0].values()))  # sums in another order, and equal texts


def test_tasks_without_an_embedding_model_import_no_torch() -> None:
    program = "import sys, raylens_jobs.negatives, raylens_jobs.piece_tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
