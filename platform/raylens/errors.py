"""Every error RayLens raises on purpose.

::

    RaylensError                    message + hint; ``retryable`` says whether the same call may succeed later
    ├── InputError                  the user's input or configuration is wrong        exit code 2
    │   ├── UnknownNameError        no such model, SAE, hook point, column, run …; lists what exists
    │   ├── MismatchError           model, hook point, width or label source do not fit (the guard)
    │   ├── CorpusError             text is missing, empty, binary or has no such column
    │   ├── WorkspaceError          the workspace is missing, of another schema version, or not shared
    │   ├── BusyError               another run holds the lock                        (retryable)
    │   └── QueryError              SQL that the door refuses, or that does not run
    └── RunError                    something failed while running                    exit code 1
        ├── DamagedFileError        a stored file is truncated or fails its checksum
        ├── DiskFullError           the workspace's disk is full                      (retryable)
        ├── HubUnreachableError     nothing cached and no hub to fetch from           (retryable)
        ├── OutOfMemoryError        the device ran out of memory                      (retryable)
        ├── OverloadedError         too much is under way; nothing was done           (retryable)
        └── StoppedError            ``raylens stop`` or Ctrl-C ended the run; a rerun goes on

A message is one sentence that says what is wrong and where; a hint says what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class RaylensError(Exception):
    """Base of all errors raised on purpose; printed as ``error: <message> hint: <hint>``."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} hint: {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders in Ray; the default pickling would drop the keyword.
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[RaylensError], message: str, hint: str) -> RaylensError:
    error = kind.__new__(kind)
    RaylensError.__init__(error, message, hint=hint)
    return error


class InputError(RaylensError):
    """The user's input or configuration is wrong; nothing was written."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that names nothing. Use :meth:`among` to say what exists."""

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str], *, hint: str = "") -> UnknownNameError:
        """An error for ``name`` that offers close matches, or the first few of ``known``."""
        names = sorted(set(known))
        close = get_close_matches(name, names, n=5, cutoff=0.5) or names[:12]
        more = f" and {len(names) - len(close)} more" if len(names) > len(close) else ""
        exists = (
            f"there {'is' if len(names) == 1 else 'are'} {', '.join(close)}{more}"
            if names
            else f"there is no {what} yet"
        )
        return cls(f"unknown {what} {name!r}.", hint=f"{exists}. {hint}".strip())


class MismatchError(InputError):
    """Model, hook point, width or label source do not belong together; says what does fit."""


class CorpusError(InputError):
    """The text named by ``--text`` cannot be used."""


class WorkspaceError(InputError):
    """The workspace cannot be used: missing, of another schema version, or not seen by every node."""


class BusyError(InputError):
    """Another run holds the lock on what this one would write."""

    retryable = True


class QueryError(InputError):
    """SQL that the one door refuses, or that does not run."""


class RunError(RaylensError):
    """Something failed while running; what was reported done is kept, and a rerun continues."""


class DamagedFileError(RunError):
    """A stored file is truncated or fails its checksum; names the file."""


class DiskFullError(RunError):
    """The disk that holds the workspace is full."""

    retryable = True


class HubUnreachableError(RunError):
    """The hub cannot be reached and nothing suitable is cached."""

    retryable = True


class OutOfMemoryError(RunError):
    """The device ran out of memory; the hint says what to lower."""

    retryable = True


class OverloadedError(RunError):
    """More is asked for than can be held at a time; nothing was done, and the same call may succeed in a moment."""

    retryable = True


class StoppedError(RunError):
    """The run was stopped on request; a rerun continues where it ended."""
