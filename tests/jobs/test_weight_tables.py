"""Tables that come from an SAE's weights are made once a workspace, whatever the text of its caches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_runs import SAE
from raylens.ids import SaeId
from raylens.store.manifest import FileEntry
from raylens.store.workspace import CacheStore, Workspace
from raylens_jobs import weight_tables

ONE = SaeId.parse(SAE)
MAKERS = ("feature_logits", "decoder_neighbours", "encoder_neighbours", "decoder_map")


def tables(workspace: Workspace, cache: CacheStore) -> list[FileEntry]:
    """The merge's own task, in this process."""
    info = cache.info()
    task: Callable[..., list[FileEntry]] = weight_tables.weight_tables._function  # pyright: ignore[reportAttributeAccessIssue]
    return task(workspace.url, cache.cache_id, SAE, info["model"], info["revision"], cache.saes()[ONE])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was worked out, and not found."""
    found: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        plain = getattr(weight_tables, name)

        def make(*given: object) -> object:
            found.append(name)
            return plain(*given)

        return make

    for name in MAKERS:
        monkeypatch.setattr(weight_tables, name, noted(name))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return found


@pytest.fixture
def caches(copy: Workspace) -> tuple[CacheStore, CacheStore]:
    """One that was merged, and one of other text that was not yet."""
    merged = copy.cache(copy.caches()[0])
    other = copy.cache("0" * len(merged.cache_id))
    here = Path(copy.files.native(""))
    for path in (merged.info_path, merged.sae_path(ONE)):
        there = here / path.replace(merged.cache_id, other.cache_id)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here / path, there)
    assert set(copy.caches()) == {merged.cache_id, other.cache_id}
    return merged, other


def test_what_another_cache_has_is_copied(
    copy: Workspace, caches: tuple[CacheStore, CacheStore], made: list[str]
) -> None:
    merged, other = caches
    entries = tables(copy, other)
    assert made == []
    whole = merged.manifest()
    assert whole is not None
    for entry in entries:
        (wanted,) = whole.of(entry.kind, SAE)
        assert entry.path.startswith(f"{other.folder}/")
        assert (entry.rows, entry.bytes) == (wanted.rows, wanted.bytes)
        assert copy.files.read_bytes(entry.path) == copy.files.read_bytes(wanted.path)
    assert [entry.kind for entry in entries] == ["logits", "neighbours", "encoder_neighbours", "map"]
    assert tables(copy, other) == entries


def test_what_is_damaged_there_is_made_here(
    copy: Workspace, caches: tuple[CacheStore, CacheStore], made: list[str]
) -> None:
    merged, other = caches
    whole = merged.manifest()
    assert whole is not None
    (near,), (logits,) = whole.of("neighbours", SAE), whole.of("logits", SAE)
    path = Path(copy.files.native(near.path))
    kept, data = path.read_bytes(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    Path(copy.files.native(logits.path)).unlink()
    entries = {entry.kind: entry for entry in tables(copy, other)}
    assert made == ["feature_logits", "decoder_neighbours"]
    assert copy.files.read_bytes(entries["neighbours"].path) == kept


def test_what_was_made_from_other_weights_is_not_copied(
    copy: Workspace, caches: tuple[CacheStore, CacheStore], made: list[str]
) -> None:
    _, other = caches
    info = other.saes()[ONE]
    other.write_sae(ONE, {**info, "spec": {**info["spec"], "fingerprint": "0" * 64}})
    tables(copy, other)
    assert made == list(MAKERS)
