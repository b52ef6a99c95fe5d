"""An object store (S3 and what speaks its protocol), through fsspec.

A put is atomic by nature: readers see the whole object or none of it. Credentials, region and
endpoint come from the standard environment (``AWS_*``) or fsspec's own configuration, never from
the workspace's address, so nothing secret is stored or sent to workers.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec import AbstractFileSystem

from raylens.errors import RunError, WorkspaceError
from raylens.store.disk import Stored, as_disk_full

_TAKEN = frozenset({"PreconditionFailed", "412"})
_CONFLICT = frozenset({"ConditionalRequestConflict", "409"})
_NO_BUCKET = frozenset({"NoSuchBucket", "InvalidBucketName"})
_ATTEMPTS = 5


class Objects:
    """The primitives of :class:`raylens.store.files.Files` on an object store; keys are already checked."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not url.partition("://")[2].strip("/"):
            raise WorkspaceError(f"{url} names no bucket.", hint="write s3://bucket/prefix.")
        try:
            # Listings must be true at every call: other processes write the same workspace.
            self.fs, self.base = _open(self.url)
        except (ImportError, ValueError) as error:
            raise WorkspaceError(
                f"no driver for the workspace {url}: {error}.",
                hint="pip install 'raylens[s3]' for s3://, or name a local folder.",
            ) from error
        self._misconfigured, self._unreachable = _client_errors()

    def native(self, key: str) -> str:
        return f"{self.url}/{key}" if key else self.url

    def put(self, key: str, data: bytes | Path) -> None:
        with self._explained(key):
            if isinstance(data, bytes):
                self.fs.pipe_file(self._object(key), data)
            else:
                self.fs.put_file(str(data), self._object(key))
        if isinstance(data, Path):
            data.unlink(missing_ok=True)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._explained(key):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self.fs.pipe_file(self._object(key), data, mode="create")
                except FileExistsError:
                    return False
                except OSError as error:
                    # Servers differ in how they word a refused condition; the code is what they share.
                    code = _code(error)
                    if code in _TAKEN:
                        return False
                    if code not in _CONFLICT or attempt == _ATTEMPTS:
                        raise
                else:
                    return True
        return False

    def temporary(self, key: str) -> Path:
        """A fresh local path; committing it uploads it."""
        return Path(tempfile.gettempdir()) / f"raylens-{secrets.token_hex(6)}-{key.rpartition('/')[2]}"

    def read(self, key: str) -> bytes:
        with self._explained(key):
            content = self.fs.cat_file(self._object(key))
            return content if isinstance(content, bytes) else str(content).encode()

    def stat(self, key: str) -> Stored | None:
        with self._explained(key):
            try:
                found = self.fs.info(self._object(key))
            except FileNotFoundError:
                return None
        return self._stored(found) if found["type"] == "file" else None

    def list(self, folder: str) -> Iterator[Stored]:
        yield from (self._stored(found) for found in self._listed(folder) if found["type"] == "file")

    def scan(self, folder: str) -> Iterator[Stored]:
        with self._explained(folder):
            found = dict(self.fs.find(self._object(folder), detail=True))
        yield from (self._stored(found[name]) for name in sorted(found))

    def folders(self, folder: str) -> list[str]:
        listed = (found["name"].rstrip("/") for found in self._listed(folder) if found["type"] == "directory")
        return sorted(name.rpartition("/")[2] for name in listed)

    def remove(self, key: str) -> None:
        with self._explained(key):
            try:
                self.fs.rm_file(self._object(key))
            except FileNotFoundError:
                return

    def remove_tree(self, folder: str) -> None:
        with self._explained(folder):
            try:
                self.fs.rm(self._object(folder), recursive=True)
            except FileNotFoundError:
                return

    def open(self, key: str) -> pa.NativeFile:
        with self._explained(key):
            # Exact ranges: read-ahead would download megabytes around each column chunk.
            return pa.PythonFile(self.fs.open(self._object(key), "rb", cache_type="none"), mode="r")

    def _object(self, key: str) -> str:
        return f"{self.base}/{key}" if key else self.base

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        with self._explained(folder):
            try:
                found = self.fs.ls(self._object(folder), detail=True)
            except FileNotFoundError:
                return []
        return sorted((one for one in found if self._relative(one["name"]) != folder), key=lambda one: one["name"])

    def _relative(self, name: str) -> str:
        return name.rstrip("/").removeprefix(self.base).lstrip("/")

    def _stored(self, found: dict[str, Any]) -> Stored:
        changed = found.get("LastModified") or found.get("mtime") or found.get("updated")
        modified = changed.timestamp() if isinstance(changed, datetime) else float(changed or 0.0)
        key = self._relative(found["name"])
        return Stored(key, int(found["size"]), modified, key.rpartition("/")[2].startswith("."))

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if _code(error) not in _NO_BUCKET:
                raise
            raise WorkspaceError(
                f"the bucket of {self.url} does not exist.", hint="create it first; RayLens makes no buckets."
            ) from error
        except PermissionError as error:
            raise WorkspaceError(
                f"{self.native(key)} cannot be used: {error}.",
                hint="check AWS_ACCESS_KEY_ID and the bucket's policy, or name another workspace.",
            ) from error
        except FileExistsError:
            raise
        except OSError as error:
            if full := as_disk_full(error, Path(tempfile.gettempdir()), writing=key):
                raise full from error
            raise RunError(
                f"the object store refused {self.native(key)}: {error}.",
                hint="run the same command again; it goes on where it stopped.",
            ) from error
        except self._misconfigured as error:
            raise WorkspaceError(
                f"the object store of {self.url} cannot be used: {error}.",
                hint="set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION, or an AWS profile.",
            ) from error
        except self._unreachable as error:
            raise RunError(
                f"the object store of {self.url} does not answer: {error}.",
                hint="check AWS_ENDPOINT_URL and the network, then run again.",
            ) from error


def _open(url: str) -> tuple[AbstractFileSystem, str]:
    fs, base = fsspec.url_to_fs(url, use_listings_cache=False)
    return fs, base.rstrip("/")


def _code(error: BaseException) -> str:
    """The store's own error code, kept by s3fs on the cause."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _client_errors() -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """What the S3 client raises beside OSError: (wrong configuration, no answer)."""
    try:
        from botocore import exceptions
    except ImportError:
        return (), ()
    wrong = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.ProfileNotFound,
        exceptions.ParamValidationError,
    )
    return wrong, (exceptions.BotoCoreError,)
