"""Spacing of starts, waits before retries, and Retry-After."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_clients import FakeClock
from raylens.llm.pace import FIRST_S, LONGEST_S, Pacer, backoff_s
from raylens.net.retry_after import retry_after_s


@given(st.integers(1, 10_000), st.integers())
def test_a_wait_lies_between_nothing_and_a_doubling_bound(failures: int, seed: int) -> None:
    bound = FIRST_S  # the slow oracle: double it once a failure
    for _ in range(min(failures - 1, 50)):
        bound = min(LONGEST_S, bound * 2)
    assert 0.0 <= backoff_s(failures, random.Random(seed)) <= bound


@pytest.mark.parametrize(("failures", "bound"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (40, 30.0)])
def test_jitter_is_full(failures: int, bound: float) -> None:
    jitter = random.Random(3)
    waits = [backoff_s(failures, jitter) for _ in range(2000)]
    assert min(waits) < 0.01 * bound
    assert 0.99 * bound < max(waits) <= bound
    assert sum(waits) / len(waits) == pytest.approx(bound / 2, rel=0.05)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0.0), ("7", 7.0), (" 1.5 ", 1.5), ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0), (None, None), ("", None),
     ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0), ("Thu, 01 Jan 1970 00:01:40 -0000", 90.0), ("soon", None), ("-3", None),
     ("nan", None), ("²", None), ("Thu, 99 Foo 1970", None), ("1" * 400, float("inf"))],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, wall=10.0) == seconds


@given(st.integers(0, 4_000_000_000), st.integers(-100_000, 100_000))
def test_a_date_gives_the_seconds_until_then(wall: int, ahead: int) -> None:
    at = datetime.fromtimestamp(max(0, wall + ahead), UTC)
    assert retry_after_s(format_datetime(at, usegmt=True), wall) == max(0.0, at.timestamp() - wall)


@given(st.text(max_size=40))
def test_no_header_breaks_it(header: str) -> None:
    seconds = retry_after_s(header, wall=0.0)
    assert seconds is None or seconds >= 0


def starts(per_minute: float | None, arrivals: list[float], *, close: tuple[float, float] | None = None) -> list[float]:
    """When callers start that arrive one after another with these gaps."""
    clock, found = FakeClock(time=0.0), list[float]()

    async def run() -> None:
        pacer = Pacer(per_minute, clock)
        for gap in arrivals:
            if gap:
                await clock.sleep(gap)
            if close and clock.now() >= close[0] and not found:
                pacer.close_for(close[1])
            await pacer.turn()
            found.append(clock.now())

    asyncio.run(run())
    return found


def test_sixty_a_minute_is_one_a_second_from_the_first_on() -> None:
    assert starts(60, [0, 0, 0, 0]) == [0, 1, 2, 3]
    assert starts(60, [0, 0.25, 5, 0]) == [0, 1, 6, 7]  # idle time is not saved up
    assert starts(None, [0, 0, 2]) == [0, 0, 2]


def test_a_closed_gate_holds_everyone_and_then_opens_evenly() -> None:
    assert starts(60, [0, 0, 0], close=(0.0, 10.0)) == [10, 11, 12]


@given(st.floats(1, 6000), st.lists(st.floats(0, 100), min_size=2, max_size=20))
def test_starts_keep_their_distance_and_wait_no_longer_than_that(per_minute: float, gaps: list[float]) -> None:
    interval = 60 / per_minute
    found = starts(per_minute, gaps)
    arrival = 0.0
    for index, (gap, start) in enumerate(zip(gaps, found, strict=True)):
        arrival = (found[index - 1] if index else 0.0) + gap
        earliest = max(arrival, found[index - 1] + interval) if index else arrival
        assert start == pytest.approx(earliest, abs=1e-6)


def test_callers_at_the_same_time_are_spaced_in_order() -> None:
    clock, found = FakeClock(time=0.0), list[tuple[str, float]]()

    async def one(pacer: Pacer, name: str) -> None:
        await pacer.turn()
        found.append((name, clock.now()))

    async def run() -> None:
        pacer = Pacer(600, clock)
        await asyncio.gather(*(one(pacer, name) for name in "abcd"))

    asyncio.run(run())
    assert [name for name, _ in found] == list("abcd")
    assert clock.slept == pytest.approx([0.1] * 3)
