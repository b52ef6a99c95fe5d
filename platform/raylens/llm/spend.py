"""What was spent, and the stop before more is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from raylens.chat import Reply
from raylens.llm.errors import BudgetReached
from raylens.llm.settings import EndpointSettings


@dataclass(frozen=True, slots=True)
class Usage:
    """Everything one client did so far; two add up.

    Attributes:
        calls: Requests sent, retries included.
        retries: How many of them were repeats of one that failed.
        cached: Questions answered without a request of their own.
        failed: Questions that ended in an error other than the budget's.
        prompt_tokens: As the endpoint counts.
        completion_tokens: Likewise.
        usd: The cost of all answers with a known cost.
        unpriced: Answers without one.
        lost_usd: At most this much more, for answers that were cut or came too late.
    """

    calls: int = 0
    retries: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0
    lost_usd: float = 0.0

    def plain(self) -> dict[str, float]:
        """As JSON values, costs in hundredths of a cent."""
        values = {one.name: getattr(self, one.name) for one in fields(Usage)}
        return values | {name: round(values[name], 4) for name in ("usd", "lost_usd")}

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(Usage)})


def worst_case_usd(texts: Iterable[str], max_tokens: int, settings: EndpointSettings) -> float:
    """An upper bound on what it costs to send ``texts`` and get ``max_tokens`` back; 0 without prices.

    A token is at least a byte of text, and chat templates add a few of their own.
    """
    if settings.prices is None:
        return 0.0
    prompt = 64 + sum(16 + len(text.encode("utf-8", "replace")) for text in texts)
    return settings.prices.cost_usd(prompt, max_tokens)


class Meter:
    """Counts, and admits a request only if the budget holds whatever the requests under way turn out to cost."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._budget_usd = settings.budget_usd
        self._max_calls = settings.max_calls
        self._reserved = 0.0
        self._under_way = 0
        self._settled = asyncio.Event()
        self.usage = Usage()

    async def admit(self, worst_usd: float, *, retry: bool) -> None:
        """Reserve ``worst_usd`` for a request that is then sent; :meth:`settle` follows in any case.

        Where only the reservations of others stand in the way, waits until enough of them are settled:
        they are upper bounds, and most of each is given back.

        Raises:
            BudgetReached: It could cost more than is left, or no call is left.
        """
        while not self._fits(worst_usd):
            await self._settled.wait()
        self._reserved += worst_usd
        self._under_way += 1
        self.usage = replace(self.usage, calls=self.usage.calls + 1, retries=self.usage.retries + retry)

    def _fits(self, worst_usd: float) -> bool:
        used = self.usage
        if self._max_calls is not None and used.calls >= self._max_calls:
            raise BudgetReached(
                f"the limit of {self._max_calls} calls is reached, and ${used.usd:.4f} was spent.",
                hint="raise --max-calls and run the same command again: it goes on where it stopped.",
            )
        if self._budget_usd is None:
            return True
        spent = used.usd + used.lost_usd
        if spent + worst_usd > self._budget_usd:
            lost = f" (${used.lost_usd:.4f} of it at most, for answers that were lost)" if used.lost_usd else ""
            raise BudgetReached(
                f"the budget of ${self._budget_usd:g} is reached: ${spent:.4f} was spent{lost} in {used.calls} calls, "
                f"and the next could cost ${worst_usd:.4f}.",
                hint="raise --budget-usd and run the same command again: it goes on where it stopped.",
            )
        # The last request under way may have left a rounding error behind, which must not be waited for.
        return self._under_way == 0 or spent + self._reserved + worst_usd <= self._budget_usd

    def settle(self, worst_usd: float, reply: Reply | None, *, may_be_billed: bool) -> None:
        """Replace a reservation by what the answer cost; what nobody knows counts as the worst case.

        Args:
            worst_usd: As it was admitted.
            reply: The answer; None where there was none.
            may_be_billed: Whether the endpoint may charge for it all the same.
        """
        self._under_way -= 1
        self._reserved = self._reserved - worst_usd if self._under_way else 0.0
        used = self.usage
        cost = None if reply is None else reply.cost_usd
        lost = worst_usd if cost is None and (reply is not None or may_be_billed) else 0.0
        self.usage = replace(
            used,
            prompt_tokens=used.prompt_tokens + (reply.prompt_tokens if reply else 0),
            completion_tokens=used.completion_tokens + (reply.completion_tokens if reply else 0),
            usd=used.usd + (cost or 0.0),
            unpriced=used.unpriced + (reply is not None and cost is None),
            lost_usd=used.lost_usd + lost,
        )
        self._settled.set()
        self._settled = asyncio.Event()

    def count(self, *, cached: int = 0, failed: int = 0) -> None:
        """Questions that ended without a new answer."""
        self.usage = replace(self.usage, cached=self.usage.cached + cached, failed=self.usage.failed + failed)
