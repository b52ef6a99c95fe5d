"""The workbench over HTTP (A3.05, A3.06): under ``/api/v1``, and at the paths of the system it takes the place of."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated, Final

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from raylens.api.edits import Patch, PatchSpec
from raylens.api.workbench import (
    ExportedSae,
    ExportSaeRequest,
    InferenceAnswer,
    InferenceRequest,
    LoadModelRequest,
    LoadSaeRequest,
    PatchRequest,
    SessionAnswer,
    TextPart,
    ToggleRequest,
)
from raylens.errors import InputError
from raylens_serve.problems import answer
from raylens_serve.responses import problems
from raylens_serve.sessions import NO_SESSION, Sessions

HEADER: Final = "X-Raylens-Session"
COOKIE: Final = "raylens_session"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

PatchName = Annotated[str, Path(description="Of a patch.", max_length=64)]
SessionName = Annotated[str | None, Header(alias=HEADER, description="The session; its cookie does as well.")]


def session_of(request: HTTPConnection, named: str | None = None) -> str | None:
    """The session that a request or a socket names, by header or cookie; None where it names none.

    Raises:
        InputError: It is no name of a session.
    """
    found = named or request.headers.get(HEADER) or request.cookies.get(COOKIE)
    if found and not _NAME.fullmatch(found):
        raise InputError("that is no name of a session.", hint="use up to 64 letters, digits, dots, - and _.")
    return found or None


def workbench_routes(sessions: Sessions, prefix: str) -> APIRouter:
    """The routes.

    Args:
        sessions: Do it.
        prefix: ``/api/v1``, or nothing: then they are left out of the description of the API.
    """
    routes = APIRouter(prefix=prefix, tags=["workbench"], include_in_schema=bool(prefix))

    def own(request: Request, named: str | None) -> str:
        found = session_of(request, named)
        if found is None:
            raise InputError(NO_SESSION.message, hint=NO_SESSION.hint)
        return found

    @routes.post("/load-model", responses=problems(404, 507))
    async def load_model(
        request: Request, response: Response, body: LoadModelRequest, session: SessionName = None
    ) -> SessionAnswer:
        """Load a model for a session; a new session where none is named."""
        name = session_of(request, session) or secrets.token_urlsafe(12)
        found = await sessions.load_model(name, body)
        response.set_cookie(COOKIE, name, httponly=True, samesite="strict")
        return found

    @routes.post("/load-sae", responses=problems(404, 507))
    async def load_sae(request: Request, body: LoadSaeRequest, session: SessionName = None) -> SessionAnswer:
        """Attach an SAE to the session's model, once it was held against it."""
        return await sessions.load_sae(own(request, session), body)

    @routes.post("/export-sae", responses=problems(404, 507))
    async def export_sae(request: Request, body: ExportSaeRequest, session: SessionName = None) -> ExportedSae:
        """Write one of the session's SAEs as a folder in SAELens format, where the Encoder runs."""
        return await sessions.export_sae(own(request, session), body)

    @routes.get("/session", responses=problems())
    async def show(request: Request, session: SessionName = None) -> SessionAnswer:
        """The session: its model, SAEs and patches."""
        return await sessions.show(own(request, session))

    @routes.post("/patch", responses=problems(404, 409, 507))
    async def create(request: Request, body: PatchRequest, session: SessionName = None) -> Patch:
        """Make a patch: it holds for this session alone, and at once."""
        return await sessions.create(own(request, session), body)

    @routes.get("/patch", responses=problems())
    async def listing(request: Request, session: SessionName = None) -> list[Patch]:
        """Patches of the session, in the order they were made."""
        return list((await sessions.session(own(request, session))).patches.values())

    @routes.post("/patch/import", responses=problems(404, 409, 507))
    async def take(request: Request, body: PatchSpec, session: SessionName = None) -> Patch:
        """Take a patch that was exported, here or elsewhere."""
        return await sessions.add(own(request, session), body)

    @routes.get("/patch/{patch}", responses=problems(404))
    async def one(request: Request, patch: PatchName, session: SessionName = None) -> Patch:
        """One patch."""
        return await sessions.patch(own(request, session), patch)

    @routes.put("/patch/{patch}", responses=problems(404, 409, 507))
    async def change(request: Request, patch: PatchName, body: PatchRequest, session: SessionName = None) -> Patch:
        """Have a patch do something else: another strength, say. Where ``enabled`` is not named it stays on or off."""
        return await sessions.change(own(request, session), patch, body)

    @routes.post("/patch/{patch}/toggle", responses=problems(404, 409))
    async def toggle(
        request: Request, patch: PatchName, body: ToggleRequest | None = None, session: SessionName = None
    ) -> Patch:
        """Turn a patch on or off, without loading anything again."""
        return await sessions.toggle(own(request, session), patch, body.enabled if body is not None else None)

    @routes.get("/patch/{patch}/export", responses=problems(404))
    async def export(request: Request, patch: PatchName, session: SessionName = None) -> PatchSpec:
        """A patch without its session, strengths as activations: what ``/patch/import`` and the command line take."""
        return (await sessions.patch(own(request, session), patch)).absolute()

    @routes.delete("/patch/{patch}", status_code=204, responses=problems(404, 409))
    async def delete(request: Request, patch: PatchName, session: SessionName = None) -> None:
        """Delete a patch."""
        await sessions.delete(own(request, session), patch)

    stream = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}

    @routes.post("/inference", response_model=InferenceAnswer, responses=problems(404, 507) | stream)
    async def inference(
        request: Request, body: InferenceRequest, session: SessionName = None
    ) -> InferenceAnswer | StreamingResponse:
        """What the session's model says of a text with its patches, and without."""
        name = own(request, session)
        if not body.stream:
            return await sessions.infer(name, body)
        # The first part before anything is sent, so that what is refused has its status.
        head = await sessions.infer(name, body.model_copy(update={"max_new_tokens": 0}))
        parts = sessions.write(name, body) if body.max_new_tokens else _none()
        events = _events(request.url.path, head, parts)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    return routes


def alias_routes(there: APIRouter, paths: Mapping[str, str]) -> APIRouter:
    """Routes of another router once more, at other paths (A3.06).

    Args:
        there: The router.
        paths: New path → the path that it has there.
    """
    known = {
        (route.path, "GET" in (route.methods or ())): route for route in there.routes if isinstance(route, APIRoute)
    }
    routes = APIRouter(include_in_schema=False)
    for new, path in paths.items():
        routes.add_api_route(new, known[path, True].endpoint, methods=["GET"], responses=problems(404))
    return routes


async def _none() -> AsyncGenerator[TextPart]:
    return
    yield


async def _events(path: str, head: InferenceAnswer, parts: AsyncIterator[TextPart]) -> AsyncGenerator[str]:
    assert isinstance(parts, AsyncGenerator)
    async with aclosing(parts):
        yield f"event: prediction\ndata: {head.model_dump_json()}\n\n"
        try:
            async for part in parts:
                yield f"event: text\ndata: {part.model_dump_json()}\n\n"
        except Exception as error:
            yield f"event: error\ndata: {bytes(answer(path, error).body).decode()}\n\n"
            return
        yield "event: end\ndata: {}\n\n"
