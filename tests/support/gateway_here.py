"""The gateway over a real Ledger and a real Encoder in this process, behind a real HTTP server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylens.catalog import Catalog
from raylens.catalog.user import find_user_file
from raylens.client import Client
from raylens.store.workspace import Workspace
from raylens_serve.encoder import Encoder
from raylens_serve.explainer import Explainer
from raylens_serve.gateway import Parts, gateway_app
from raylens_serve.job_submission import Jobs
from raylens_serve.label_server import LabelServer
from raylens_serve.ledger import Ledger
from raylens_serve.services import Local
from raylens_serve.settings import ServeSettings

TOKEN = "a-token-of-more-than-sixteen-characters"


class Counted(Local):
    """Counts what is called."""

    def __init__(self, service: Any) -> None:
        super().__init__(service)
        self.calls: Counter[str] = Counter()

    async def call(self, method: str, *arguments: Any, model: str = "") -> Any:
        self.calls[method] += 1
        return await super().call(method, *arguments, model=model)

    def stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        self.calls[method] += 1
        return super().stream(method, *arguments)


@dataclass(frozen=True)
class Here:
    """A gateway that answers.

    Attributes:
        url: Where.
        client: Asks it.
        workspace: What it serves.
        encoder: Counts what the encoder is asked for.
        ledger: Likewise of the ledger.
    """

    url: str
    client: Client
    workspace: Workspace
    encoder: Counted
    ledger: Counted


@contextmanager
def gateway_here(folder: Path, **settings: Any) -> Iterator[Here]:
    """Serve ``folder``; ``settings`` are those of the application."""
    workspace = Workspace.open(folder, create=True)
    told = ServeSettings.of({"workspace": workspace.url, "encoder": {"threads": 1}, **settings})
    ledger = Ledger(workspace.url, told.retention_days)
    said = told.model_dump(mode="json")
    encoder, counted = Counted(Encoder(said)), Counted(ledger)
    explainer = Local(Explainer(said["explainer"])) if told.explainer else None
    catalog = Catalog.load(find_user_file(None, workspace.url))
    app = gateway_app(Parts(told, workspace, counted, encoder, explainer, Jobs(workspace), catalog), TOKEN)
    with LabelServer(app) as server:
        url = server.url.removesuffix("/api")
        with Client(url, TOKEN) as client:
            yield Here(url, client, workspace, encoder, counted)
    asyncio.run(ledger.close())
