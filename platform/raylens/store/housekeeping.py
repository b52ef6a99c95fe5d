"""Removing: ``raylens rm`` and ``raylens gc``; measuring is in :mod:`raylens.store.usage` and offered here too.

What makes a file exist for others is removed before the file (a pointer before its generation, a
manifest row before its shard), so that a removal cut short leaves rubbish for :func:`gc`, never a
promise that is not kept. Everything in a cache happens under the cache's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from raylens.errors import BusyError, DamagedFileError, DiskFullError, UnknownNameError
from raylens.ids import SaeId
from raylens.store.audit_effects import effects_tables
from raylens.store.audit_housekeeping import audit_rubbish
from raylens.store.audit_organisms import organism_table
from raylens.store.commits import logs
from raylens.store.disk import Stored
from raylens.store.edges import edge_table
from raylens.store.files import Files
from raylens.store.findings import findings_folders
from raylens.store.lock import holder
from raylens.store.manifest import Manifest
from raylens.store.phrases import search_folder
from raylens.store.piece_vectors import superseded_pieces
from raylens.store.run_ends import end_path
from raylens.store.runs import find_run
from raylens.store.trace_log import TraceLog
from raylens.store.trace_rolling import purge
from raylens.store.usage import Usage, du
from raylens.store.workspace import CacheStore, Workspace

__all__ = [
    "GRACE_S",
    "Collected",
    "Removal",
    "Usage",
    "du",
    "gc",
    "remove_cache",
    "remove_run",
    "remove_sae",
    "remove_unfinished",
]

GRACE_S = 24 * 3600.0
"""How long a reader that began before may go on reading what is superseded."""

_SHARDED = frozenset({"shards", "windows", "documents", "findings", "pieces"})
_DATA = (".parquet", ".npy", ".faiss")


@dataclass(frozen=True, slots=True)
class Removal:
    """One file that :func:`gc` removed, or would remove.

    Attributes:
        path: Relative to the workspace.
        bytes: Its size.
        reason: ``superseded generation``, ``unfinished generation``, ``unfinished file``, ``shard without
            a row``, ``superseded pieces``, ``removed cache``, ``stale stop request``, ``rolled into another``,
            ``rows of no audit`` or ``parts of a finished audit``.
    """

    path: str
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What :func:`gc` did.

    Attributes:
        removals: Files removed, or that would be.
        busy: Ids of caches left alone because a run is writing them.
    """

    removals: tuple[Removal, ...]
    busy: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.removals)


def remove_run(workspace: Workspace, name: str) -> str:
    """Remove a run's record (never what it wrote); returns its id.

    Raises:
        UnknownNameError: There is no such run.
        BusyError: It is at work.
    """
    record = find_run(workspace.files, name)
    if record.status == "running":
        raise BusyError(
            f"run {record.run_id} is at work (host {record.process.host}, pid {record.process.pid}).",
            hint=f"end it first with raylens stop {record.run_id}.",
        )
    workspace.files.delete(f"runs/{record.run_id}.json")
    workspace.files.delete(f"runs/{record.run_id}.stop")
    workspace.files.delete(end_path(record.run_id))
    return record.run_id


def remove_cache(workspace: Workspace, name: str) -> str:
    """Remove a cache with all its files, at once; returns its id.

    Its lock stays, free and a few hundred bytes, until :func:`gc` finds it old: tokens must not
    start again while a paused run may still hold one.

    Raises:
        UnknownNameError: There is no such cache.
        BusyError: A run is writing it.
    """
    cache = workspace.resolve_cache(name)
    with cache.lock("raylens rm"):
        workspace.files.delete(cache.current_path)
        workspace.files.delete(cache.info_path)
        folders = [f"{cache.folder}/{name}" for name in workspace.files.folders(cache.folder)]
        _remove_folders(workspace.files, [folder for folder in folders if folder != cache.lock_folder])
    return cache.cache_id


def remove_unfinished(cache: CacheStore) -> None:
    """Remove what a failed run wrote of a cache that does not exist yet, its lock aside; by who holds that lock."""
    folders = [f"{cache.folder}/{name}" for name in cache.files.folders(cache.folder)]
    cache.files.delete(cache.current_path)
    _remove_folders(cache.files, [folder for folder in folders if folder != cache.lock_folder])


