"""The one door to a workspace's files, the same on a local disk and in an object store.

Every write ends in :meth:`Files.commit`: after it returns the whole file survives a crash, and no
reader ever sees part of it. Paths are relative to the workspace, with forward slashes, and cannot
leave it. Errors of the disk or store come out as :mod:`raylens.errors`, except ``FileNotFoundError``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fsspec
import pyarrow as pa
from fsspec import AbstractFileSystem

from raylens.errors import DamagedFileError, InputError, WorkspaceError
from raylens.home import from_home
from raylens.store.disk import Disk, Stored, as_disk_full
from raylens.store.objects import Objects

# No dot in front (unfinished files), no glob characters (DuckDB and fsspec would expand them).
_SEGMENT = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]{0,199}")
_EXPANDED = re.compile(r"[*?\[\]{}]")


class Files:
    """One workspace root on one file system.

    Pickles as its address alone: a Ray worker opens it again with the credentials of its own environment.

    Attributes:
        url: Absolute local path, or ``s3://bucket/prefix``, without a slash at the end.
        local: Whether it is on a local (or mounted) disk.
    """

    def __init__(self, url: str | Path) -> None:
        text = str(url).removeprefix("file://")
        if _EXPANDED.search(text):
            raise WorkspaceError(
                f"the workspace {text} has one of * ? [ ] {{ }} in its name, which DuckDB would expand.",
                hint="rename that folder, or name another one with --workspace.",
            )
        self.local = "://" not in text
        self._backend: Disk | Objects = Disk(from_home(text)) if self.local else Objects(text)
        self.url = str(self._backend.root) if isinstance(self._backend, Disk) else self._backend.url

    @classmethod
    def open(cls, url: str | Path) -> Self:
        """Open a root that may not exist yet; nothing is read or written.

        Raises:
            WorkspaceError: No driver for this kind of address, or DuckDB could not read there.
        """
        return cls(url)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.url,)

    def __repr__(self) -> str:
        return f"Files({self.url!r})"

    @property
    def fs(self) -> AbstractFileSystem:
        """The fsspec file system, to be registered with DuckDB so that it reads :meth:`native` addresses."""
        return fsspec.filesystem("file") if isinstance(self._backend, Disk) else self._backend.fs

    def native(self, rel: str) -> str:
        """The absolute path or URL of ``rel``, as DuckDB and Arrow take it."""
        return self._backend.native(checked(rel, empty=True))

    def commit(self, rel: str, data: bytes | Path) -> None:
        """Write a whole file, atomically and durably, in place of what was there.

        Args:
            rel: Where, relative to the workspace; folders are made as needed.
            data: The bytes, or a local temporary file, which is consumed (moved or uploaded).

        Raises:
            DiskFullError: No space; nothing is left behind and what was there is unchanged.
            WorkspaceError: No permission, or ``rel`` leads outside through a link.
        """
        self._backend.put(checked(rel), data)

    def commit_json(self, rel: str, value: Mapping[str, object]) -> None:
        """:meth:`commit` of a JSON object."""
        self.commit(rel, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def commit_if_absent(self, rel: str, data: bytes) -> bool:
        """Write a whole file only where there is none; of all who try at once, exactly one gets True.

        A hard link on a disk, ``If-None-Match: *`` on an object store. False may come after a
        success whose answer the network lost: who must know compares what is stored with its own bytes.
        """
        return self._backend.put_if_absent(checked(rel), data)

    def staged(self, rel: str) -> Staged:
        """A context with a local path to write a big file to: committed to ``rel`` on a clean exit, else removed.

        On a local workspace the path lies in the folder of ``rel``, so that the commit is one rename.

        Raises:
            DiskFullError: The body ran out of space there, whichever library was writing.
        """
        return Staged(self, checked(rel))

    def temporary(self, rel: str) -> Path:
        """The local path that :meth:`staged` gives; whoever takes it commits or removes it."""
        return self._backend.temporary(checked(rel))

    def read_bytes(self, rel: str) -> bytes:
        """The whole file; ``FileNotFoundError`` where there is none."""
        return self._backend.read(checked(rel))

    def read_json(self, rel: str) -> dict[str, Any]:
        """The JSON object in a file; ``FileNotFoundError`` where there is none.

        Raises:
            DamagedFileError: It is no JSON object.
        """
        try:
            value = json.loads(self.read_bytes(rel))
        except ValueError as error:
            raise _damaged(self.native(rel), str(error)) from error
        if not isinstance(value, dict):
            raise _damaged(self.native(rel), f"it holds a {type(value).__name__}")
        return value

    def open_input(self, rel: str) -> pa.NativeFile:
        """A seekable file for ``pyarrow.parquet.ParquetFile``; reads fetch only the bytes asked for."""
        return self._backend.open(checked(rel))

    def exists(self, rel: str) -> bool:
        """Whether ``rel`` is a committed file (not a folder)."""
        return self._backend.stat(checked(rel)) is not None

    def size(self, rel: str) -> int:
        """Bytes of a file; ``FileNotFoundError`` where there is none."""
        return self.stat(rel).size

    def stat(self, rel: str) -> Stored:
        """Size and time of a file; ``FileNotFoundError`` where there is none."""
        found = self._backend.stat(checked(rel))
        if found is None:
            raise FileNotFoundError(self.native(rel))
        return found

    def list(self, folder: str = "") -> tuple[str, ...]:
        """Paths, relative to the workspace and sorted, of the files in ``folder`` itself; none where it is missing."""
        return tuple(one.path for one in self._backend.list(checked(folder, empty=True)) if not one.temporary)

    def folders(self, folder: str = "") -> tuple[str, ...]:
        """Names, sorted, of the folders in ``folder``."""
        return tuple(name for name in self._backend.folders(checked(folder, empty=True)) if not name.startswith("."))

    def scan(self, folder: str = "", *, recursive: bool = True) -> Iterator[Stored]:
        """Every file below ``folder``, unfinished ones included: for housekeeping, never to find data."""
        key = checked(folder, empty=True)
        yield from self._backend.scan(key) if recursive else self._backend.list(key)

    def delete(self, rel: str, *, recursive: bool = False) -> None:
        """Remove a file, or with ``recursive`` a folder and all below it; what is missing is fine."""
        key = checked(rel)
        if recursive:
            self._backend.remove_tree(key)
        else:
            self._backend.remove(key)

    def discard(self, path: str) -> None:
        """Remove a file that :meth:`scan` listed: the only way to remove an unfinished one."""
        folder, _, name = path.rpartition("/")
        checked(folder, empty=True)
        checked(name.removeprefix("."))
        self._backend.remove(path)

    def prune(self, folder: str) -> None:
        """Remove the empty folders below ``folder``, where the store has folders."""
        if isinstance(self._backend, Disk):
            self._backend.prune(checked(folder))


class Staged:
    """What :meth:`Files.staged` returns; entering gives the local path."""

    def __init__(self, files: Files, rel: str) -> None:
        self._files = files
        self._rel = rel
        self._temporary = files.temporary(rel)

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._files.commit(self._rel, self._temporary)
            elif full := as_disk_full(error, self._temporary.parent, writing=self._rel):
                raise full from error
        finally:
            self._temporary.unlink(missing_ok=True)


def checked(rel: str, *, empty: bool = False) -> str:
    """``rel`` if it is a plain relative path.

    Raises:
        InputError: It is absolute, climbs with ``..``, or holds characters that are not portable.
    """
    if (empty and not rel) or all(_SEGMENT.fullmatch(part) for part in rel.split("/")):
        return rel
    raise InputError(
        f"{rel!r} is not a path inside a workspace.",
        hint="use letters, digits and . _ - between single slashes; no leading slash or dot, no '..'.",
    )


def _damaged(path: str, why: str) -> DamagedFileError:
    return DamagedFileError(f"{path} is damaged: {why}.", hint="remove it and run the command that made it again.")
