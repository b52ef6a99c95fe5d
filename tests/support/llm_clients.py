"""A chat client as tests use it: without waiting, and with what came of every question."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from fake_llm import FakeLlm
from raylens.chat import Message, Reply, Request
from raylens.llm.client import ChatClient
from raylens.llm.replies import ReplyCache
from raylens.llm.settings import EndpointSettings
from raylens.llm.spend import Usage


@dataclass
class FakeClock:
    """Time that passes only where somebody sleeps."""

    time: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Talk:
    """What came of it: a reply or an error a question, in order."""

    outcomes: list[Reply | BaseException]
    usage: Usage

    @property
    def replies(self) -> list[Reply]:
        """All of them; the first error is raised."""
        for one in self.outcomes:
            if isinstance(one, BaseException):
                raise one
        return [one for one in self.outcomes if isinstance(one, Reply)]

    @property
    def texts(self) -> list[str]:
        return [one.text for one in self.replies]


def question(prompt: str = "what?", **more: Any) -> Request:
    """A request of one message."""
    return Request(messages=(Message("user", prompt),), **more)


def settings_for(llm: FakeLlm, **more: Any) -> EndpointSettings:
    """Settings that lead to the fake server."""
    return EndpointSettings.of({"base_url": llm.base_url, "model": "fake", **more})


def talk(
    settings: EndpointSettings,
    *questions: str | Request,
    cache: ReplyCache | None = None,
    clock: FakeClock | None = None,
) -> Talk:
    """Ask all questions at the same time."""

    async def run() -> Talk:
        async with ChatClient(settings, cache=cache, clock=clock or FakeClock(), jitter=random.Random(0)) as client:
            asks = [client.ask(one if isinstance(one, Request) else question(one)) for one in questions]
            outcomes = await asyncio.gather(*asks, return_exceptions=True)
            return Talk(outcomes, client.usage)

    return asyncio.run(run())
