"""Requests of about the same time go in one call, each is answered by itself, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import InputError, RaylensError
from raylens_serve.together import Together

BAD = 7


class Callee:
    """Doubles numbers, but not :data:`BAD`; keys of ``down`` are not answered at all."""

    def __init__(self, down: str = "") -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.down = down
        self.go = asyncio.Event()
        self.go.set()

    async def double(self, key: str, numbers: Sequence[int]) -> list[int | RaylensError]:
        self.calls.append((key, list(numbers)))
        await self.go.wait()
        if key == self.down:
            raise ConnectionError("nobody is there")
        return [InputError("seven.", hint="another one.") if one == BAD else 2 * one for one in numbers]


def together(callee: Callee, wait_s: Callable[[], float] = lambda: 0.01, most: int = 64) -> Together[str, int, int]:
    return Together(callee.double, wait_s, most)


@given(asked=st.lists(st.tuples(st.sampled_from("abx"), st.integers(0, 9)), max_size=20), most=st.integers(1, 5))
def test_each_gets_its_own_answer_whatever_becomes_of_the_others(asked: list[tuple[str, int]], most: int) -> None:
    async def calls() -> None:
        callee = Callee(down="x")
        one = together(callee, lambda: 0, most)
        found = await asyncio.gather(*(one.ask(key, number) for key, number in asked), return_exceptions=True)
        for (key, number), answer in zip(asked, found, strict=True):
            if key == "x":
                assert isinstance(answer, ConnectionError)
            elif number == BAD:
                assert isinstance(answer, InputError)
            else:
                assert answer == 2 * number
        for key in "abx":
            sent = [number for name, numbers in callee.calls if name == key for number in numbers]
            assert sent == [number for name, number in asked if name == key], "in order, each once"
        assert all(0 < len(numbers) <= most for _, numbers in callee.calls)

    asyncio.run(calls())


def test_those_of_the_same_moment_are_one_call_and_later_ones_another() -> None:
    async def calls() -> None:
        callee = Callee()
        one = together(callee)
        assert await asyncio.gather(*(one.ask("a", number) for number in range(5))) == [0, 2, 4, 6, 8]
        assert await one.ask("a", 6) == 12
        assert callee.calls == [("a", [0, 1, 2, 3, 4]), ("a", [6])]

    asyncio.run(calls())


def test_a_full_call_waits_for_nobody() -> None:
    async def calls() -> None:
        one = together(Callee(), lambda: 3600.0, most=2)
        assert await asyncio.gather(one.ask("a", 1), one.ask("a", 2)) == [2, 4]

    asyncio.run(calls())


def test_who_went_away_takes_nobody_along() -> None:
    async def calls() -> None:
        callee = Callee()
        callee.go.clear()
        one = together(callee, lambda: 0)
        gone, stays = asyncio.ensure_future(one.ask("a", 1)), asyncio.ensure_future(one.ask("a", 2))
        while not callee.calls:
            await asyncio.sleep(0)
        gone.cancel()
        callee.go.set()
        assert await stays == 4
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(calls())
