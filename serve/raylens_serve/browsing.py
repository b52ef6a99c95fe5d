"""What all routes over the workspace's features need: a sentence embedding, and an end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from fastapi.concurrency import run_in_threadpool

from raylens.errors import InputError
from raylens.store.phrases import Embed


class Closing(Protocol):
    """What holds files."""

    def close(self) -> None:
        """Let go of them."""
        ...


def closed_at_the_end(*held: Closing) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """The lifespan of a router that holds files."""

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        yield
        for one in held:
            await run_in_threadpool(one.close)

    return lifespan


def bundled_embedding() -> Embed:
    """The bundled sentence embedding, which runs without torch.

    Raises:
        InputError: What reads it is not installed.
    """
    from raylens.bundle.embedding import embed

    try:
        embed(["word"])
    except ModuleNotFoundError as error:
        raise InputError(
            f"a search by meaning needs {error.name}, which is not installed.",
            hint="search with mode=words, or pip install 'raylens[models]'.",
        ) from error
    return embed
