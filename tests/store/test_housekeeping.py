"""Removing and measuring: nothing that anyone still needs goes, and everything else does."""

from __future__ import annotations

import contextlib
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylens.errors import BusyError, UnknownNameError
from raylens.ids import SaeId
from raylens.store.files import Files
from raylens.store.housekeeping import Usage, du, gc, remove_cache, remove_run, remove_sae
from raylens.store.manifest import FileEntry, Manifest, new_generation
from raylens.store.runs import RunJournal, request_stop
from raylens.store.workspace import CacheStore, Workspace

_ID = "0123456789abcdef"
_EARLY, _LATE = SaeId("raylens-pico-res", "layer_1"), SaeId("raylens-pico-res", "layer_5")
_SOON = datetime.now(UTC) + timedelta(hours=1)
_TOMORROW = datetime.now(UTC) + timedelta(hours=25)


def everything(files: Files) -> set[str]:
    return {one.path for one in files.scan()}


def content(files: Files) -> set[str]:
    """All but locks."""
    return {path for path in everything(files) if "/lock/" not in path}


def write_shards(cache: CacheStore, *saes: SaeId) -> None:
    """What encoding leaves: contents do not matter to housekeeping, names and rows do."""
    for shard in (0, 1):
        cache.files.commit(cache.windows_path(shard), b"w" * 100)
        cache.files.commit(cache.documents_path(shard), b"d" * 10)
        cache.files.commit(cache.windows_row_path(shard), b"{}")
        for sae in saes:
            cache.files.commit(cache.shard_path(sae, f"s{shard}"), b"s" * 1000)
            cache.files.commit(cache.shard_row_path(sae, f"s{shard}"), b"{}")


def entry(path: str, kind: str, size: int, sae: SaeId | None = None) -> FileEntry:
    return FileEntry.model_validate(
        {"kind": kind, "path": path, "rows": 1, "bytes": size, "sae": None if sae is None else str(sae)}
    )


def merge(cache: CacheStore, *saes: SaeId, keep: tuple[FileEntry, ...] = (), publish: bool = True) -> Manifest:
    """A generation with one range file an SAE and its row, in a folder of its own, as merges make them.

    ``keep`` are files of an earlier merge, listed again.
    """
    entries = [entry(cache.windows_path(shard), "windows", 100) for shard in (0, 1)]
    for sae in saes:
        folder = cache.generation_folder(secrets.token_hex(8))  # merges name it by a hash
        path = f"{folder}/activations/0000.parquet"
        cache.files.commit(path, b"a" * 500)
        cache.files.commit(row_of(path), b"{}")
        cache.files.commit(f"{folder}/statistics/0000.parquet", b"t" * 50)  # read by the merge, listed by nobody
        entries.append(entry(path, "activations", 500, sae))
    manifest = Manifest(
        generation=new_generation(),
        created_at=datetime.now(UTC),
        cache_id=cache.cache_id,
        entries=(*entries, *keep),
    )
    if publish:
        with cache.lock("run-1") as lock:
            cache.publish(manifest, lock)
    return manifest


def row_of(path: str) -> str:
    return path.removesuffix("parquet") + "json"


def merged(one: FileEntry) -> set[str]:
    """A merged file, its row, and what its merge left beside."""
    return {one.path, row_of(one.path), one.path.replace("/activations/", "/statistics/")}


@pytest.fixture
def cache(workspace: Workspace) -> CacheStore:
    """A cache of two SAEs, merged once."""
    cache = workspace.cache(_ID)
    cache.write_info({"name": "demo"})
    for sae in (_EARLY, _LATE):
        cache.write_sae(sae, {})
    write_shards(cache, _EARLY, _LATE)
    merge(cache, _EARLY, _LATE)
    return cache


# ------------------------------------------------------------------------------------------------ rm


def test_a_removed_cache_is_gone_and_can_be_made_again(workspace: Workspace, cache: CacheStore) -> None:
    workspace.cache("f" * 16).write_info({"name": "other"})
    assert remove_cache(workspace, "demo") == _ID
    assert workspace.caches() == ("f" * 16,)
    assert content(workspace.files) == {"raylens.json", f"caches/{'f' * 16}/cache.json"}
    assert cache.manifest() is None
    with cache.lock("run-2") as lock:
        assert lock.token > 2  # a paused run of before can never come to hold the highest token
    with pytest.raises(UnknownNameError):
        remove_cache(workspace, "demo")


