"""Calling tools of the MCP server through a client of the ``mcp`` package, and what they have to tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import anyio
import pyarrow as pa
from mcp.client.client import Client
from mcp.types import CallToolResult, TextContent

from raylens import schema
from raylens.ids import SaeId
from raylens.store.findings import Findings
from raylens.store.workspace import CacheStore
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.server import build


@dataclass(frozen=True, slots=True)
class Answered:
    """What one call came to."""

    text: str
    is_error: bool

    @classmethod
    def of(cls, result: Any) -> Self:
        assert isinstance(result, CallToolResult)
        (content,) = result.content
        assert isinstance(content, TextContent)
        return cls(content.text, result.is_error)

    @property
    def document(self) -> dict[str, Any]:
        assert not self.is_error, self.text
        return json.loads(self.text)


Ask = Callable[..., Answered]


def asker(desk: Desk, **more: Any) -> Ask:
    """``ask("get_decision", run="tuned-1f")``: a session with a server in this process, made with ``more``."""

    def ask(tool: str, /, **arguments: Any) -> Answered:
        async def talk() -> Answered:
            async with Client(build(desk, **more)) as client:
                return Answered.of(await client.call_tool(tool, arguments))

        return anyio.run(talk)

    return ask


def explain(cache: CacheStore, sae: SaeId, said: Mapping[int, str]) -> None:
    """Explanations as the lexical explainer leaves them."""
    row = {"run_id": "r1", "explainer": "lexical", "status": "ok", "created_at": datetime(2026, 1, 2, tzinfo=UTC)}
    rows = [{**row, "feature": at, "explanation_id": f"e{at}", "explanation": text} for at, text in said.items()]
    explained = Findings(cache, sae, "explanations", {"explainer": "lexical"})
    explained.begin()
    explained.write(list(said), pa.Table.from_pylist(rows, schema.EXPLANATIONS))
