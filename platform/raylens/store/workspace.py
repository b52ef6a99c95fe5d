"""A workspace and the caches in it: where each file lies, and which generation readers see."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import raylens
from raylens.errors import DamagedFileError, UnknownNameError, WorkspaceError
from raylens.ids import SaeId
from raylens.schema import SCHEMA_VERSION
from raylens.store.files import Files
from raylens.store.lock import Lock, acquire
from raylens.store.manifest import Manifest
from raylens.store.runs import RunRecord, read_runs

_MARK = "raylens.json"
_CACHE_ID = re.compile(r"[0-9a-f]{16}")
# What a fresh disk or a desktop puts into an empty folder.
_NOT_CONTENT = frozenset({"lost+found", ".DS_Store"})


class Workspace:
    """One folder of caches, runs, records and SAEs, on a disk or in an object store."""

    def __init__(self, files: Files) -> None:
        self.files = files

    @classmethod
    def open(cls, url: str | Path, *, create: bool = False) -> Self:
        """Open the workspace at ``url``; with ``create``, make one where there is nothing yet.

        Raises:
            WorkspaceError: There is none, the folder holds something else, or its schema version is another.
        """
        files = Files.open(url)
        if not files.exists(_MARK):
            if not create:
                raise WorkspaceError(
                    f"there is no workspace at {files.url}.",
                    hint="raylens cache makes one; --workspace or RAYLENS_WORKSPACE names another.",
                )
            _create(files)
        _check_version(files)
        return cls(files)

    @property
    def url(self) -> str:
        return self.files.url

    def __repr__(self) -> str:
        return f"Workspace({self.url!r})"

    def cache(self, cache_id: str) -> CacheStore:
        """The cache of that id, which may not exist yet."""
        return CacheStore(self.files, cache_id)

    def caches(self) -> tuple[str, ...]:
        """Ids of the caches that exist, sorted."""
        found = (name for name in self.files.folders("caches") if _CACHE_ID.fullmatch(name))
        return tuple(name for name in found if self.cache(name).exists())

    def resolve_cache(self, name: str) -> CacheStore:
        """The cache that ``name`` means: its id, the start of one, or the name given to it with ``--name``.

        Raises:
            UnknownNameError: It names none, or more than one.
        """
        known = {cache_id: self.cache(cache_id).name() for cache_id in self.caches()}
        found = (
            [cache_id for cache_id in known if cache_id == name]
            or [cache_id for cache_id, given in known.items() if name and given == name]
            or [cache_id for cache_id in known if name and cache_id.startswith(name)]
        )
        if len(found) == 1:
            return self.cache(found[0])
        if found:
            raise UnknownNameError(
                f"{name!r} names {len(found)} caches.", hint=f"write one of these ids: {', '.join(found)}."
            )
        names = [*filter(None, known.values()), *known]
        raise UnknownNameError.among("cache", name, names, hint="raylens du lists them.")

    def runs(self) -> tuple[RunRecord, ...]:
        """All runs, oldest first; one whose process is gone reads ``lost``."""
        return read_runs(self.files)


class CacheStore:
    """Paths and small state of one cache; the layout is drawn in :mod:`raylens.store`."""

    def __init__(self, files: Files, cache_id: str) -> None:
        self.files = files
        self.cache_id = cache_id
        self.folder = f"caches/{cache_id}"

    def __repr__(self) -> str:
        return f"CacheStore({self.files.url!r}, {self.cache_id!r})"

    # ------------------------------------------------------------------ where things lie (relative paths)

    @property
    def info_path(self) -> str:
        return f"{self.folder}/cache.json"

    @property
    def current_path(self) -> str:
        return f"{self.folder}/current.json"

    @property
    def lock_folder(self) -> str:
        return f"{self.folder}/lock"

    @property
    def windows_folder(self) -> str:
        return f"{self.folder}/windows"

    def windows_path(self, shard: int) -> str:
        return f"{self.windows_folder}/{shard:08d}.parquet"

    def windows_row_path(self, shard: int) -> str:
        """The manifest row of a windows shard: written last, it makes the shard exist."""
        return f"{self.windows_folder}/{shard:08d}.json"

    def documents_path(self, shard: int) -> str:
        return f"{self.folder}/documents/{shard:08d}.parquet"

    def shard_folder(self, sae: SaeId) -> str:
        return f"{self.folder}/shards/{sae.key}"

    def shard_path(self, sae: SaeId, name: str) -> str:
        return f"{self.shard_folder(sae)}/{name}.parquet"

    def shard_row_path(self, sae: SaeId, name: str) -> str:
        """The manifest row of an encoder shard: written last, it makes the shard exist."""
        return f"{self.shard_folder(sae)}/{name}.json"

    @property
    def saes_folder(self) -> str:
        return f"{self.folder}/saes"

    def sae_path(self, sae: SaeId) -> str:
        """Which SAE a shard folder belongs to (its name is one-way), and what is known of it."""
        return f"{self.saes_folder}/{sae.key}.json"

    def generation_folder(self, generation: str) -> str:
        return f"{self.folder}/generations/{generation}"

    def manifest_path(self, generation: str) -> str:
        return f"{self.generation_folder(generation)}/manifest.json"

    # ------------------------------------------------------------------ small state

    def exists(self) -> bool:
        return self.files.exists(self.info_path)

    def info(self) -> dict[str, Any]:
        """Identity, model, tokenizer and ``name`` of the cache, as :meth:`write_info` got them.

        Raises:
            UnknownNameError: There is no such cache.
        """
        try:
            return self.files.read_json(self.info_path)
        except FileNotFoundError as error:
            raise UnknownNameError(
                f"there is no cache {self.cache_id} in {self.files.url}.", hint="raylens du lists the caches."
            ) from error

    def name(self) -> str | None:
        """The ``--name`` it was given; None without one, and where cache.json is missing or damaged."""
        try:
            return str(self.info().get("name") or "") or None
        except (UnknownNameError, DamagedFileError):  # housekeeping must reach such a cache too
            return None

    def write_info(self, info: Mapping[str, object]) -> None:
        self.files.commit_json(self.info_path, info)

    def write_sae(self, sae: SaeId, info: Mapping[str, object]) -> None:
        """Note that this cache holds ``sae``, and what is known of it; before its first shard."""
        self.files.commit_json(self.sae_path(sae), {**info, "sae": str(sae)})

    def saes(self) -> dict[SaeId, dict[str, Any]]:
        """The SAEs this cache was asked to encode, merged or not, each with what :meth:`write_sae` got."""
        notes = (self.files.read_json(path) for path in self.files.list(self.saes_folder))
        return dict(sorted((SaeId.parse(str(info["sae"])), info) for info in notes))

    # ------------------------------------------------------------------ generations

    def generation(self) -> str | None:
        """Name of the generation readers see; None before the first merge."""
        try:
            found = self.files.read_json(self.current_path).get("generation")
        except FileNotFoundError:
            return None
        if not isinstance(found, str):
            raise _no_generation(self.files.native(self.current_path))
        return found

    def manifest(self) -> Manifest | None:
        """What readers see; None before the first merge.

        Raises:
            DamagedFileError: The pointer or the manifest it names cannot be read.
        """
        missing: FileNotFoundError | None = None
        # Twice: between the two reads the pointer may move on and housekeeping remove what it named.
        for _ in range(2):
            generation = self.generation()
            if generation is None:
                return None
            path = self.manifest_path(generation)
            try:
                return Manifest.from_bytes(self.files.read_bytes(path), self.files.native(path))
            except FileNotFoundError as error:
                missing = error
        raise _no_generation(self.files.native(self.current_path)) from missing

    def publish(self, manifest: Manifest, lock: Lock) -> None:
        """Make ``manifest``, whose files are all committed, what readers see from now on.

        Raises:
            StoppedError: ``lock`` was taken over; readers go on seeing what they saw.
        """
        self.files.commit(self.manifest_path(manifest.generation), manifest.to_bytes())
        lock.require()
        self.files.commit_json(self.current_path, {"generation": manifest.generation})

    def lock(self, owner: str) -> Lock:
        """Hold the right to write this cache, as run ``owner``; a context manager.

        Raises:
            BusyError: Another run holds it.
        """
        return acquire(self.files, self.lock_folder, owner, what=f"cache {self.cache_id}")


def _create(files: Files) -> None:
    if files.local and (at := Path(files.native(""))).exists() and not at.is_dir():
        raise WorkspaceError(
            f"{files.url} is a file, and a workspace is a folder.",
            hint="name an empty or new folder with --workspace or RAYLENS_WORKSPACE.",
        )
    if (set(files.folders()) | set(files.list())) - _NOT_CONTENT and not files.exists(_MARK):
        raise WorkspaceError(
            f"{files.url} is not a workspace and not empty.",
            hint="name an empty or new folder with --workspace or RAYLENS_WORKSPACE.",
        )
    mark = {
        "schema_version": SCHEMA_VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "raylens": raylens.__version__,
    }
    data = json.dumps(mark, indent=1).encode()
    files.commit_if_absent(_MARK, data)
    if files.commit_if_absent(_MARK, data):
        raise WorkspaceError(
            f"the store of {files.url} ignores conditional writes, so two runs could not be kept apart.",
            hint="use an object store that honours If-None-Match (S3, or a current MinIO), or a shared folder.",
        )


def _check_version(files: Files) -> None:
    try:
        mark = files.read_json(_MARK)
    except DamagedFileError as error:
        raise WorkspaceError(error.message, hint="restore raylens.json, or name another workspace.") from error
    found = mark.get("schema_version")
    if found == SCHEMA_VERSION:
        return
    maker = f"raylens {mark.get('raylens', 'of unknown version')}"
    if isinstance(found, int) and found > SCHEMA_VERSION:
        remedy = f"it was made by {maker}: install that version or a later one"
    else:
        remedy = f"it was made by {maker}: read it with that version, or run raylens cache again"
    raise WorkspaceError(
        f"the workspace {files.url} has schema version {found}, and raylens {raylens.__version__} "
        f"reads version {SCHEMA_VERSION}.",
        hint=f"{remedy}, or name another workspace with --workspace.",
    )


def _no_generation(path: str) -> DamagedFileError:
    return DamagedFileError(
        f"{path} names no generation that can be read.",
        hint="run the same cache command again: it merges anew from what is stored.",
    )