def test_what_a_run_writes_is_not_removed(workspace: Workspace, cache: CacheStore) -> None:
    gc(workspace, now=_TOMORROW)
    before = content(workspace.files)
    with cache.lock("run-7"):
        assert gc(workspace, now=_TOMORROW).busy == ()  # nothing to collect: no need to say that it is busy
        with pytest.raises(BusyError, match="run run-7"):
            remove_cache(workspace, _ID)
        with pytest.raises(BusyError, match="run run-7"):
            remove_sae(workspace, _ID, _EARLY)
        assert content(workspace.files) == before


def test_one_sae_is_removed_and_the_others_stay(workspace: Workspace, cache: CacheStore) -> None:
    before = cache.manifest()
    assert before is not None
    gone = next(before.of("activations", _EARLY))
    assert remove_sae(workspace, "demo", _EARLY) == _ID
    manifest = cache.manifest()
    assert manifest is not None
    assert manifest.saes == (_LATE,)
    assert list(cache.saes()) == [_LATE]
    assert not [path for path in everything(workspace.files) if _EARLY.key in path]
    assert not merged(gone) & everything(workspace.files)
    assert all(workspace.files.exists(one.path) for one in manifest.entries)
    assert workspace.files.exists(cache.shard_row_path(_LATE, "s0"))
    with pytest.raises(UnknownNameError, match="unknown SAE of this cache") as caught:
        remove_sae(workspace, "demo", _EARLY)
    assert str(_LATE) in caught.value.hint


def test_an_sae_that_was_never_merged_is_removed_too(workspace: Workspace) -> None:
    cache = workspace.cache(_ID)
    cache.write_info({})
    cache.write_sae(_EARLY, {})
    write_shards(cache, _EARLY)
    remove_sae(workspace, _ID, _EARLY)
    assert cache.saes() == {}
    assert workspace.files.list(cache.shard_folder(_EARLY)) == ()
    assert workspace.files.exists(cache.windows_row_path(0))


def test_a_run_at_work_keeps_its_record(workspace: Workspace) -> None:
    journal = RunJournal.start(workspace.files, "cache", {}, beat_s=3600)
    with pytest.raises(BusyError, match=f"run {journal.run_id} is at work"):
        remove_run(workspace, journal.run_id)
    journal.finish()
    assert remove_run(workspace, journal.run_id) == journal.run_id
    assert workspace.runs() == ()
    assert content(workspace.files) == {"raylens.json"}


class Killed(BaseException):
    """Stands for a kill -9 between two operations."""


