"""Routers over a workspace in this process: as the gateway includes them, without what stands around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from explained import explanation, score, write
from raylens.ids import FeatureId, SaeId
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from raylens_serve import problems
from raylens_serve.encoder import Encoder
from raylens_serve.services import EncoderClient, Local
from small_cache import CACHE_ID, SAE, make_cache

PICO = SaeId("raylens-pico-res", "layer_3")
PICO_CACHE = "e" * 16

Ask = Callable[..., Any]
"""``ask("features", limit=3)``: the answer's JSON; ``status=404`` where it is not 200."""


def make_browsed(folder: str | Path) -> Workspace:
    """A cache of a small SAE, explained, scored and labelled; and one of an SAE of pico's, under its own name."""
    workspace = Workspace.open(folder, create=True)
    make_cache(workspace, sae=PICO, cache_id=PICO_CACHE)
    cache = make_cache(workspace, mapped=True)
    rows = [explanation(1, "requests for the second word"), explanation(2, "harmful words"), explanation(3, None)]
    scores = [
        score(1, 0.75, ci_low=0.5, ci_high=0.9),
        score(1, 0.25, scorer="surprisal", metric="gain", judge=None),
        score(1, 0.1, control="shuffled"),
        score(2, 0.5),
    ]
    write(cache, "one", rows, scores)
    Labels(workspace).say(FeatureId(SAE, 1), "ann", label="word two", note="look at this")
    assert CACHE_ID in workspace.caches()
    return workspace


def encoder_here(workspace: Workspace) -> EncoderClient:
    """A real one, of pico and two SAEs."""
    models = [{"model": "raylens/pico", "saes": [str(PICO), "raylens-pico-res/layer_1"]}]
    return EncoderClient(Local(Encoder({"workspace": workspace.url, "models": models, "encoder": {"threads": 1}})))


@contextmanager
def asking(routes: APIRouter, prefix: str) -> Iterator[Ask]:
    """Ask the routes; paths are below ``prefix``."""
    app = FastAPI()
    problems.install(app)
    app.include_router(routes)
    with TestClient(app, raise_server_exceptions=False) as client:

        def ask(path: str, *, json: Any = None, status: int = 200, params: Any = None, **query: Any) -> Any:
            method = "GET" if json is None else "POST"
            answer = client.request(method, f"{prefix}/{path}", json=json, params=params or query or None)
            assert answer.status_code == status, answer.text
            return answer.json()

        yield ask
