"""Files whose process dies at one of its operations, so that a test can try them all."""

from __future__ import annotations

from pathlib import Path

from raylens.store.files import Files


class KilledError(Exception):
    """As if the process ended here."""


class DyingFiles(Files):
    """Files of which so many operations succeed; those of locks do not count."""

    left: int

    @classmethod
    def after(cls, files: Files, operations: int) -> DyingFiles:
        made = cls(files.url)
        made.left = operations
        return made

    def _step(self, path: str) -> None:
        if "/lock/" not in path:
            self.left -= 1
            if self.left < 0:
                raise KilledError

    def commit(self, rel: str, data: bytes | Path) -> None:
        self._step(rel)
        super().commit(rel, data)

    def delete(self, rel: str, *, recursive: bool = False) -> None:
        self._step(rel)
        super().delete(rel, recursive=recursive)