def remove_sae(workspace: Workspace, name: str, sae: SaeId) -> str:
    """Remove one SAE of a cache with all its files, at once; returns the cache's id.

    Raises:
        UnknownNameError: There is no such cache, or it does not hold the SAE.
        BusyError: A run is writing it.
    """
    cache = workspace.resolve_cache(name)
    with cache.lock("raylens rm") as lock:
        manifest = cache.manifest()
        known = {*cache.saes(), *(manifest.saes if manifest else ())}
        if sae not in known:
            raise UnknownNameError.among("SAE of this cache", str(sae), map(str, known))
        gone = {cache.shard_folder(sae), *findings_folders(cache, sae), search_folder(cache, sae)}
        if manifest and sae in manifest.saes:
            rest = manifest.without(sae)
            cache.publish(rest, lock)
            gone |= _merged_folders(cache, manifest) - _merged_folders(cache, rest)
        workspace.files.delete(cache.sae_path(sae))
        _remove_folders(workspace.files, sorted(gone))
    return cache.cache_id


def _merged_folders(cache: CacheStore, manifest: Manifest) -> set[str]:
    prefix = cache.generation_folder("")
    paths = (entry.path for entry in manifest.entries if entry.path.startswith(prefix))
    return {cache.generation_folder(path.removeprefix(prefix).partition("/")[0]) for path in paths}


def _remove_folders(files: Files, folders: list[str]) -> None:
    for folder in folders:
        for stored in files.scan(folder):
            if stored.path.endswith(".json"):  # the rows that say that files are whole go before any file
                files.discard(stored.path)
    for folder in folders:
        files.delete(folder, recursive=True)


def gc(
    workspace: Workspace, *, grace_s: float = GRACE_S, dry_run: bool = False, now: datetime | None = None
) -> Collected:
    """Remove what nothing refers to any more and nobody may still be reading or writing.

    Never removed: a file that a current manifest lists, a shard with its row (a rerun reuses it),
    anything changed within ``grace_s``, and anything of a cache that a run is writing.

    Args:
        workspace: Where.
        grace_s: Age in seconds below which nothing is touched.
        dry_run: Only say what would go; takes no lock.
        now: The time that ages are counted from.
    """
    files = workspace.files
    before = (now or datetime.now(UTC)).timestamp() - grace_s
    removals: list[Removal] = []
    busy: list[str] = []
    for cache_id in files.folders("caches"):
        cache = workspace.cache(cache_id)
        found = _rubbish(cache, before)
        if not found:
            continue
        if dry_run:
            if holder(files, cache.lock_folder):
                busy.append(cache_id)
            else:
                removals += found
            continue
        try:
            with cache.lock("raylens gc"):
                # Looked at again under the lock: a run may have come and gone since.
                if _is_only_a_lock(cache):
                    removals += found
                    files.delete(cache.folder, recursive=True)
                else:
                    removals += _remove(files, _rubbish(cache, before))
                    files.prune(cache.folder)
        except BusyError:
            busy.append(cache_id)
    outside = _outside_caches(workspace, before)
    removals += outside if dry_run else _remove(files, outside)
    if not dry_run:
        # Deleted spans leave segments that hold others too; what these were before goes at a later call.
        with suppress(DamagedFileError, DiskFullError):
            log = TraceLog(files)
            purge(log, log.commits.covering(), before)
    return Collected(tuple(removals), tuple(busy))


def _remove(files: Files, found: list[Removal]) -> list[Removal]:
    for one in found:
        files.discard(one.path)
    return found


def _rubbish(cache: CacheStore, before: float) -> list[Removal]:
    """Files of one cache to go, rows before the files they speak of."""
    # Rows first, in the listing and so in the removal.
    stored = sorted(cache.files.scan(cache.folder), key=lambda one: (not one.path.endswith(".json"), one.path))
    content = [one for one in stored if not one.path.startswith(f"{cache.lock_folder}/")]
    if not cache.exists():
        # Young files: a run is making this cache and has not come to its cache.json yet.
        if any(one.modified >= before for one in content or stored):
            return []
        return [Removal(one.path, one.size, "removed cache") for one in content or stored]
    old = [one for one in content if one.modified < before]
    whole = [one for one in old if not one.temporary]
    return [
        *(Removal(one.path, one.size, "unfinished file") for one in old if one.temporary),
        *_old_generations(cache, content, before),
        *_unlisted_shards(cache, whole, {one.path for one in content}),
        *_old_pieces(cache, content, before),
    ]


def _is_only_a_lock(cache: CacheStore) -> bool:
    """Whether this is what :func:`remove_cache` leaves."""
    return all(one.path.startswith(f"{cache.lock_folder}/") for one in cache.files.scan(cache.folder))


