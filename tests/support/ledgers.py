"""A Ledger in this process, and who calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from raylens.api.extraction import Extraction
from raylens.store.files import Files
from raylens.traces.listing import SpanFilter
from raylens_serve.ledger import Ledger
from raylens_serve.services import LedgerClient, Local

EVERY: Final = SpanFilter()

T = TypeVar("T")


class Served:
    """A Ledger, its client, and the files it writes."""

    def __init__(self, url: str, retention_days: float | None = None) -> None:
        self.ledger = Ledger(url, retention_days)
        self.client = LedgerClient(Local(self.ledger))
        self.files = Files.open(url)

    def commits(self) -> int:
        """How many were made."""
        return len([path for path in self.files.list("traces/segments") if "-" not in path.rpartition("/")[2]])


async def keep(client: LedgerClient, extraction: Extraction, *, again: bool = False) -> tuple[Extraction, bool]:
    """Keep what was read: what is kept in the end, and whether it is the one given; raises why it cannot be."""
    (answer,) = await client.keep([extraction], again=again)
    if isinstance(answer, Exception):
        raise answer
    return answer or extraction, answer is None


def run(this: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(this)
