"""A workspace: made once, known by its version, its caches found by id, prefix or name."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raylens
from raylens.errors import BusyError, DamagedFileError, StoppedError, UnknownNameError, WorkspaceError
from raylens.ids import SaeId
from raylens.schema import SCHEMA_VERSION
from raylens.store.files import Files
from raylens.store.lock import acquire
from raylens.store.manifest import FileEntry, Manifest, new_generation
from raylens.store.runs import RunJournal
from raylens.store.workspace import CacheStore, Workspace

_ONE, _TWO = "00aa" * 4, "00bb" * 4
_SAES = (SaeId("raylens-pico-res", "layer_1"), SaeId("raylens-pico-res", "layer_3"))


def a_manifest(cache_id: str = _ONE) -> Manifest:
    entries = [FileEntry(kind="windows", path="w.parquet", rows=5, bytes=9, window_first=0, window_last=4)]
    for sae in _SAES:
        for first in (0, 16):
            entry = FileEntry(
                kind="activations",
                path=f"{sae.key}-{first}.parquet",
                rows=0,
                bytes=1,
                sae=str(sae),
                feature_first=first,
                feature_last=first + 15,
            )
            entries.append(entry)
    return Manifest(
        generation=new_generation(),
        created_at=datetime.now(UTC),
        cache_id=cache_id,
        entries=tuple(entries),
        totals={"n_windows": 5},
        sae_totals={str(sae): {"n_activations": 0} for sae in _SAES},
    )


def test_a_workspace_is_made_and_opened_again(store_url: str) -> None:
    with pytest.raises(WorkspaceError, match="there is no workspace at") as caught:
        Workspace.open(store_url)
    assert "raylens cache makes one" in caught.value.hint
    made = Workspace.open(store_url, create=True)
    mark = made.files.read_json("raylens.json")
    assert (mark["schema_version"], mark["raylens"]) == (SCHEMA_VERSION, raylens.__version__)
    again = Workspace.open(store_url, create=True)
    assert again.files.read_json("raylens.json") == mark
    assert Workspace.open(store_url).url == made.url
    assert again.caches() == ()
    assert again.runs() == ()


def test_many_who_make_it_at_once_make_one(store_url: str) -> None:
    barrier = threading.Barrier(4)

    def make(_: int) -> object:
        barrier.wait()
        workspace = Workspace.open(store_url, create=True)
        workspace.files.commit_if_absent("runs/x.json", b"{}")
        return workspace.files.read_json("raylens.json")

    with ThreadPoolExecutor(4) as pool:
        marks = list(pool.map(make, range(4)))
    assert all(mark == marks[0] for mark in marks)


def test_a_folder_with_something_else_is_refused(files: Files) -> None:
    files.commit("thesis.txt", b"mine")
    with pytest.raises(WorkspaceError, match="is not a workspace and not empty"):
        Workspace.open(files.url, create=True)
    assert [one.path for one in files.scan()] == ["thesis.txt"]


def test_the_root_of_a_fresh_disk_is_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    Workspace.open(tmp_path, create=True)


@pytest.mark.parametrize(
    ("mark", "remedy"),
    [
        ({"schema_version": SCHEMA_VERSION + 1, "raylens": "9.1.0"}, "made by raylens 9.1.0: install that version"),
        ({"schema_version": 0, "raylens": "0.0.1"}, "made by raylens 0.0.1: read it with that version"),
        ({}, "made by raylens of unknown version"),
    ],
)
def test_another_schema_version_is_refused(files: Files, mark: dict[str, object], remedy: str) -> None:
    files.commit_json("raylens.json", mark)
    for create in (False, True):
        with pytest.raises(WorkspaceError) as caught:
            Workspace.open(files.url, create=create)
        version = mark.get("schema_version")
        assert f"has schema version {version}, and raylens {raylens.__version__} reads" in caught.value.message
        assert f"reads version {SCHEMA_VERSION}." in caught.value.message
        assert remedy in caught.value.hint


def test_a_damaged_mark_is_refused(local_files: Files) -> None:
    local_files.commit("raylens.json", b"{")
    with pytest.raises(WorkspaceError, match=r"raylens\.json is damaged"):
        Workspace.open(local_files.url)


def test_a_store_without_conditional_writes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some S3 servers take ``If-None-Match`` and overwrite all the same."""

    def careless(self: Files, rel: str, data: bytes) -> bool:
        self.commit(rel, data)
        return True

    monkeypatch.setattr(Files, "commit_if_absent", careless)
    with pytest.raises(WorkspaceError, match="ignores conditional writes"):
        Workspace.open(tmp_path / "workspace", create=True)


# ------------------------------------------------------------------------------------------- caches


def test_caches_are_found_by_id_prefix_or_name(workspace: Workspace) -> None:
    with pytest.raises(UnknownNameError) as caught:
        workspace.resolve_cache("demo")
    assert "there is no cache yet" in caught.value.hint
    workspace.cache(_ONE).write_info({"model": "raylens/pico", "name": "demo"})
    workspace.cache(_TWO).write_info({"model": "raylens/pico", "name": None})
    workspace.files.commit(f"caches/{'00cc' * 4}/windows/00000000.json", b"{}")  # begun, nothing known of it yet
    assert workspace.caches() == (_ONE, _TWO)
    assert workspace.resolve_cache(_TWO).cache_id == _TWO
    assert workspace.resolve_cache("00b").cache_id == _TWO
    assert workspace.resolve_cache("demo").cache_id == _ONE
    with pytest.raises(UnknownNameError, match="'00' names 2 caches") as caught:
        workspace.resolve_cache("00")
    assert _ONE in caught.value.hint
    with pytest.raises(UnknownNameError) as caught:
        workspace.resolve_cache("demmo")
    assert caught.value.hint.startswith("there are demo and 2 more")
    for unknown in ("", "zz", "00cc"):
        with pytest.raises(UnknownNameError, match="unknown cache"):
            workspace.resolve_cache(unknown)
    with pytest.raises(UnknownNameError, match="there is no cache"):
        workspace.cache("00cc" * 4).info()


