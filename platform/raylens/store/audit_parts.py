"""Bytes kept under a key, for as long as something takes: what an audit has done when it is killed.

Two uses. The parts of one run are dropped when it is finished. What depends on the reference alone is kept for all
candidates, under ``audits/_references/<key>``, the key being a hash of everything that determines it: whoever comes
first writes it, and two at once write the same. A part begins with the hash of its bytes, so that one which the disk
has damaged counts as missing and is made again.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Final

from raylens.store.files import Files

_log = logging.getLogger(__name__)

_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Parts:
    """A folder of parts; pickles, so that Ray tasks write into it too.

    Attributes:
        files: The workspace's.
        folder: Relative to it.
    """

    files: Files
    folder: str

    def put_part(self, key: str, data: bytes) -> None:
        """Keep ``data``, atomically and durably, in place of what was there.

        Args:
            key: Names what it is by everything that determines it, in letters, digits and ``. _ = + @ -``; slashes
                make folders.
            data: Any bytes.

        Raises:
            InputError: ``key`` is none.
            DiskFullError: No space; nothing changed.
        """
        self.files.commit(self._path(key), hashlib.sha256(data).digest() + data)

    def get_part(self, key: str) -> bytes | None:
        """What was put there; None where there is nothing, or the disk has damaged it."""
        try:
            stored = self.files.read_bytes(self._path(key))
        except FileNotFoundError:
            return None
        data = stored[_HASH_BYTES:]
        if hashlib.sha256(data).digest() == stored[:_HASH_BYTES]:
            return data
        _log.warning("%s is damaged, and made anew", self.files.native(self._path(key)))
        return None

    def keys(self) -> tuple[str, ...]:
        """Keys of what is there, sorted."""
        found = (one.path for one in self.files.scan(self.folder) if not one.temporary)
        return tuple(sorted(path.removeprefix(f"{self.folder}/") for path in found))

    def size(self) -> int:
        """Bytes of all that is there."""
        return sum(one.size for one in self.files.scan(self.folder))

    def drop_parts(self) -> None:
        """Remove all of them."""
        self.files.delete(self.folder, recursive=True)

    def _path(self, key: str) -> str:
        return f"{self.folder}/{key}"
