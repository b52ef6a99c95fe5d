"""What can be asked: an endpoint's client and a model on this cluster's own machines, seen as one thing.

Who writes questions takes an :class:`Asker` and does not know which it is. Which one there is depends on
:data:`raylens.llm.settings.ChatSettings`; ``raylens_jobs.askers.open_asker`` makes it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from raylens.chat import Reply, Request
from raylens.llm.spend import Usage


@runtime_checkable
class Asker(Protocol):
    """A chat model; open it with ``async with`` before it is asked."""

    async def __aenter__(self) -> Self:
        """Get ready.

        Raises:
            InputError: With these settings nothing can be asked; says what to change.
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is still under way."""
        ...

    async def ask(self, request: Request) -> Reply:
        """The answer; its text may be empty.

        Raises:
            EndpointRefusedError, InputError, BudgetReached: No further question can be answered: stop.
            EndpointUnavailableError: It failed in every attempt.
            ContextTooLongError: Trim the request and ask again.
            RequestRefusedError: This request is not taken.
        """
        ...

    async def forget(self, request: Request) -> None:
        """Drop the stored answer to ``request``, which was of no use, so that a rerun asks again."""
        ...

    async def losses(self, context: str, text: str) -> NDArray[np.float64]:
        """Loss of each token of ``text`` after ``context``, in nats, float64 ``[tokens]``.

        A loss that the model does not give (a first token with nothing before it) is NaN.

        Raises:
            EndpointRefusedError: Also where this model can be asked, but gives no losses.
            EndpointUnavailableError, ContextTooLongError, RequestRefusedError, BudgetReached: As :meth:`ask`.
        """
        ...

    @property
    def usage(self) -> Usage:
        """Questions, tokens and cost so far."""
        ...
