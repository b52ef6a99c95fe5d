"""When to ask and when to leave a server alone: limits it states, failures in a row, and what just failed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from raylens.labels.settings import LabelSettings
from raylens.net.clock import Clock

ENOUGH: Final = 5
"""Failures in a row after which a server is left alone for as long as a single failure is remembered."""

_REMEMBERED: Final = 65_536


class Patience:
    """The state of one run; for one event loop.

    Args:
        settings: How long to wait and to remember.
        clock: Time.

    Attributes:
        stopped: Why the run asks no more; None while it does.
        turn: Counts the pauses a server asked for: an answer that was on its way when one began is not another.
    """

    def __init__(self, settings: LabelSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self.stopped: str | None = None
        self.turn = 0
        self._pauses = 0
        self._paused_until = 0.0
        self._failures = 0
        self._alone: tuple[float, str] = (0.0, "")
        self._failed: OrderedDict[Hashable, tuple[float, str]] = OrderedDict()

    async def wait(self) -> None:
        """Sleep as long as the server asked to."""
        while self.stopped is None and (left := self._paused_until - self._clock.now()) > 0:
            await self._clock.sleep(left)

    def silence(self, key: Hashable) -> str | None:
        """Why ``key`` is not to be asked for now; None where it is."""
        if self.stopped is not None:
            return self.stopped
        now = self._clock.now()
        if now < self._alone[0]:
            return self._alone[1]
        until, why = self._failed.get(key, (0.0, ""))
        if now < until:
            return why
        self._failed.pop(key, None)
        return None

    def answered(self) -> None:
        """The server gave an answer."""
        self._failures = self._pauses = 0

    def remember(self, key: Hashable, why: str) -> None:
        """Do not ask for ``key`` for a while."""
        self._failed[key] = self._clock.now() + self._settings.remembered_s, why
        while len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)

    def failed(self, key: Hashable, why: str) -> None:
        """No answer came for ``key``."""
        self.remember(key, why)
        self._failures += 1
        if self._failures >= ENOUGH:
            self._failures = 0
            self._alone = self._clock.now() + self._settings.remembered_s, f"{why}, {ENOUGH} times in a row"

    def may_wait(self, wait_s: float | None, turn: int) -> bool:
        """Whether to ask again after the pause that a server asked for; it begins now.

        Args:
            wait_s: Seconds; None where it does not say, which is no wait that a run could keep.
            turn: :attr:`turn` when the request was sent.
        """
        if turn != self.turn:
            return self.stopped is None
        if wait_s is None or wait_s > self._settings.max_wait_s or self._pauses >= self._settings.max_waits:
            return False
        self.turn += 1
        self._pauses += 1
        self._paused_until = self._clock.now() + wait_s
        return True

    def stop(self, why: str) -> None:
        """Ask no more in this run."""
        self.stopped = self.stopped or why
