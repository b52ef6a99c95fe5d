"""Where the bytes of a workspace are: ``raylens du``."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

from raylens.errors import DamagedFileError
from raylens.store.audit_housekeeping import audit_kind
from raylens.store.audit_paths import FOLDER as AUDITS
from raylens.store.disk import Stored
from raylens.store.workspace import CacheStore, Workspace


@dataclass(frozen=True, slots=True)
class Usage:
    """Space taken by one kind of file.

    Attributes:
        cache_id: None outside caches.
        name: The cache's ``--name``, where it has one.
        sae: ``str(SaeId)``; None where the files belong to no single SAE.
        kind: A table that readers see (``activations``, ``windows`` …), ``shards`` (what reruns and merges
            read), ``pieces`` (embedded, and their index), ``superseded`` (merged files that no reader starts on,
            or of a merge that has not ended), ``unfinished``, ``state`` (small files of the store itself), or
            a folder outside caches (``runs``, ``records``, ``saes``); of audits, also ``audit references`` (what
            candidates share), ``audit parts`` (of unfinished runs), ``audit rows`` and ``audit calls``.
        files: Number of files.
        bytes: Their size.
    """

    cache_id: str | None
    name: str | None
    sae: str | None
    kind: str
    files: int
    bytes: int


def du(workspace: Workspace) -> tuple[Usage, ...]:
    """Space by cache, SAE and kind, the largest first within each cache; the rows add up to all that is stored."""
    rows: list[Usage] = []
    for cache_id in workspace.files.folders("caches"):
        rows += _of_cache(workspace.cache(cache_id))
    groups: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for name in workspace.files.folders():
        if name != "caches":
            for one in workspace.files.scan(name):
                kind = audit_kind(one.path) if name == AUDITS else name
                groups[None, "unfinished" if one.temporary else kind].append(one.size)
    for one in workspace.files.scan(recursive=False):
        groups[None, "unfinished" if one.temporary else "state"].append(one.size)
    return (*rows, *_rows(None, None, groups))


def _of_cache(cache: CacheStore) -> list[Usage]:
    listed: dict[str, tuple[str | None, str]] = {}
    keys: dict[str, str] = {}
    with suppress(DamagedFileError):  # what cannot be read still takes space
        keys = {sae.key: str(sae) for sae in cache.saes()}
        manifest = cache.manifest()
        listed = {entry.path: (entry.sae, entry.kind) for entry in manifest.entries} if manifest else {}
    groups: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for one in cache.files.scan(cache.folder):
        groups[listed.get(one.path) or _kind(cache, one, keys)].append(one.size)
    return _rows(cache.cache_id, cache.name(), groups)


def _kind(cache: CacheStore, one: Stored, keys: dict[str, str]) -> tuple[str | None, str]:
    """(SAE, kind) of a file that no manifest lists."""
    if one.temporary:
        return None, "unfinished"
    part, _, rest = one.path.removeprefix(f"{cache.folder}/").partition("/")
    if part in {"shards", "search"}:
        key = rest.partition("/")[0]
        return keys.get(key, key), part
    if part == "findings":
        kind, _, rest = rest.partition("/")
        key = rest.partition("/")[0]
        return keys.get(key, key), kind
    if part in {"windows", "documents", "pieces"}:
        return None, part
    if part == "generations" and not one.path.endswith(".json"):
        return None, "superseded"
    return None, "state"


def _rows(cache_id: str | None, name: str | None, groups: dict[tuple[str | None, str], list[int]]) -> list[Usage]:
    rows = [Usage(cache_id, name, sae, kind, len(sizes), sum(sizes)) for (sae, kind), sizes in groups.items()]
    return sorted(rows, key=lambda row: (-row.bytes, row.kind, row.sae or ""))
