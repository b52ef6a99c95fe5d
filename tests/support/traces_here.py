"""The routes of traces over a real Ledger, behind the guard and a real HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from raylens_serve import problems
from raylens_serve.guard import Guard
from raylens_serve.label_server import LabelServer
from raylens_serve.ledger import Ledger
from raylens_serve.routes.traces import trace_routes
from raylens_serve.services import LedgerClient, Local
from raylens_serve.settings import Limits

TOKEN = "a-token-of-more-than-sixteen-characters"
SENT = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class Traces:
    """Routes that answer.

    Attributes:
        url: Where.
        http: Asks them, with the token.
        ledger: What they write to.
    """

    url: str
    http: httpx.Client
    ledger: Ledger

    def span(self, span_id: str) -> dict[str, Any]:
        """One span as it is answered."""
        answer = self.http.get(f"/api/v1/spans/{span_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ids(self, **which: str | int) -> list[str]:
        """Ids of the spans that are listed."""
        answer = self.http.get("/api/v1/spans", params=which)
        assert answer.status_code == 200, answer.text
        return [span["span_id"] for span in answer.json()["spans"]]


def trace_app(ledger: Ledger, **options: Any) -> FastAPI:
    """An application of these routes alone."""
    app = FastAPI()
    problems.install(app)
    app.include_router(trace_routes(LedgerClient(Local(ledger)), **options))
    app.add_middleware(Guard, token=TOKEN, limits=Limits())
    return app


@contextmanager
def traces_here(folder: Path, **options: Any) -> Iterator[Traces]:
    """Serve a new workspace in ``folder``; ``options`` are those of the routes."""
    ledger = Ledger(str(folder))
    try:
        with LabelServer(trace_app(ledger, **options)) as server:
            url = server.url.removesuffix("/api")
            with httpx.Client(base_url=url, headers=SENT, trust_env=False) as http:
                yield Traces(url, http, ledger)
    finally:
        asyncio.run(ledger.close())
