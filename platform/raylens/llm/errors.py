"""What can go wrong with an endpoint, told apart by what a caller does about it.

::

    RunError
    ├── EndpointRefusedError        wrong key, no credit, no such model: no call can succeed; stop the run
    ├── EndpointUnavailableError    it kept failing: this call is lost, a later one may succeed  (retryable)
    ├── RequestRefusedError         this one request was not taken; others may be
    │   └── ContextTooLongError     it has more tokens than the model's context; trim it and ask again
    └── BudgetReached               what was allowed to be spent is spent; stop the run, a rerun goes on
"""

from __future__ import annotations

from raylens.errors import RunError


class EndpointRefusedError(RunError):
    """The endpoint takes no call with these settings: 401, 402, 403, 404, a redirect, an empty account."""


class EndpointUnavailableError(RunError):
    """The endpoint did not give a whole answer in all attempts; says what the last one met."""

    retryable = True


class RequestRefusedError(RunError):
    """The endpoint would not take this request: 400, 422, or its content was flagged."""


class ContextTooLongError(RequestRefusedError):
    """Prompt and answer together are longer than the model's context."""


class BudgetReached(RunError):  # noqa: N818  (a limit that was asked for is no fault)
    """The next call could go beyond ``budget_usd`` or ``max_calls``, and was not sent."""
