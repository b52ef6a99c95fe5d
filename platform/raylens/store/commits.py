"""A log that many append to: numbered commits, a file each, that are rolled into wider files.

::

    <folder>/lock/<token>.json                                who may write (lock.py)
    <folder>/segments/<n>.<suffix>                            commit n, counted from 1
    <folder>/segments/<first>-<last>.<suffix>                 what commits first … last say, rolled into one file
    <folder>/segments/<first>-<last>-<upto>-<hash>.<suffix>   the same, without what commits up to ``upto`` replaced

No store appends to a file, so a commit is a file of its own, made by ``commit_if_absent`` of the next number: a
writer that was paused while another took its lock over cannot write over anything, it takes the next number. Rolled
files are determined by what they were made of, so it does not matter who writes them; what they take the place of
stays until housekeeping finds it old, for readers that began before.

The pattern is that of log-structured tables on object stores (Armbrust et al., "Delta Lake", 2020).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from raylens.errors import BusyError, DamagedFileError
from raylens.store.disk import Stored
from raylens.store.files import Files
from raylens.store.lock import Lock, acquire

WAIT_S: Final = 20.0
"""How long a writer waits for its turn; a turn takes milliseconds on a disk, a second on a slow store."""

REMEDY: Final = "restore it from a backup; removing it would lose what it holds."
"""What to do about a damaged file of a log."""

_NAME: Final = re.compile(r"([0-9]{12})(?:-([0-9]{12})(?:-([0-9]{12})-[0-9a-f]{8})?)?")


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a log.

    Attributes:
        path: Relative to the workspace.
        first: The first commit in it.
        last: The last one.
        upto: Nothing that commits up to this one replaced is in it; None where all is in it that was ever written.
    """

    path: str
    first: int
    last: int
    upto: int | None = None

    @property
    def is_rolled(self) -> bool:
        """Whether it was made of others."""
        return self.first < self.last or self.upto is not None

    @property
    def needs(self) -> int:
        """The commit that a reader of it must know as well: it may say what stands in the place of what is left out."""
        return self.last if self.upto is None else max(self.last, self.upto)

    def holds(self, other: Segment) -> bool:
        """Whether it stands for every commit of another."""
        return self.first <= other.first and other.last <= self.last


class Commits:
    """The files of the log in a folder.

    Args:
        files: The workspace's.
        folder: Holds the log and nothing else.
        suffix: Of its files, without the dot.
        what: What is kept there, for messages.
        busy: What to do where others write; for messages.
    """

    def __init__(
        self, files: Files, folder: str, suffix: str, *, what: str, busy: str = "try again in a minute."
    ) -> None:
        self.files, self.folder, self.suffix, self.what = files, folder, suffix, what
        self._busy = busy

    def path(self, name: str) -> str:
        """Of a segment."""
        return f"{self.folder}/segments/{name}.{self.suffix}"

    def single(self, number: int) -> Segment:
        """The file of one commit, which may not be there."""
        return Segment(self.path(f"{number:012d}"), number, number)

    def segments(self) -> list[Segment]:
        """Every file, also those that another takes the place of."""
        return [one for path in self.files.list(f"{self.folder}/segments") if (one := self._parsed(path))]

    def covering(self) -> list[Segment]:
        """The fewest files that hold every commit, in order.

        Raises:
            DamagedFileError: Some commits are missing.
        """
        before: list[Segment] | None = None
        while True:
            listed = self.segments()
            found = cover(listed)
            missing = _missing(found)
            if missing is None:
                return found
            if listed == before:
                raise self.damaged(self.single(missing).path, "it is missing, and later ones are there")
            before = listed  # written while the folder was being listed, it seems: look again

    def claim(self, number: int, data: bytes) -> bool:
        """Make commit ``number``, durably; False where another one has that number."""
        path = self.single(number).path
        if self.files.commit_if_absent(path, data):
            return True
        try:
            return self.files.read_bytes(path) == data  # ours, where the network lost the answer
        except FileNotFoundError:
            return False

    def is_used(self, number: int) -> bool:
        """Whether a rolled file stands for commit ``number``.

        A writer that was paused for as long as superseded files are kept may claim a number a second time; what it
        wrote is then in no reader's sight.
        """
        return any(one.first <= number <= one.last and one.is_rolled for one in self.segments())

    def turn(self, owner: str, wait_s: float = WAIT_S) -> Lock:
        """Hold the right to write, as ``owner``; a context manager.

        Raises:
            BusyError: Others held it for ``wait_s`` seconds.
        """
        until = time.monotonic() + wait_s
        while True:
            try:
                return acquire(self.files, self.lock_folder, owner, what=self.what)
            except BusyError as busy:
                if time.monotonic() > until:
                    message = f"{self.what} could not be written: {busy.message}"
                    raise BusyError(message, hint=self._busy) from busy
            time.sleep(random.uniform(0.01, 0.05))  # apart from one another

    @property
    def lock_folder(self) -> str:
        """Holds the claims of who may write."""
        return f"{self.folder}/lock"

    def superseded(self, before: float) -> list[Stored]:
        """Files whose commits are in another one as well, since before a time in seconds since 1970."""
        stored = {one.path: one for one in self.files.scan(f"{self.folder}/segments", recursive=False)}
        segments = [segment for path in stored if (segment := self._parsed(path))]
        needed = cover(segments)
        old = [one for one in needed if one.is_rolled and stored[one.path].modified < before]
        return [stored[one.path] for one in segments if one not in needed and any(new.holds(one) for new in old)]

    def damaged(self, path: str, why: str) -> DamagedFileError:
        """An error that names a file, and what to do."""
        return DamagedFileError(f"{self.files.native(path)} is damaged: {why}.", hint=REMEDY)

    def _parsed(self, path: str) -> Segment | None:
        name, _, suffix = path.rpartition("/")[2].partition(".")
        match = _NAME.fullmatch(name)
        if match is None or suffix != self.suffix:
            return None
        return Segment(path, int(match[1]), int(match[2] or match[1]), int(match[3]) if match[3] else None)


def cover(segments: Iterable[Segment]) -> list[Segment]:
    """The fewest segments that hold every event, in order: those that no wider or later one stands for."""
    found: list[Segment] = []
    for one in sorted(segments, key=lambda one: (one.first, -one.last, -one.needs, one.path)):
        if not found or one.last > found[-1].last:
            found.append(one)
    return found


def logs(files: Files) -> tuple[Commits, ...]:
    """Every log of a workspace, for housekeeping."""
    return Commits(files, "labels", "json", what="labels"), Commits(files, "traces", "parquet", what="traces")


def _missing(covering: Sequence[Segment]) -> int | None:
    """A commit that is in none of them; None where all are there."""
    expected = 1
    for one in covering:
        if one.first > expected:
            return expected
        expected = one.last + 1
    needed = max((one.needs for one in covering), default=0)
    return expected if needed >= expected else None
