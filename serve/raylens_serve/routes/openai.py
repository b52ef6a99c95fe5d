"""``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``: what any client of OpenAI's API can ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from raylens.api.openai import ChatRequest, CompletionRequest
from raylens.api.openai_answers import ChatChunk, ChatCompletion, Completion, ErrorAnswer, Model, Models
from raylens.errors import RaylensError, RunError, UnknownNameError
from raylens_serve.openai_errors import invalid, openai_error, openai_problem, openai_status
from raylens_serve.problems import as_raylens
from raylens_serve.services import Caller

T = TypeVar("T")

NOT_SERVED: Final = UnknownNameError(
    "no explainer is served here.", hint="set explainer in the config, with the model to serve, and start again."
)
CLIENT_GONE: Final = 499
"""Nobody reads it; it stands in logs."""

_EVENTS: Final = "text/event-stream"
_log = logging.getLogger(__name__)


def openai_routes(caller: Caller | None) -> APIRouter:
    """The routes.

    Args:
        caller: Of a :class:`raylens_serve.explainer.Explainer`; None where there is none, which every request is told.
    """
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=_Route)

    @routes.post("/chat/completions", responses=_responses(ChatChunk), response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a chat, whole or as a stream of events."""
        return await _answer(_served(caller), body, request)

    @routes.post("/completions", responses=_responses(Completion), response_model=Completion)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts, or read them for their log-probabilities (`echo`)."""
        return await _answer(_served(caller), body, request)

    @routes.get("/models", responses=_responses())
    async def models() -> Models:
        """What can be asked for as `model`."""
        return await _served(caller).call("models")

    @routes.get("/models/{model:path}", responses=_responses())
    async def model(model: str) -> Model:
        """One of them."""
        found: Models = await _served(caller).call("models")
        for one in found.data:
            if one.id == model:
                return one
        raise UnknownNameError.among("model", model, [one.id for one in found.data])

    return routes


class _Route(APIRoute):
    """Answers errors in OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                return invalid(error.errors())
            except HTTPException as error:
                return openai_problem(error.status_code, f"{error.detail}.")
            except Exception as error:
                known = _known(request.url.path, error)
                said = openai_error(known).error
                return openai_problem(openai_status(known), said.message, param=said.param, code=said.code)

        return handled


def _served(caller: Caller | None) -> Caller:
    if caller is None:
        raise NOT_SERVED
    return caller


async def _answer(caller: Caller, body: ChatRequest | CompletionRequest, request: Request) -> Response:
    try:
        if not body.stream:
            answer: BaseModel = await _unless_gone(request, caller.call("complete", body))
            return Response(answer.model_dump_json(), media_type="application/json")
        chunks = caller.stream("stream", body)
        # Awaited before anything is sent, so that what is refused has its status.
        first = await _unless_gone(request, anext(chunks))
    except _GoneError:
        return Response(status_code=CLIENT_GONE)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(request.url.path, first, chunks), media_type=_EVENTS, headers=headers)


async def _events(path: str, first: BaseModel, chunks: AsyncIterator[BaseModel]) -> AsyncGenerator[str]:
    """Server-sent events; a stream that breaks off says so in its last one."""
    assert isinstance(chunks, AsyncGenerator)
    async with aclosing(chunks):
        yield _event(first.model_dump_json())
        try:
            async for chunk in chunks:
                yield _event(chunk.model_dump_json())
        except Exception as error:
            yield _event(openai_error(_known(path, error)).model_dump_json())
            return
        yield _event("[DONE]")


def _event(data: str) -> str:
    return f"data: {data}\n\n"


class _GoneError(Exception):
    """The client went away."""


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What ``work`` gives; it is cancelled when the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _GoneError
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def _known(path: str, error: Exception) -> RaylensError:
    """What an error is to a client; what is a fault of ours goes to the log, with nothing that was sent."""
    found = as_raylens(error)
    if found is not None:
        return found
    _log.error("%s failed", path, exc_info=error)
    return RunError("this failed.", hint="the log of the services says how.")


def _responses(chunk: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """What may be answered, for the description of the API."""
    said = {
        400: "A value is not possible, or the prompt is longer than the context.",
        401: "The token is missing or wrong.",
        404: "No such model is served.",
        413: "What was sent is too large.",
        500: "It failed; the log of the services says how.",
        503: "Too much is under way; try after `Retry-After` seconds.",
        507: "Memory does not suffice.",
    }
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": text} for status, text in said.items()
    }
    if chunk is not None:
        schema = {"type": "string", "description": f"`data:` lines, each a {chunk.__name__}; the last is `[DONE]`."}
        found[200] = {"content": {_EVENTS: {"schema": schema}}}
    return found