def _unlisted_shards(cache: CacheStore, whole: list[Stored], paths: set[str]) -> Iterator[Removal]:
    for one in whole:
        part = one.path.removeprefix(f"{cache.folder}/").partition("/")[0]
        if part in _SHARDED and one.path.endswith(_DATA) and _row_of(one.path) not in paths:
            yield Removal(one.path, one.size, "file without a row")


def _row_of(path: str) -> str:
    """The manifest row that makes a shard exist; documents share the row of their windows."""
    return _row_beside(path.replace("/documents/", "/windows/"))


def _old_generations(cache: CacheStore, content: list[Stored], before: float) -> Iterator[Removal]:
    """Merged files that the current manifest does not list.

    A folder below ``generations`` is named by a generation (and holds its manifest) or by what its
    files are made of, and later generations list such files again: only the lists count.
    """
    try:
        manifest = cache.manifest()
    except DamagedFileError:
        return  # what is still needed is not known
    folders: dict[str, list[Stored]] = {}
    prefix = f"{cache.folder}/generations/"
    for one in content:
        if one.path.startswith(prefix) and not one.temporary:
            folders.setdefault(one.path.removeprefix(prefix).partition("/")[0], []).append(one)
    kept = _listed(manifest) | {cache.manifest_path(manifest.generation)} if manifest else set[str]()
    superseded = {path for name in folders for path in _superseded_by(cache, manifest, name)}
    # Readers may hold a superseded generation since just before the switch, however old its files are.
    switched = next((one.modified for one in content if one.path == cache.current_path), 0.0)
    for members in folders.values():
        if max(switched, *(one.modified for one in members)) < before:
            for one in members:
                if one.path not in kept:
                    reason = "superseded generation" if one.path in superseded else "unfinished generation"
                    yield Removal(one.path, one.size, reason)


def _old_pieces(cache: CacheStore, content: list[Stored], before: float) -> Iterator[Removal]:
    """Embedded pieces, and indexes of them, of merged windows that the current manifest does not list."""
    try:
        manifest = cache.manifest()
    except DamagedFileError:
        return
    if manifest is None or any(one.path == cache.current_path and one.modified >= before for one in content):
        return  # a reader may have begun before the switch
    stale = superseded_pieces(cache, manifest, [one.path for one in content if not one.temporary])
    for one in content:
        if one.path in stale and one.modified < before:
            yield Removal(one.path, one.size, "superseded pieces")


def _superseded_by(cache: CacheStore, current: Manifest | None, generation: str) -> set[str]:
    """What an earlier generation than ``current`` consisted of, if ``generation`` is one."""
    path = cache.manifest_path(generation)
    if current is None or generation >= current.generation:  # names of generations sort by time
        return set()
    try:
        return _listed(Manifest.from_bytes(cache.files.read_bytes(path), path)) | {path}
    except (FileNotFoundError, DamagedFileError):
        return set()


def _listed(manifest: Manifest) -> set[str]:
    """The files of a generation and the rows by which a later merge finds them again."""
    return {path for entry in manifest.entries for path in (entry.path, _row_beside(entry.path))}


def _row_beside(path: str) -> str:
    return f"{path.rpartition('.')[0]}.json"


def _outside_caches(workspace: Workspace, before: float) -> list[Removal]:
    files = workspace.files
    running = {f"runs/{record.run_id}.stop" for record in workspace.runs() if record.status == "running"}
    folders = [name for name in files.folders() if name != "caches"]
    found = [*files.scan(recursive=False), *(one for name in folders for one in files.scan(name))]
    old = [one for one in found if one.modified < before]
    stops = [one for one in old if one.path.startswith("runs/") and one.path.endswith(".stop")]
    # A segment's own age says nothing: a reader may have listed it just before it was rolled into another.
    rolled = {one.path for log in logs(files) for one in log.superseded(before)}
    return [
        *(Removal(one.path, one.size, "unfinished file") for one in old if one.temporary),
        *(Removal(one.path, one.size, "stale stop request") for one in stops if one.path not in running),
        *(Removal(one.path, one.size, "rolled into another") for one in old if one.path in rolled),
        *(Removal(one.path, one.size, why) for one, why in audit_rubbish(files, before)),
        *(
            Removal(one.path, one.size, why)
            for table in (organism_table(files), edge_table(files), *effects_tables(files))
            for one, why in table.superseded(before)
        ),
    ]
