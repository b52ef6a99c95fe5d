"""An explainer of one's own as an ordinary OpenAI-compatible endpoint, without Ray Serve: for notebooks and tests.

::

    with explainer_endpoint({"model": "raylens/pico"}) as endpoint:
        client = OpenAI(base_url=endpoint.base_url, api_key=endpoint.key)
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

from raylens_serve import problems
from raylens_serve.explainer import Explainer
from raylens_serve.guard import Guard
from raylens_serve.label_server import HOST, LabelServer
from raylens_serve.routes.openai import openai_routes
from raylens_serve.services import Caller, Local
from raylens_serve.settings import ExplainerSettings, Limits


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an explainer answers.

    Attributes:
        base_url: Up to and with ``/v1``.
        model: What to ask for.
        key: What clients must send.
    """

    base_url: str
    model: str
    key: str = field(repr=False)


@contextmanager
def explainer_endpoint(settings: ExplainerSettings | Mapping[str, Any], *, port: int = 0) -> Iterator[Endpoint]:
    """Load a model and answer for it on 127.0.0.1, until the context is left.

    Args:
        settings: :class:`ExplainerSettings`, or its values.
        port: Where; by default a free one.

    Raises:
        InputError: The model cannot be loaded, or the port is taken; see :class:`raylens_serve.explainer.Explainer`.
    """
    explainer, key = Explainer(settings), secrets.token_urlsafe(32)
    try:
        with LabelServer(explainer_app(Local(explainer), key), port) as server:
            yield Endpoint(f"http://{HOST}:{server.port}/v1", explainer.settings.model, key)
    finally:
        explainer.close()


def explainer_app(caller: Caller | None, token: str) -> FastAPI:
    """The endpoint as an ASGI application.

    Args:
        caller: Of an explainer.
        token: What clients must send.
    """
    app = FastAPI(title="raylens explainer", docs_url=None, redoc_url=None)
    problems.install(app)
    app.include_router(openai_routes(caller))
    app.add_middleware(Guard, token=token, limits=Limits())
    return app
