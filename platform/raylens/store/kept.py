"""Something made of what lies in a workspace, kept while that does not change: for who is asked again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

_SHARE: Final = 10
"""A value that took a second to make is looked at again after ten: nine tenths of the time are left for others."""

T = TypeVar("T")


class Kept(Generic[T]):
    """One value; safe to use from several threads, of which one makes it while the others wait.

    Args:
        state: What says whether it changed; quick.
        make: Makes the value.
        look_every_s: Seconds within which nobody looks whether it changed; 0 to look each time.
    """

    def __init__(self, state: Callable[[], Hashable], make: Callable[[], T], look_every_s: float = 0.0) -> None:
        self._state, self._make, self._look_every_s = state, make, look_every_s
        self._turn = threading.RLock()
        self._held: tuple[Hashable, T] | None = None
        self._fresh_until = 0.0

    def get(self) -> T:
        """The value as it is now, or was at most so many seconds ago; raises what state and make do."""
        with self._turn:
            if self._held is not None and time.monotonic() < self._fresh_until:
                return self._held[1]
            began = time.monotonic()
            state = self._state()  # before the value: what changes meanwhile is seen the next time
            if self._held is None or self._held[0] != state:
                self._held = state, self._make()
            took = time.monotonic() - began
            self._fresh_until = time.monotonic() + max(self._look_every_s, _SHARE * took if self._look_every_s else 0)
            return self._held[1]

    def look(self) -> None:
        """Have the next call look whether it changed: who writes reads what was written."""
        with self._turn:
            self._fresh_until = 0.0
