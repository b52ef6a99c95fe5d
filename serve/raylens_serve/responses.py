"""What any route may answer besides what it is for, for the description of the API."""

from __future__ import annotations

from typing import Any, Final

from raylens.api.base import Problem

_SAID: Final = {
    400: "What was sent cannot be read.",
    401: "The token is missing or wrong.",
    404: "There is no such thing.",
    409: "Somebody else is writing it; try again.",
    413: "What was sent is too large.",
    415: "What was sent is of a type that is not read here.",
    422: "A value is not possible; the sentence says which and what to do.",
    500: "It failed; the log of the services says how.",
    503: "Too much is under way, or a part is starting again; try after `Retry-After` seconds.",
    507: "Memory or disk do not suffice; the hint says what to lower.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: these statuses, and those that every route may answer."""
    return {
        status: {"model": Problem, "description": _SAID[status]}
        for status in sorted({401, 413, 422, 500, 503, *statuses})
    }