class Dying(Files):
    """Files whose process dies before its nth removal."""

    left = 0

    def _count(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def discard(self, path: str) -> None:
        self._count()
        super().discard(path)

    def delete(self, rel: str, *, recursive: bool = False) -> None:
        if "/lock/" not in rel:
            self._count()
        super().delete(rel, recursive=recursive)


@pytest.mark.parametrize("removals", range(0, 16, 3))
def test_a_removal_cut_short_promises_nothing_it_lacks(workspace: Workspace, cache: CacheStore, removals: int) -> None:
    dying = Dying(workspace.url)
    dying.left = removals
    with contextlib.suppress(Killed):
        remove_cache(Workspace(dying), _ID)
    left = everything(workspace.files)
    rows = {path for path in left if path.endswith(".json") and ("/shards/" in path or "/windows/" in path)}
    assert all(row.removesuffix("json") + "parquet" in left for row in rows)
    assert all(cache.documents_path(shard) in left for shard in (0, 1) if cache.windows_row_path(shard) in rows)
    if removals > 0:
        assert cache.manifest() is None
    if cache.exists():
        remove_cache(workspace, _ID)
    gc(workspace, now=_TOMORROW)
    gc(workspace, now=_TOMORROW + timedelta(days=2))
    assert everything(workspace.files) == {"raylens.json"}


# ------------------------------------------------------------------------------------------------ gc


def test_nothing_needed_is_collected_however_old(workspace: Workspace, cache: CacheStore) -> None:
    before = everything(workspace.files)
    collected = gc(workspace, now=_TOMORROW)
    assert {one.path.split("/")[-2] for one in collected.removals} == {"statistics"}
    manifest = cache.manifest()
    assert manifest is not None
    for one in manifest.entries:
        assert {one.path, row_of(one.path)} <= everything(workspace.files)
    assert len(everything(workspace.files)) == len(before) - 2


def test_a_superseded_generation_goes_after_the_grace(workspace: Workspace, cache: CacheStore) -> None:
    gc(workspace, now=_TOMORROW)
    old = cache.manifest()
    assert old is not None
    kept = next(old.of("activations", _EARLY))
    gone = next(old.of("activations", _LATE))
    merge(cache, _LATE, keep=(kept,))
    assert gc(workspace, now=_SOON).removals == ()
    before = content(workspace.files)
    planned = gc(workspace, now=_TOMORROW, dry_run=True)
    assert content(workspace.files) == before
    new = cache.manifest()
    assert new is not None
    (fresh,) = (one for one in new.of("activations", _LATE))
    statistics = fresh.path.replace("/activations/", "/statistics/")
    assert {(one.path, one.reason) for one in planned.removals} == {
        (gone.path, "superseded generation"),
        (row_of(gone.path), "superseded generation"),
        (cache.manifest_path(old.generation), "superseded generation"),
        (statistics, "unfinished generation"),
    }
    assert planned.bytes == sum(one.bytes for one in planned.removals) > 500
    assert gc(workspace, now=_TOMORROW) == planned
    assert content(workspace.files) == before - {one.path for one in planned.removals}
    assert workspace.files.exists(kept.path)
    assert workspace.files.exists(row_of(kept.path))
    assert gc(workspace, now=_TOMORROW).removals == ()
    merge(cache, _EARLY, _LATE)
    assert kept.path in {one.path for one in gc(workspace, now=_TOMORROW).removals}


def test_a_merge_that_died_and_shards_without_a_row_go(workspace: Workspace, cache: CacheStore) -> None:
    gc(workspace, now=_TOMORROW)
    lost = merge(cache, _EARLY, publish=False)
    files = workspace.files
    files.commit(cache.manifest_path(lost.generation), lost.to_bytes())  # killed right before the pointer moved
    files.commit(cache.shard_path(_EARLY, "torn"), b"s")
    files.commit(cache.windows_path(9), b"w")
    files.commit(cache.documents_path(9), b"d")
    assert gc(workspace, now=_SOON).removals == ()
    collected = gc(workspace, now=_TOMORROW)
    assert {(one.path, one.reason) for one in collected.removals} == {
        (cache.manifest_path(lost.generation), "unfinished generation"),
        *((path, "unfinished generation") for path in merged(next(lost.of("activations")))),
        (cache.shard_path(_EARLY, "torn"), "file without a row"),
        (cache.windows_path(9), "file without a row"),
        (cache.documents_path(9), "file without a row"),
    }
    assert cache.generation() not in {None, lost.generation}


def test_unfinished_files_of_dead_writers_go(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "workspace", create=True)
    workspace.cache(_ID).write_info({})
    paths = [workspace.files.temporary(path) for path in (f"caches/{_ID}/shards/x/s.parquet", "records/r/0.parquet")]
    paths.append(workspace.files.temporary("raylens.json"))
    for path in paths:
        path.write_bytes(b"half")
    assert gc(workspace, now=_SOON).removals == ()
    collected = gc(workspace, now=_TOMORROW)
    assert [one.reason for one in collected.removals] == ["unfinished file"] * 3
    assert collected.bytes == 12
    assert not any(path.exists() for path in paths)
    assert not (tmp_path / "workspace/caches" / _ID / "shards").exists()


def test_a_cache_being_written_is_left_alone_and_named(workspace: Workspace, cache: CacheStore) -> None:
    merge(cache, _LATE)
    before = content(workspace.files)
    with cache.lock("run-7"):
        for dry_run in (True, False):
            collected = gc(workspace, now=_TOMORROW, dry_run=dry_run)
            assert collected.busy == (_ID,)
            assert collected.removals == ()
    assert content(workspace.files) == before


def test_a_cache_that_is_being_made_is_not_taken_for_rubbish(workspace: Workspace) -> None:
    cache = workspace.cache(_ID)
    write_shards(cache, _EARLY)  # cache.json comes later
    assert gc(workspace, now=_SOON).removals == ()
    assert {one.reason for one in gc(workspace, now=_TOMORROW).removals} == {"removed cache"}


def test_the_lock_of_a_removed_cache_goes_last(workspace: Workspace, cache: CacheStore) -> None:
    remove_cache(workspace, _ID)
    assert gc(workspace, now=_SOON).removals == ()
    (removal,) = gc(workspace, now=_TOMORROW).removals
    assert removal.reason == "removed cache"
    assert everything(workspace.files) == {"raylens.json"}
    assert workspace.files.folders("caches") == ()


def test_requests_to_stop_go_when_nobody_waits_for_them(workspace: Workspace) -> None:
    with RunJournal.start(workspace.files, "cache", {}, beat_s=3600) as journal:
        request_stop(workspace.files, journal.run_id)
        assert gc(workspace, now=_TOMORROW).removals == ()
    workspace.files.commit(f"runs/{journal.run_id}.stop", b"")
    (removal,) = gc(workspace, now=_TOMORROW).removals
    assert (removal.path, removal.reason) == (f"runs/{journal.run_id}.stop", "stale stop request")
    assert [run.run_id for run in workspace.runs()] == [journal.run_id]


_steps = st.lists(st.sampled_from(["shards", "merge", "merge keep", "die", "drop", "gc", "gc now"]), max_size=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
def test_whatever_happened_readers_find_all_they_are_told_of(tmp_path: Path, steps: list[str]) -> None:
    workspace = Workspace.open(tmp_path / secrets.token_hex(8), create=True)
    cache = workspace.cache(_ID)
    cache.write_info({})
    files = workspace.files
    for step in steps:
        manifest = cache.manifest()
        if step == "shards":
            cache.write_sae(_EARLY, {})
            write_shards(cache, _EARLY)
        elif step.startswith("merge"):
            keep = tuple(manifest.of("activations")) if manifest and step == "merge keep" else ()
            write_shards(cache)
            merge(cache, _EARLY, keep=keep)
        elif step == "die":
            merge(cache, _LATE, publish=False)
        elif step == "drop" and manifest and manifest.saes:
            remove_sae(workspace, _ID, manifest.saes[0])
        elif step.startswith("gc"):
            grace_s = 0.0 if step == "gc now" else 3600.0
            now = datetime.now(UTC) + timedelta(seconds=5)
            planned = gc(workspace, grace_s=grace_s, now=now, dry_run=True)
            collected = gc(workspace, grace_s=grace_s, now=now)
            assert collected.removals == planned.removals
            assert not [one for one in collected.removals if files.exists(one.path)]
        if seen := cache.manifest():
            assert [one.path for one in seen.entries if not files.exists(one.path)] == []
        assert sum(row.bytes for row in du(workspace)) == sum(one.size for one in files.scan())
        assert sum(row.files for row in du(workspace)) == len(everything(files))


# ------------------------------------------------------------------------------------------------ du


def test_a_damaged_cache_can_be_measured_and_removed(workspace: Workspace, cache: CacheStore) -> None:
    for path in (cache.current_path, cache.info_path, cache.sae_path(_EARLY)):
        workspace.files.commit(path, b"{")
        assert sum(row.bytes for row in du(workspace)) == sum(one.size for one in workspace.files.scan())
        assert gc(workspace, now=_TOMORROW).removals == ()  # what is still needed is not known
    remove_cache(workspace, _ID)
    assert content(workspace.files) == {"raylens.json"}


def test_space_is_told_by_cache_sae_and_kind(workspace: Workspace, cache: CacheStore) -> None:
    merge(cache, _EARLY)
    with RunJournal.start(workspace.files, "cache", {}, beat_s=3600):
        pass
    workspace.files.commit("records/r/0.parquet", b"r" * 70)
    usages = {(row.cache_id, row.sae, row.kind): row for row in du(workspace)}
    assert usages[_ID, str(_EARLY), "shards"] == Usage(_ID, "demo", str(_EARLY), "shards", 4, 2004)
    assert usages[_ID, str(_LATE), "shards"].bytes == 2004
    assert usages[_ID, str(_EARLY), "activations"] == Usage(_ID, "demo", str(_EARLY), "activations", 1, 500)
    assert usages[_ID, None, "superseded"].bytes == 1000 + 3 * 50
    assert usages[_ID, None, "windows"].bytes == 204
    assert usages[_ID, None, "documents"].bytes == 20
    assert usages[None, None, "records"] == Usage(None, None, None, "records", 1, 70)
    assert usages[None, None, "runs"].files == 1
    assert usages[None, None, "state"].files == 1
    assert sum(row.bytes for row in usages.values()) == sum(one.size for one in workspace.files.scan())