def test_the_saes_of_a_cache_are_noted(workspace: Workspace) -> None:
    cache = workspace.cache(_ONE)
    assert cache.saes() == {}
    for sae in reversed(_SAES):
        cache.write_sae(sae, {"d_sae": 32})
    assert cache.saes() == {sae: {"d_sae": 32, "sae": str(sae)} for sae in _SAES}
    assert list(cache.saes()) == list(_SAES)


def test_paths_of_a_cache_lie_in_its_folder_and_differ(local_files: Files) -> None:
    cache = CacheStore(local_files, _ONE)
    paths = [cache.info_path, cache.current_path, cache.manifest_path("g")]
    for shard in (0, 1):
        paths += [cache.windows_path(shard), cache.windows_row_path(shard), cache.documents_path(shard)]
    for sae in _SAES:
        paths += [cache.sae_path(sae), cache.shard_path(sae, "x"), cache.shard_row_path(sae, "x")]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert path.startswith(f"caches/{_ONE}/")
        local_files.commit(path, b"")


def test_runs_are_read_through_the_workspace(workspace: Workspace) -> None:
    with RunJournal.start(workspace.files, "cache", {}, beat_s=3600) as journal:
        assert [run.run_id for run in workspace.runs()] == [journal.run_id]


# -------------------------------------------------------------------------------------- generations


def test_readers_see_one_generation_at_a_time(workspace: Workspace) -> None:
    cache = workspace.cache(_ONE)
    assert cache.generation() is None
    assert cache.manifest() is None
    first, second = a_manifest(), a_manifest()
    with cache.lock("run-1") as lock:
        cache.publish(first, lock)
        assert cache.manifest() == first
        cache.publish(second, lock)
        assert cache.manifest() == second
        assert cache.generation() == second.generation
    assert first.generation < second.generation


def test_who_lost_the_lock_cannot_publish(workspace: Workspace) -> None:
    cache = workspace.cache(_ONE)
    first = a_manifest()
    paused = cache.lock("run-1")
    cache.publish(first, paused)
    with pytest.raises(BusyError, match=f"cache {_ONE}"):
        cache.lock("run-2")
    with acquire(workspace.files, cache.lock_folder, "run-2", what="it", stale_s=0.0):
        with pytest.raises(StoppedError):
            cache.publish(a_manifest(), paused)
        assert cache.manifest() == first
    paused.release()


def test_a_reader_goes_on_where_the_pointer_moved_meanwhile(local_files: Files) -> None:
    class Switching(Files):
        """The pointer is switched and the old generation removed right after a reader has read the pointer."""

        def read_bytes(self, rel: str) -> bytes:
            data = super().read_bytes(rel)
            if rel.endswith("current.json") and json.loads(data)["generation"] == first.generation:
                self.commit(cache.manifest_path(second.generation), second.to_bytes())
                self.commit_json(cache.current_path, {"generation": second.generation})
                self.delete(cache.generation_folder(first.generation), recursive=True)
            return data

    first, second = a_manifest(), a_manifest()
    cache = CacheStore(Switching(local_files.url), _ONE)
    with cache.lock("run-1") as lock:
        cache.publish(first, lock)
    assert cache.manifest() == second


@pytest.mark.parametrize("pointer", [b'{"generation": "gone"}', b'{"generation": 3}', b"{}", b"{"])
def test_a_pointer_to_nothing_is_damage(workspace: Workspace, pointer: bytes) -> None:
    cache = workspace.cache(_ONE)
    workspace.files.commit(cache.current_path, pointer)
    with pytest.raises(DamagedFileError, match=r"current\.json"):
        cache.manifest()


@given(cut=st.integers(0, 400))
def test_a_truncated_manifest_is_damage(cut: int) -> None:
    data = a_manifest().to_bytes()
    with pytest.raises(DamagedFileError, match=r"m\.json is damaged"):
        Manifest.from_bytes(data[:cut], "m.json")


def test_manifests_answer_what_readers_ask() -> None:
    manifest = a_manifest()
    assert Manifest.from_bytes(manifest.to_bytes(), "m.json") == manifest
    assert manifest.saes == _SAES
    assert [one.kind for one in manifest.of("windows")] == ["windows"]
    assert len(list(manifest.of("activations"))) == 4
    (entry,) = [one for one in manifest.of("activations", _SAES[0]) if one.holds_feature(16)]
    assert (entry.feature_first, entry.feature_last) == (16, 31)
    assert not entry.holds_feature(32)
    assert not entry.holds_window(0)
    (windows,) = manifest.of("windows")
    assert windows.holds_window(4)
    assert not windows.holds_window(5)
    less = manifest.without(_SAES[0])
    assert less.saes == _SAES[1:]
    assert set(less.sae_totals) == {str(_SAES[1])}
    assert less.totals == manifest.totals
    assert less.generation > manifest.generation
