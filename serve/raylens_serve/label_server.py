"""A local endpoint that speaks Neuronpedia's API: the workspace's own features, and labels kept from elsewhere.

``GET /api/feature/{model}/{source}/{index}`` answers with a feature's page, always with ``explanations``; 404 and
``{"error": …}`` where nothing is known of it. ``GET /api/sources`` lists what there is, ``GET /api/health`` says
whether it is up. Own features come with what was fetched or imported for them, so that every client sees one list.

It is for programs on this machine: it binds to 127.0.0.1, answers only requests that name a local host (a web page
whose name was pointed here names another), and asks for nothing of anybody. Where ``RAYLENS_API_TOKEN`` is set,
``x-api-key`` must be equal to it.
"""

from __future__ import annotations

import hmac
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Final, Self

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from raylens.catalog import Catalog
from raylens.catalog.lookup import built_in
from raylens.errors import InputError, RaylensError
from raylens.labels.label_store import LabelStore
from raylens.labels.own_features import OwnFeatures
from raylens.store.workspace import Workspace
from raylens_serve import neuronpedia_pages

TOKEN_VARIABLE: Final = "RAYLENS_API_TOKEN"
HOST: Final = "127.0.0.1"

_LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_log = logging.getLogger(__name__)


def label_app(
    workspace: Workspace,
    *,
    catalog: Catalog | None = None,
    given: Mapping[str, str] | None = None,
    token: str | None = None,
) -> FastAPI:
    """The endpoint as an ASGI application.

    Args:
        workspace: What to serve; what is written while it runs is seen.
        catalog: For Neuronpedia ids of SAEs; by default the built-in one.
        given: A config's own mapping, SAE id → ``<model>/<source>``.
        token: What ``x-api-key`` must be; by default that of ``RAYLENS_API_TOKEN``, and no key where that is not set.
    """
    expected = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
    own = OwnFeatures(workspace, catalog or built_in(), given)
    kept = LabelStore(workspace.files)
    app = FastAPI(title="raylens labels", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def _admit(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if (request.url.hostname or "") not in _LOCAL:
            return _error(403, "this endpoint answers requests to 127.0.0.1 and localhost alone.")
        if expected and not hmac.compare_digest(request.headers.get("x-api-key", "").encode(), expected.encode()):
            return _error(401, f"x-api-key is missing or wrong; it is the value of {TOKEN_VARIABLE}.")
        return await go_on(request)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _error(status, "there is no such path." if status == 404 else f"{request.method} is not answered here.")

    @app.exception_handler(RaylensError)
    async def _raylens(request: Request, error: Exception) -> Response:
        _log.warning("%s: %s", request.url.path, error)
        return _error(400 if isinstance(error, InputError) else 500, str(error))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        _log.error("%s failed", request.url.path, exc_info=error)
        return _error(500, "this failed; the server's log says how.")

    @app.get("/api/health")
    def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/api/sources")
    def sources() -> Response:
        return JSONResponse(neuronpedia_pages.sources(own, kept))

    @app.get("/api/feature/{model}/{source}/{index}")
    def feature(model: str, source: str, index: str) -> Response:
        status, body = neuronpedia_pages.feature(own, kept, model, source, index)
        return JSONResponse(body, status_code=status)

    return app


class LabelServer:
    """The endpoint in a thread of this process; a context manager.

    ::

        with LabelServer(label_app(workspace)) as server:
            settings = LabelSettings(base_url=server.url, mode="remote_fallback")

    Args:
        app: What to serve.
        port: Where; by default a free one.

    Raises:
        InputError: The port is taken.
    """

    def __init__(self, app: FastAPI, port: int = 0) -> None:
        try:
            self._socket = socket.create_server((HOST, port), backlog=128)
        except OSError as error:
            raise InputError(
                f"port {port} of {HOST} cannot be used: {(error.strerror or 'it is taken').lower()}.",
                hint="name another one with --port, or 0 for any that is free.",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="label server", daemon=True)

    @property
    def url(self) -> str:
        """What a client's settings call it."""
        return f"http://{HOST}:{self.port}/api"

    def __enter__(self) -> Self:
        # The socket listens already: who connects before the thread is ready waits in its queue.
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def serve(self) -> None:
        """Serve in this thread until Ctrl-C."""
        self._run()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
