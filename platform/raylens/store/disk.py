"""A folder on a local (or network-mounted) disk, written so that a crash at any moment leaves whole files.

A file becomes visible by one rename after its bytes are on the disk; the rename itself is made
durable by syncing the folder. Names that begin with a dot are unfinished files.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from raylens.errors import DiskFullError, WorkspaceError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_TEXTS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


@dataclass(frozen=True, slots=True)
class Stored:
    """One file of a workspace.

    Attributes:
        path: Relative to the workspace, with forward slashes.
        size: Bytes.
        modified: Seconds since the epoch, by the clock of the disk or object store.
        temporary: It was never committed: a writer is at work, or died.
    """

    path: str
    size: int
    modified: float
    temporary: bool


def as_disk_full(error: BaseException, folder: Path, *, writing: str = "") -> DiskFullError | None:
    """``error`` as a :class:`DiskFullError` naming ``folder``, or None where it is something else.

    Libraries that write by themselves (DuckDB, Arrow) lose the errno and keep the text, so both are looked at.
    """
    full = isinstance(error, OSError) and error.errno in _FULL
    if not full and not any(text in str(error) for text in _FULL_TEXTS):
        return None
    existing = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    usage = shutil.disk_usage(existing)
    during = f" while writing {writing}" if writing else ""
    return DiskFullError(
        f"the disk that holds {folder} is full{during} ({_size(usage.free)} free of {_size(usage.total)}).",
        hint="free some space (raylens du shows what takes it, raylens gc removes what is superseded), "
        "then run the same command again: it goes on where it stopped.",
    )


class Disk:
    """The primitives of :class:`raylens.store.files.Files` on a local folder; keys are already checked."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def native(self, key: str) -> str:
        return str(self._target(key))

    def put(self, key: str, data: bytes | Path) -> None:
        target = self._target(key)
        with self._explained(target):
            make_folders(target.parent)
            beside = isinstance(data, Path) and data.parent == target.parent
            source = data if isinstance(data, Path) and beside else self.temporary(key)
            try:
                if isinstance(data, bytes):
                    source.write_bytes(data)
                elif not beside:
                    shutil.copyfile(data, source)
                _sync(source)
                source.replace(target)
            finally:
                source.unlink(missing_ok=True)
            _sync(target.parent)
        if isinstance(data, Path):
            data.unlink(missing_ok=True)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._target(key)
        with self._explained(target):
            make_folders(target.parent)
            source = self.temporary(key)
            try:
                source.write_bytes(data)
                _sync(source)
                try:
                    os.link(source, target)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    # Some network and FUSE file systems have no hard links. Exclusive creation still picks
                    # exactly one writer; only then may a reader meet a file that is not whole yet.
                    return _create(target, data)
            finally:
                source.unlink(missing_ok=True)
            _sync(target.parent)
        return True

    def temporary(self, key: str) -> Path:
        """A fresh path in the folder of ``key``, so that committing it is one rename."""
        target = self._target(key)
        with self._explained(target):
            make_folders(target.parent)
        return target.parent / f".{target.name}.{secrets.token_hex(6)}.tmp"

    def read(self, key: str) -> bytes:
        target = self._target(key)
        with self._explained(target):
            return target.read_bytes()

    def stat(self, key: str) -> Stored | None:
        target = self._target(key)
        return _stored(target, key) if target.is_file() else None

    def list(self, folder: str) -> Iterator[Stored]:
        """The files in ``folder`` itself, unfinished ones included."""
        for entry in self._entries(folder):
            if entry.is_file() and (found := _stored(entry, f"{folder}/{entry.name}".lstrip("/"))):
                yield found

    def scan(self, folder: str) -> Iterator[Stored]:
        """Every file below ``folder``; links to folders are not followed."""
        yield from self.list(folder)
        for name in self.folders(folder):
            yield from self.scan(f"{folder}/{name}".lstrip("/"))

    def folders(self, folder: str) -> list[str]:
        return [entry.name for entry in self._entries(folder) if entry.is_dir() and not entry.is_symlink()]

    def remove(self, key: str) -> None:
        target = self._target(key)
        with self._explained(target):
            target.unlink(missing_ok=True)

    def remove_tree(self, folder: str) -> None:
        target = self._target(folder)
        with self._explained(target):
            if target.is_dir():
                shutil.rmtree(target)

    def prune(self, folder: str) -> None:
        """Remove the empty folders below ``folder``; a writer must be kept away, it makes folders as it goes."""
        with self._explained(self._target(folder)):
            for name in self.folders(folder):
                below = f"{folder}/{name}"
                self.prune(below)
                if not self._entries(below):
                    self._target(below).rmdir()

    def open(self, key: str) -> pa.NativeFile:
        target = self._target(key)
        with self._explained(target):
            # Not a memory map: mapped pages count as this process's memory, and a bad disk becomes SIGBUS.
            return pa.OSFile(str(target), "rb")

    def _entries(self, folder: str) -> list[Path]:
        target = self._target(folder)
        return sorted(target.iterdir()) if target.is_dir() else []

    def _target(self, key: str) -> Path:
        target = self.root / key
        # A link in the way would let a write, or rm, reach files that are not the workspace's.
        if not Path(os.path.realpath(target)).is_relative_to(self.root):
            raise WorkspaceError(
                f"{target} leads outside the workspace {self.root}.",
                hint="remove that link; to keep the data on another disk, link the workspace folder itself.",
            )
        return target

    @contextmanager
    def _explained(self, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if full := as_disk_full(error, target.parent, writing=target.name):
                raise full from error
            if error.errno in _FORBIDDEN:
                raise WorkspaceError(
                    f"{error.filename or target} cannot be used: {error.strerror}.",
                    hint="check who owns the workspace, or name another one with --workspace.",
                ) from error
            raise


def make_folders(folder: Path) -> None:
    """Create ``folder`` and its missing parents durably: each is synced into the one above it."""
    missing = [folder]
    while not missing[-1].exists():
        missing.append(missing[-1].parent)
    for new in reversed(missing[:-1]):
        new.mkdir(exist_ok=True)
        _sync(new.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _create(target: Path, data: bytes) -> bool:
    try:
        with target.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    except OSError:
        target.unlink(missing_ok=True)
        raise
    _sync(target.parent)
    return True


def _stored(path: Path, key: str) -> Stored | None:
    try:
        found = path.stat()
    except FileNotFoundError:  # a writer renamed or removed it since the folder was listed
        return None
    return Stored(key, found.st_size, found.st_mtime, path.name.startswith("."))


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
