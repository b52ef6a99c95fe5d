"""``/healthz``, ``/readyz``: does the process live, and do its parts answer?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from fastapi import APIRouter, Response

import raylens
from raylens.api.system import Health, PartReady, Readiness
from raylens_serve.problems import as_raylens
from raylens_serve.responses import problems

_WAIT_S: Final = 5.0

Status = Callable[[], Awaitable[dict[str, Any]]]


def system_routes(workspace_url: str, parts: Mapping[str, Status]) -> APIRouter:
    """The routes.

    Args:
        workspace_url: Shown.
        parts: By name, what asks each how it is.
    """
    routes = APIRouter(tags=["system"])

    @routes.get("/healthz")
    def health() -> Health:
        """The process lives. Answers without a token."""
        return Health()

    @routes.get("/readyz", responses=problems())
    async def ready(response: Response) -> Readiness:
        """Whether every part answers; 503 where one does not."""
        found = dict(zip(parts, await asyncio.gather(*map(_asked, parts.values())), strict=True))
        all_ready = all(part.ready for part in found.values())
        response.status_code = 200 if all_ready else 503
        return Readiness(ready=all_ready, version=raylens.__version__, workspace=workspace_url, parts=found)

    return routes


async def _asked(status: Status) -> PartReady:
    try:
        return PartReady(ready=True, said=await asyncio.wait_for(status(), _WAIT_S))
    except TimeoutError:
        return PartReady(ready=False, said={"error": f"no answer within {_WAIT_S:g} s."})
    except Exception as error:  # whatever keeps it from answering is the answer
        known = as_raylens(error)
        return PartReady(ready=False, said={"error": known.message if known else type(error).__name__})
