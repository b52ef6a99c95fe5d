"""Errors as HTTP: a status, and one sentence with its remedy."""

from __future__ import annotations

import logging
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.exceptions import HTTPException

from raylens.errors import (
    BusyError,
    DiskFullError,
    HubUnreachableError,
    InputError,
    MismatchError,
    OutOfMemoryError,
    OverloadedError,
    RaylensError,
    RunError,
    StoppedError,
    UnknownNameError,
)

RETRY_S: Final = 2
"""Seconds after which a refused request may be sent again."""

STATUS: Final[dict[type[RaylensError], int]] = {
    UnknownNameError: 404,
    BusyError: 409,
    MismatchError: 422,
    InputError: 422,
    OutOfMemoryError: 507,
    DiskFullError: 507,
    HubUnreachableError: 503,
    OverloadedError: 503,
    StoppedError: 503,
    RunError: 500,
}
"""By class; a subclass that is not named has its parent's."""

_log = logging.getLogger(__name__)


def status_of(error: RaylensError) -> int:
    """The status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(status: int, message: str, hint: str = "", kind: str = "InputError") -> JSONResponse:
    """A refusal as :class:`raylens.api.base.Problem`."""
    headers = {"Retry-After": str(RETRY_S)} if status == 503 else {}
    return JSONResponse({"error": message, "hint": hint, "kind": kind}, status_code=status, headers=headers)


def as_raylens(error: BaseException) -> RaylensError | None:
    """What an error is to a client, wherever it was raised; None where it is a fault of ours."""
    # First of all: Ray makes it a subclass of what it wraps, whose name is no class of ours.
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return as_raylens(error.cause)
    if isinstance(error, RaylensError):
        return error
    if isinstance(error, BackPressureError):
        return OverloadedError("too many requests are waiting.", hint=f"try again in {RETRY_S} s.")
    if isinstance(error, RayActorError) or (isinstance(error, RayError | RayServeException) and not _is_task(error)):
        return OverloadedError(
            "the part of the services that answers this is starting again.", hint=f"try again in {RETRY_S} s."
        )
    return None


def install(app: FastAPI) -> None:
    """Answer every error of an application."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        said = str(first["msg"]).removeprefix("Value error, ")
        return problem(
            422, f"{where or 'the request'} is not valid: {said[:1].lower()}{said[1:]}.", "see /openapi.json."
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return problem(404, f"there is no {request.url.path}.", "see /openapi.json.", "UnknownNameError")
        if error.status_code == 405:
            return problem(405, f"{request.url.path} does not answer {request.method}.", "see /openapi.json.")
        return problem(error.status_code, f"{error.detail}.", "see /openapi.json.")

    @app.exception_handler(Exception)
    async def _any(request: Request, error: Exception) -> Response:
        return answer(request.url.path, error)

    for kind in (RaylensError, RayError, RayServeException):
        app.add_exception_handler(kind, _any)


def answer(path: str, error: BaseException) -> JSONResponse:
    """The response to an error; what is a fault of ours goes to the log, with nothing that was sent."""
    found = as_raylens(error)
    if found is None:
        _log.error("%s failed", path, exc_info=error)
        return problem(500, "this failed.", "the log of the services says how.", "RunError")
    status = status_of(found)
    if status >= 500:
        _log.warning("%s: %s", path, found.message)
    return problem(status, found.message, found.hint, type(found).__name__)


def _is_task(error: BaseException) -> bool:
    return isinstance(error, RayTaskError)
