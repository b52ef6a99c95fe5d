"""When to send: evenly spaced starts, and how long to wait before trying again."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from raylens.net.clock import Clock

FIRST_S: Final = 0.5
LONGEST_S: Final = 30.0
"""The first wait is at most ``FIRST_S``, each further one at most twice as long, none above ``LONGEST_S``."""


class Pacer:
    """Gives out starts ``60 / per_minute`` seconds apart, without bursts, in the order they are asked for.

    A limit of 60 a minute is one a second, not 60 at once and then none: endpoints count over
    windows of their own, and a burst would run into their limit.
    """

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next = 0.0
        self._closed_until = 0.0
        self._queue = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for the next start."""
        async with self._queue:
            start = max(self._next, self._clock.now())
            # The gate may close again while this one sleeps.
            while (wait := max(start, self._closed_until) - self._clock.now()) > 0:
                await self._clock.sleep(wait)
            # From the planned start, so that late wake-ups do not add up to a lower rate.
            self._next = max(start, self._closed_until) + self._interval

    def close_for(self, seconds: float) -> None:
        """Nothing starts for that long: the endpoint asked one caller to wait, and meant all of them."""
        self._closed_until = max(self._closed_until, self._clock.now() + seconds)


def backoff_s(failures: int, jitter: random.Random) -> float:
    """Seconds to wait after ``failures`` (1, 2 …) failed attempts: uniform from 0 to a doubling bound.

    Full jitter, which spreads callers that failed together (Brooker, "Exponential backoff and
    jitter", AWS Architecture Blog, 2015).
    """
    return jitter.uniform(0.0, min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 30)))
